"""The load generators: wrk for HTTP, and for gRPC lean asyncio clients in processes of their own, bytes in and out.

``python -m load_tests.benchmark.load`` is the gRPC client. It prints one line of JSON, as ``wrk.lua`` does.
"""

import argparse
import asyncio
import multiprocessing
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter

import grpc
import grpc.aio
import numpy as np
from pydantic import BaseModel, ConfigDict

from load_tests.errors import LoadTestError
from load_tests.grpc_protocol import METHOD
from local_service import PROJECT

GRPC_PROCESSES = 2
"""A call costs a Python client as much as the server: one process could not load two workers."""
SCRIPT = Path(__file__).with_name("wrk.lua")
TIMEOUT_SECONDS = 20
"""A slower answer counts as a time-out."""


class LoadResult(BaseModel):
    """What a closed loop measured: each connection sends its next request when it has the answer.

    ``requests`` counts answers of any status in ``seconds``; ``refused`` those that were no success; the errors are of
    connections. Latencies are in milliseconds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    refused: int
    connect_errors: int = 0
    read_errors: int = 0
    write_errors: int = 0
    timeouts: int = 0

    @property
    def problem(self) -> str:
        """Why the figures do not count; empty if they do."""
        counted = {
            "no answer at all": int(self.requests == 0),
            f"of {self.requests} answers were no success": self.refused,
            "connections refused": self.connect_errors,
            "broken reads": self.read_errors,
            "broken writes": self.write_errors,
            "time-outs": self.timeouts,
        }
        return "; ".join(f"{count} {what}" for what, count in counted.items() if count)


PACKAGES = {"wrk": ("wrk", "wrk"), "h2load": ("nghttp2-client", "nghttp2")}
"""The packages of the load generators for HTTP: Debian's and Homebrew's."""


def find(tool: str) -> str:
    """The path of wrk or h2load.

    Raises:
        LoadTestError: it is not installed.
    """
    found = shutil.which(tool)
    if found is None:
        debian, homebrew = PACKAGES[tool]
        raise LoadTestError(
            f"The HTTP load generator {tool} is not on PATH. Install it: `apt-get install {debian}` (Debian, Ubuntu), "
            f"`brew install {homebrew}` (macOS)."
        )
    return found


def write_bodies(path: Path, bodies: Sequence[bytes]) -> None:
    """Write request bodies for the load generators: for each its length, a line break, then its bytes."""
    path.write_bytes(b"".join(b"%d\n%s" % (len(body), body) for body in bodies))


def read_bodies(path: Path) -> list[bytes]:
    """Read what ``write_bodies`` wrote."""
    bodies = []
    with path.open("rb") as file:
        while length := file.readline():
            bodies.append(file.read(int(length)))
    return bodies


def load_http(url: str, bodies: Path, headers: Mapping[str, str], *, connections: int, seconds: int) -> LoadResult:
    """Load a URL with the bodies of a file in turn.

    Raises:
        LoadTestError: wrk failed; contains what it printed.
    """
    flat = [text for pair in headers.items() for text in pair]
    command = [find("wrk"), "--threads", "1", "--connections", str(connections), "--duration", f"{seconds}s"]
    command += ["--timeout", f"{TIMEOUT_SECONDS}s", "--script", str(SCRIPT), url, "--", str(bodies), *flat]
    return _run(command)


def load_grpc(target: str, bodies: Path, *, callers: int, channels: int, seconds: int) -> LoadResult:
    """Load ``host:port`` with the bodies of a file in turn; the callers share the channels (connections) evenly.

    Raises:
        LoadTestError: the client failed; contains what it printed.
    """
    command = [sys.executable, "-m", "load_tests.benchmark.load", target, str(bodies)]
    return _run([*command, f"--callers={callers}", f"--channels={channels}", f"--seconds={seconds}"])


def _run(command: Sequence[str]) -> LoadResult:
    ended = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)  # noqa: S603 # our own
    measured = [line for line in ended.stdout.splitlines() if line.startswith('{"requests"')]
    if ended.returncode or not measured:
        reason = (ended.stderr or ended.stdout).strip()[-500:]
        raise LoadTestError(f"The load generator {Path(command[0]).name} failed ({ended.returncode}): {reason}")
    return LoadResult.model_validate_json(measured[-1])


async def _caller(
    channel: grpc.aio.Channel, number: int, bodies: Sequence[bytes], begin: "asyncio.Future[float]", seconds: float
) -> tuple[list[float], int]:
    """Latencies in seconds and the number of failed calls of one caller."""
    latencies: list[float] = []
    failed = 0
    await asyncio.wait_for(channel.channel_ready(), TIMEOUT_SECONDS)
    call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)
    until = await begin + seconds
    position = number
    while (started := perf_counter()) < until:
        try:
            await call(bodies[position % len(bodies)])
        except grpc.aio.AioRpcError:
            failed += 1
        latencies.append(perf_counter() - started)
        position += 1
    return latencies, failed


async def _callers(
    target: str, bodies: Sequence[bytes], callers: Sequence[int], channels: int, seconds: float, parent: Connection
) -> tuple[list[float], int]:
    begin: asyncio.Future[float] = asyncio.get_running_loop().create_future()
    # Channels with equal options would share one connection.
    options = [[("grpc.use_local_subchannel_pool", 1), ("benchmark.connection", number)] for number in range(channels)]
    opened = [grpc.aio.insecure_channel(target, options=some) for some in options]
    tasks = [
        asyncio.create_task(_caller(opened[index % channels], number, bodies, begin, seconds))
        for index, number in enumerate(callers)
    ]
    # Time to connect; a late caller delays only itself.
    await asyncio.sleep(0.2)
    parent.send("connected")
    await asyncio.to_thread(parent.recv)
    begin.set_result(perf_counter())
    measured = await asyncio.gather(*tasks)
    await asyncio.gather(*(channel.close() for channel in opened))
    return [one for latencies, _ in measured for one in latencies], sum(failed for _, failed in measured)


def _process(
    target: str, bodies: Path, callers: Sequence[int], channels: int, seconds: float, parent: Connection
) -> None:
    parent.send(asyncio.run(_callers(target, read_bodies(bodies), callers, channels, seconds, parent)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Load a gRPC server from several processes and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", help="host:port")
    parser.add_argument("bodies", type=Path, help="file of serialised requests, each after its length and a line break")
    parser.add_argument("--callers", type=int, default=64)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--seconds", type=int, default=5)
    options = parser.parse_args(arguments)
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    count = min(GRPC_PROCESSES, options.channels)
    for index in range(count):
        ours, theirs = context.Pipe()
        callers, channels = (range(index, total, count) for total in (options.callers, options.channels))
        work = (options.target, options.bodies, callers, len(channels), options.seconds, theirs)
        # A daemon: if one of them fails, this process must not wait for the others.
        process = context.Process(target=_process, args=work, daemon=True)
        process.start()
        theirs.close()
        pipes.append(ours)
        processes.append(process)
    for pipe in pipes:
        pipe.recv()
    for pipe in pipes:
        pipe.send("begin")
    measured = [pipe.recv() for pipe in pipes]
    for process in processes:
        process.join()
    latencies = np.concatenate([np.array(one) for one, _ in measured]) * 1000
    p50, p99, most = (*np.percentile(latencies, [50, 99]), latencies.max()) if len(latencies) else (0.0, 0.0, 0.0)
    found = LoadResult(
        requests=len(latencies),
        seconds=options.seconds,
        p50_ms=p50,
        p99_ms=p99,
        max_ms=most,
        refused=sum(failed for _, failed in measured),
    )
    sys.stdout.write(f"{found.model_dump_json()}\n")


if __name__ == "__main__":
    main()
