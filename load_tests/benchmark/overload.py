"""This service under more load than it can answer: ``python -m load_tests.benchmark.overload``.

One worker has a processor of its own; the load generator has the others. First 64 callers, each of which waits for its
answer before it asks again, find the capacity; ``CONNECTIONS`` callers who do the same show what so many connections
cost. Then these send a multiple of the capacity, whatever they are answered. h2load sends in beats: all connections ask
at the same moment, each again at the next beat after its answer. The figures to read: the share of the capacity that is
still answered, how long answers and refusals take, and how long the first request waits once the load has ended. Last,
rows one by one beside callers with batches of 10,000.
"""

import os
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import httpx
import numpy as np
import psutil
from prometheus_client.parser import text_string_to_metric_families

from contract.dataset import MAXIMUM_BATCH_ROWS
from load_tests.benchmark import command, payloads
from load_tests.benchmark.ledger import start
from load_tests.benchmark.load import find
from load_tests.benchmark.plan import HOUSING, OURS, Line, Step
from load_tests.benchmark.report import table
from load_tests.benchmark.runner import LoadedServer
from load_tests.errors import LoadTestError
from load_tests.grpc_protocol import METHOD

CONNECTIONS, FEW = 4000, 64
CALLS = 100
"""Calls of gRPC at a time, over each of few connections."""
FACTORS = (2, 5, 10)
SINGLE_ROWS = 200
"""Requests a second of one row each, beside batches."""
BATCH_CALLERS = (0, 8, 32)


@dataclass(frozen=True)
class Found:
    """Answers of one load: by status the latencies ``[N]`` in milliseconds, and for how long it lasted."""

    latencies: dict[int, "np.ndarray[tuple[int], np.dtype[np.float64]]"]
    seconds: float

    def rate(self, status: int) -> float:
        """Answers a second."""
        return len(self.latencies.get(status, ())) / self.seconds

    def percentile(self, status: int, share: float) -> str:
        """A percentile of the latency as text; a dash without answers."""
        some = self.latencies.get(status, np.array([]))
        return f"{np.percentile(some, share):,.0f} ms" if len(some) else "—"

    @property
    def others(self) -> str:
        """Answers with other statuses than 200 and 429."""
        found = {status: len(some) for status, some in self.latencies.items() if status not in {200, 429}}
        return ", ".join(f"{count} × {status}" for status, count in sorted(found.items())) or "none"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print three tables."""
    return command.run("overload", __doc__, measure, arguments, rounds=1, seconds=10, tool="h2load")


def measure(rounds: int, seconds: int, say: command.Say) -> None:
    """Each load, as often as there are rounds."""
    ours = replace(OURS, environment={**OURS.environment, "WORKERS": "1", "LEDGER": "off"})
    this, cores = psutil.Process(), sorted(os.sched_getaffinity(0))
    if len(cores) == 1:
        raise LoadTestError("The service needs a processor of its own, and the load generator another one.")
    with ExitStack() as stack:
        stack.callback(this.cpu_affinity, cores)
        # Processes begin where their parent runs.
        this.cpu_affinity(cores[:1])
        (server,) = start(stack, [ours])
        this.cpu_affinity(cores[1:])
        load = Load(server, Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="overload-"))))
        for _ in range(rounds):
            say(_overload(load, seconds))
            say(_overload_grpc(load, seconds))
            say(_beside(load, seconds))


class Load:
    """Loads a server.

    Args:
        server: what is loaded.
        folder: for files; it is empty.
    """

    def __init__(self, server: LoadedServer, folder: Path) -> None:
        self.server = server
        self._folder = folder
        row = payloads.table()[:1]
        message = payloads.V2_GRPC.write(row)[0]
        self._http, self._grpc = folder / "row.json", folder / "row.grpc"
        self._http.write_bytes(payloads.ROW.write(row)[0])
        # A message of gRPC: whether it is compressed, and its length.
        self._grpc.write_bytes(struct.pack(">BI", 0, len(message)) + message)

    def http(self, *, connections: int, seconds: int, rate: float | None = None) -> Found:
        """Load ``/predict`` with a row.

        Args:
            connections: each sends its next request once it has its answer.
            seconds: for how long.
            rate: requests a second, of all connections; None for as many as they can.

        Raises:
            LoadTestError: h2load failed, or nothing was answered.
        """
        words = ["--h1", f"--data={self._http}", "--header=content-type: application/json"]
        return self._run([*words, self.server.running.url(HOUSING)], connections, seconds, rate)

    def grpc(self, *, calls: int, seconds: int, rate: float | None = None) -> tuple[Found, float]:
        """Load ``ModelInfer`` with a row, over ``FEW`` connections of so many calls at a time each; as ``http``.

        Returns:
            Every answer has the status 200 of HTTP, so the second is how many a second were OK, by the service's count.
        """
        words = [f"--data={self._grpc}", "--header=content-type: application/grpc", "--header=te: trailers"]
        words.append(f"--max-concurrent-streams={calls}")
        before, started = self._answered(), time.perf_counter()
        found = self._run([*words, f"http://{self.server.running.grpc_target}{METHOD}"], FEW, seconds, rate)
        return found, (self._answered() - before) / (time.perf_counter() - started)

    def first(self, line: Line) -> str:
        """How long a new client waits for its prediction, now; creating the client takes some 30 ms of it."""
        started = time.perf_counter()
        self.server.running.ask(line, payloads.table()[:1])
        return f"{(time.perf_counter() - started) * 1000:,.0f} ms"

    def _answered(self) -> float:
        text = httpx.get(self.server.running.url("/metrics")).text
        samples = [one for family in text_string_to_metric_families(text) for one in family.samples]
        return sum(
            one.value
            for one in samples
            if one.name == "grpc_server_handled_total" and one.labels["grpc_code"] == grpc.StatusCode.OK.name
        )

    def _run(self, words: Sequence[str], connections: int, seconds: int, rate: float | None) -> Found:
        log = self._folder / "h2load.log"
        log.unlink(missing_ok=True)
        command = [find("h2load"), f"--clients={connections}", f"--duration={seconds}", f"--log-file={log}", *words]
        if rate is not None:
            command.insert(1, f"--rps={rate / connections:.6f}")
        try:
            ended = subprocess.run(  # noqa: S603 # our own command
                command, capture_output=True, text=True, check=False, timeout=seconds + 30
            )
        except subprocess.TimeoutExpired:
            raise LoadTestError(f"h2load did not end within {seconds + 30} seconds.") from None
        if ended.returncode:
            raise LoadTestError(f"h2load failed ({ended.returncode}): {ended.stdout.strip()[-500:]}")
        return read(log, seconds)


def read(log: Path, seconds: int) -> Found:
    """h2load's log: start in microseconds, status, microseconds to the end. The first quarter warms up."""
    content = np.array([line.split() for line in log.read_text().splitlines()], dtype=np.int64)
    if not len(content):
        raise LoadTestError("There was no answer at all.")
    begin = content[:, 0].min() + seconds * 1e6 / 4
    content = content[content[:, 0] >= begin]
    return Found(
        {int(status): content[content[:, 1] == status, 2] / 1000.0 for status in np.unique(content[:, 1])},
        seconds * 3 / 4,
    )


