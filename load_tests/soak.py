"""A soak: hours of mixed traffic at a share of the capacity, while memory, descriptors and latency are watched.

``python -m load_tests.soak [--minutes 20] [--share 0.7]`` starts a service of its own, finds its capacity in a closed
loop, and then sends at a constant rate: rows, the protocol, batches and mistakes over HTTP, and rows over gRPC. Each
answer is checked. The exit status is 1 if one was wrong, if memory or descriptors grow, or if the 99th percentile of
the latency, from the time at which a request was due, is over ``--p99-ms``.
"""

import argparse
import asyncio
import itertools
import sys
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

import grpc
import grpc.aio
import httpx
import numpy as np
import psutil
from open_inference.grpc import protocol as pb

from contract import DATASETS
from contract.dataset import Dataset
from contract.table import FloatMatrix
from load_tests.errors import LoadTestError
from load_tests.grpc_protocol import METHOD, infer_request
from load_tests.http_protocols import Batch, HttpRequest, InferJson, SingleRow
from local_service import free_port, running_service

CONNECTIONS, CHANNELS = 24, 4
"""Callers over HTTP and over gRPC."""
BATCH_ROWS = 200
CAPACITY_SECONDS = 5.0
SAMPLES = 120
"""How often memory and descriptors are looked at."""
WARM_UP = 0.25
"""Share of the time after which growth counts: until then, pools and caches fill."""
GROWTH, GROWTH_BYTES = 1.05, 16 * 2**20
"""Memory grows if the mean of the last quarter is over that of the second one by both."""
DESCRIPTORS = 10
"""Descriptors grow if there are so many more at the end than after the warm-up."""
TIMEOUT_SECONDS = 20.0
SHED = 429
MB = 2**20


@dataclass(frozen=True)
class Ask:
    """A request over HTTP, ready to be sent; the status that is due, and what the answer contains."""

    content: bytes
    status: int
    contains: bytes


@dataclass(frozen=True)
class Sample:
    """Of all processes of the service, after so many seconds."""

    seconds: float
    memory: int
    descriptors: int