def _overload(load: Load, seconds: int) -> str:
    load.server.check(OURS.lines[0], 1)
    few, many = (load.http(connections=count, seconds=seconds).rate(200) for count in (FEW, CONNECTIONS))
    lines = [
        (f"{count:,} callers, as fast as they can", f"{rate:,.0f}", f"{rate / few:.0%}", *["—"] * 7)
        for count, rate in ((FEW, few), (CONNECTIONS, many))
    ]
    for factor in FACTORS:
        found = load.http(connections=CONNECTIONS, seconds=seconds, rate=factor * few)
        after = load.first(OURS.lines[0])
        lines.append(
            (
                f"{factor} times the capacity",
                f"{found.rate(200):,.0f}",
                f"{found.rate(200) / few:.0%}",
                found.percentile(200, 99),
                f"{found.rate(429):,.0f}",
                *(found.percentile(429, share) for share in (50, 90, 99)),
                found.others,
                after,
            )
        )
    heads = ("", "answers/s", "of the capacity", "p99", "refusals/s", "p50", "p90", "p99", "others", "first afterwards")
    return table(f"/predict, {CONNECTIONS:,} connections, one worker", heads, lines)


def _overload_grpc(load: Load, seconds: int) -> str:
    load.server.check(OURS.lines[2], 1)
    _, capacity = load.grpc(calls=1, seconds=seconds)
    lines = [(f"{FEW} callers, as fast as they can", f"{capacity:,.0f}", "100%", *["—"] * 5)]
    for factor in FACTORS:
        found, rate = load.grpc(calls=CALLS, seconds=seconds, rate=factor * capacity)
        after = load.first(OURS.lines[2])
        lines.append(
            (
                f"{factor} times the capacity",
                f"{rate:,.0f}",
                f"{rate / capacity:.0%}",
                f"{found.rate(200) - rate:,.0f}",
                *(found.percentile(200, share) for share in (50, 99)),
                found.others,
                after,
            )
        )
    heads = ("", "answers/s", "of the capacity", "refusals/s", "p50 of both", "p99", "others", "first afterwards")
    return table(f"gRPC, {FEW} connections of {CALLS} calls, one worker", heads, lines)


def _beside(load: Load, seconds: int) -> str:
    lines = []
    for callers in BATCH_CALLERS:
        with ThreadPoolExecutor() as pool:
            step = Step(callers, MAXIMUM_BATCH_ROWS, seconds + 1)
            batches = pool.submit(load.server.load, OURS.lines[0], step) if callers else None
            found = load.http(connections=FEW, seconds=seconds, rate=SINGLE_ROWS)
            of_batches = ("—", "—")
            if batches is not None:
                told = batches.result()
                answered = (told.requests - told.refused) / told.seconds
                of_batches = (f"{answered * MAXIMUM_BATCH_ROWS:,.0f}", f"{told.refused / told.seconds:,.1f}")
        lines.append(
            (
                f"{callers} callers of batches",
                f"{found.rate(200):,.0f}",
                *(found.percentile(200, share) for share in (50, 99, 100)),
                f"{found.rate(429):,.1f}; {found.others}",
                *of_batches,
            )
        )
    heads = ("", "answers/s", "p50", "p99", "longest", "refused/s; others", "rows/s of batches", "batches refused/s")
    return table(f"Single rows, {SINGLE_ROWS} a second, beside batches of {MAXIMUM_BATCH_ROWS:,} rows", heads, lines)


if __name__ == "__main__":
    sys.exit(main())