@dataclass
class Soak:
    """What has happened.

    ``latencies`` are in seconds, from the time at which a request was due. ``wrong`` counts answers that were not due,
    by what they were.
    """

    rate: float = 0.0
    seconds: float = 0.0
    latencies: "array[float]" = field(default_factory=lambda: array("f"))
    shed: int = 0
    wrong: Counter[str] = field(default_factory=Counter)
    samples: list[Sample] = field(default_factory=list)

    @property
    def p99(self) -> float:
        """In seconds."""
        return float(np.quantile(self.latencies, 0.99)) if self.latencies else 0.0

    @property
    def slope(self) -> float:
        """By how many bytes an hour the memory grows after the warm-up, by least squares."""
        settled = self._settled()
        if len(settled) < 2:
            return 0.0
        return float(np.polyfit([one.seconds for one in settled], [one.memory for one in settled], 1)[0]) * 3600

    def faults(self, p99_limit: float) -> list[str]:
        """What does not hold, a sentence each."""
        found = [f"{count} answers were {what}" for what, count in self.wrong.items()]
        settled = self._settled()
        third = max(len(settled) // 3, 1)
        before, after = (np.mean([one.memory for one in part]) for part in (settled[:third], settled[-third:]))
        if after > max(before * GROWTH, before + GROWTH_BYTES):
            found.append(f"the memory grew from {before / MB:.0f} to {after / MB:.0f} MB")
        grown = settled[-1].descriptors - settled[0].descriptors
        if grown > DESCRIPTORS:
            found.append(f"there are {grown} more descriptors")
        if self.p99 > p99_limit:
            found.append(f"the 99th percentile is {self.p99 * 1000:.0f} ms, over {p99_limit * 1000:.0f} ms")
        return found

    def text(self) -> str:
        """The figures, a line each."""
        first, last = self.samples[0], self.samples[-1]
        lines = {
            "requests": f"{len(self.latencies):,} in {self.seconds:.0f} s, {self.rate:,.0f} a second",
            "shed": f"{self.shed:,}",
            "wrong": f"{sum(self.wrong.values()):,}",
            "latency": ", ".join(
                f"{name} {np.quantile(self.latencies, share) * 1000:.1f} ms"
                for name, share in (("median", 0.5), ("p99", 0.99), ("p99.9", 0.999))
            ),
            "memory": f"{first.memory / MB:.0f} MB, then {last.memory / MB:.0f} MB; {self.slope / MB:+.1f} MB an hour",
            "descriptors": f"{first.descriptors}, then {last.descriptors}",
        }
        return "\n".join(f"{name:<12} {text}" for name, text in lines.items())

    def _settled(self) -> list[Sample]:
        return [one for one in self.samples if one.seconds >= WARM_UP * self.seconds]


class Callers:
    """Sends the traffic, in an event loop of its own.

    Args:
        url, grpc_target: where the service is.
        pid: the root of its processes.
    """

    def __init__(self, url: str, grpc_target: str, pid: int) -> None:
        self._address = urlsplit(url)
        self._target = grpc_target
        self._root = psutil.Process(pid)
        self._asks = _asks(url)
        self._message, self._expected = _call(grpc_target)

    async def soak(self, seconds: float, share: float, say: Callable[[str], object] = str) -> Soak:
        """Find the capacity, and send a share of it for so long. ``say`` is told every minute how it goes."""
        say(f"find the capacity: {CAPACITY_SECONDS:g} seconds")
        found = Soak()
        await self._all(found, CAPACITY_SECONDS, None)
        capacity = (len(found.latencies) - found.shed) / CAPACITY_SECONDS
        soaked = Soak(rate=share * capacity, seconds=seconds, wrong=found.wrong)
        say(f"send {soaked.rate:,.0f} requests a second, {share:.0%} of the capacity, for {seconds / 60:g} minutes")
        watching = asyncio.create_task(self._watch(soaked, say))
        await self._all(soaked, seconds, soaked.rate)
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
        return soaked

    async def _all(self, soak: Soak, seconds: float, rate: float | None) -> None:
        """Send for so long: at this rate together, or each as soon as it has its answer."""
        start = perf_counter()
        callers = CONNECTIONS + CHANNELS
        gap = 0.0 if rate is None else callers / rate
        sent = []
        for number in range(callers):
            due = itertools.count(start + gap * number / callers, gap)
            work = self._over_http if number < CONNECTIONS else self._over_grpc
            sent.append(work(soak, due, start + seconds, number))
        await asyncio.gather(*sent)

    async def _over_http(self, soak: Soak, due: "itertools.count[float]", until: float, number: int) -> None:
        asks = itertools.cycle(self._asks[number % len(self._asks) :] + self._asks[: number % len(self._asks)])
        reader, writer = await self._connect()
        for at, ask in zip(due, asks, strict=False):
            begun = await _until_due(at, until)
            if begun is None:
                break
            writer.write(ask.content)
            try:
                async with asyncio.timeout(TIMEOUT_SECONDS):
                    head = await reader.readuntil(b"\r\n\r\n")
                    length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
                    body = await reader.readexactly(length)
            except (TimeoutError, ConnectionError, asyncio.IncompleteReadError) as error:
                soak.wrong[f"none: {type(error).__name__}"] += 1
                writer.close()
                reader, writer = await self._connect()
                continue
            status = int(head[9:12])
            soak.latencies.append(perf_counter() - begun)
            if status == SHED:
                soak.shed += 1
            elif status != ask.status or ask.contains not in body:
                soak.wrong[f"{status} {body[:100]!r}"] += 1
        writer.close()
        await writer.wait_closed()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self._address.hostname, self._address.port)

    async def _over_grpc(self, soak: Soak, due: "itertools.count[float]", until: float, _: int) -> None:
        async with grpc.aio.insecure_channel(self._target, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            infer: Any = channel.unary_unary(METHOD, response_deserializer=pb.ModelInferResponse.FromString)
            for at in due:
                begun = await _until_due(at, until)
                if begun is None:
                    break
                try:
                    answer = await infer(self._message, timeout=TIMEOUT_SECONDS)
                except grpc.aio.AioRpcError as error:
                    if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                        soak.shed += 1
                    else:
                        soak.wrong[f"{error.code().name} {error.details()}"] += 1
                else:
                    if _predicted(answer) != self._expected:
                        soak.wrong["another prediction over gRPC"] += 1
                soak.latencies.append(perf_counter() - begun)

    async def _watch(self, soak: Soak, say: Callable[[str], object]) -> None:
        start, told = perf_counter(), 0
        while True:
            memory = descriptors = 0
            for process in [self._root, *self._root.children(recursive=True)]:
                with suppress(psutil.NoSuchProcess):
                    memory += process.memory_info().rss
                    descriptors += process.num_fds()
            elapsed = perf_counter() - start
            soak.samples.append(Sample(elapsed, memory, descriptors))
            if int(elapsed / 60) > told:
                told = int(elapsed / 60)
                wrong = sum(soak.wrong.values())
                say(f"{told} min: {len(soak.latencies):,} requests, {wrong} wrong, {memory / MB:.0f} MB")
            await asyncio.sleep(soak.seconds / SAMPLES)


async def _until_due(at: float, until: float) -> float | None:
    """Wait until a request is due; the time from which its latency counts, or None if the soak is over by then."""
    now = perf_counter()
    if now >= until or at >= until:
        return None
    if at > now:
        await asyncio.sleep(at - now)
    return at


def _asks(url: str) -> list[Ask]:
    """The traffic over HTTP: what comes back to good requests is asked first, and must stay the same."""
    asks = []
    with httpx.Client(base_url=url, timeout=60) as client:

        def ask(request: HttpRequest, key: str, status: int = 200) -> Ask:
            length = len(request.body)
            head = (
                f"POST {request.path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {length}"
            )
            answer = client.post(request.path, content=request.body, headers=request.headers)
            if answer.status_code != status:
                raise LoadTestError(f"{request.path} answers {answer.status_code}: {answer.text[:200]}")
            text = answer.text
            return Ask(f"{head}\r\n\r\n".encode() + request.body, status, text[text.index(f'"{key}"') :].encode()[:60])

        for dataset in DATASETS.values():
            example = _example(dataset)
            single = SingleRow().request(dataset, example)
            row = ask(single, "prediction")
            batch = ask(Batch().request(dataset, np.repeat(example, BATCH_ROWS, axis=0)), "predictions")
            infer = ask(InferJson().request(dataset, example), "outputs")
            mistake = ask(replace(single, body=b'{"nothing": 1}'), "error", 400)
            asks += [*[row] * 7, infer, infer, batch, mistake]
    return asks


def _example(dataset: Dataset) -> FloatMatrix:
    """The row of the documentation: ``[1, F]``."""
    return np.array([dataset.encode(dataset.example)], dtype=np.float64)


def _call(target: str) -> tuple[bytes, object]:
    """A message of gRPC, and the outputs that are due."""
    dataset = next(iter(DATASETS.values()))
    message = infer_request(dataset, _example(dataset)).SerializeToString()
    with grpc.insecure_channel(target) as channel:
        infer: Any = channel.unary_unary(METHOD, response_deserializer=pb.ModelInferResponse.FromString)
        return message, _predicted(infer(message, timeout=60))


def _predicted(answer: pb.ModelInferResponse) -> object:
    """The outputs of an answer, and their values."""
    return list(answer.outputs), list(answer.raw_output_contents)


def main(arguments: Sequence[str] | None = None) -> int:
    """Soak a service of its own, and print the figures."""
    parser = argparse.ArgumentParser(prog="python -m load_tests.soak", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=20.0, help="how long (default: %(default)s)")
    parser.add_argument("--share", type=float, default=0.7, help="of the capacity (default: %(default)s)")
    parser.add_argument("--p99-ms", type=float, default=100.0, help="limit of the latency (default: %(default)s)")
    options = parser.parse_args(arguments)
    grpc_port = free_port()
    try:
        with running_service(environment={"GRPC_PORT": str(grpc_port)}) as url:
            (root,) = psutil.Process().children()
            callers = Callers(url, f"127.0.0.1:{grpc_port}", root.pid)
            say = partial(print, flush=True)
            soaked = asyncio.run(callers.soak(options.minutes * 60, options.share, say))
    except (LoadTestError, httpx.HTTPError, grpc.RpcError, OSError) as error:
        sys.exit(f"The service cannot be soaked: {error}")
    print(soaked.text())  # noqa: T201 - the report
    faults = soaked.faults(options.p99_ms / 1000)
    for fault in faults:
        print(f"Fault: {fault}.")  # noqa: T201
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
