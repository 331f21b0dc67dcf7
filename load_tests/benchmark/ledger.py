"""What the ledger costs: ``python -m load_tests.benchmark.ledger`` loads this service with ``LEDGER`` off and on.

Both run at once, and each round loads one and then the other, so that what else the machine does slows both alike. The
figure to read is CPU-milliseconds a request, of the workers and of the drainer.
"""

import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import NamedTuple

import psutil

from load_tests.benchmark import command, processes
from load_tests.benchmark.plan import OURS, Line, Server, Step
from load_tests.benchmark.processes import running
from load_tests.benchmark.report import table
from load_tests.benchmark.runner import Bodies, LoadedServer, deployed_model, models_folder
from load_tests.errors import LoadTestError

CHANNELS = 4
"""Of gRPC."""
WARM_UP_SECONDS = 2
SETTLE_SECONDS = 2.0
"""Time for the drainer to write what a load has left in the spool: its cost is part of the load's."""


class Cost(NamedTuple):
    """CPU-milliseconds a request, and requests a second."""

    workers: float
    drainer: float
    rate: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print a table."""
    return command.run(
        "ledger", __doc__, lambda rounds, seconds, say: say(measure(rounds, seconds)), arguments, rounds=6
    )


def measure(rounds: int, seconds: int) -> str:
    """Load each line of this service with one row a request, and binary with 1,000; return a table of medians."""
    with ExitStack() as stack:
        modes = [{**OURS.environment, "LEDGER": mode} for mode in ("off", "on")]
        loaded = start(stack, [replace(OURS, title=f"LEDGER={mode['LEDGER']}", environment=mode) for mode in modes])
        lines = [_measure_line(loaded, line, rounds, seconds) for line in OURS.lines]
    heads = ("", "CPU-ms off", "workers on", "drainer", "all on against off", "rate on against off")
    return table("The ledger's cost: medians of the rounds", heads, lines)


def start(stack: ExitStack, servers: Sequence[Server]) -> list[LoadedServer]:
    """Start variants of this service side by side, with the deployed models."""
    _, model = deployed_model()
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="variants-"))
    bodies = Bodies(Path(folder), model["onnx"])
    places = {"MODELS_DIR": str(models_folder().resolve())}
    started = []
    for server in servers:
        placed = replace(server, environment={**server.environment, **places})
        running_one = running(placed, Path(sys.executable).parent, model, bodies.table[:1])
        started.append(LoadedServer(stack.enter_context(running_one), bodies))
    return started


def compare(
    servers: Sequence[LoadedServer], line: Line, rounds: int, seconds: int
) -> tuple[str, list[tuple[Cost, Cost]]]:
    """Load two servers in turn: what is loaded, and the costs of both in each round."""
    step = Step(8, 1000, seconds) if line.rows_only else Step(64, 1, seconds)
    for server in servers:
        server.check(line, step.rows)
        server.load(line, replace(step, seconds=WARM_UP_SECONDS), CHANNELS)
    pairs = []
    for number in range(rounds):
        order = servers if number % 2 == 0 else servers[::-1]
        costs = {server.running.server.title: _cost(server, line, step) for server in order}
        first, second = (costs[server.running.server.title] for server in servers)
        pairs.append((first, second))
    return f"{line.title}, {step.rows:,} rows" if step.rows > 1 else line.title, pairs


def _measure_line(servers: Sequence[LoadedServer], line: Line, rounds: int, seconds: int) -> tuple[str, ...]:
    title, pairs = compare(servers, line, rounds, seconds)
    off, on = (Cost(*map(median, zip(*some, strict=True))) for some in zip(*pairs, strict=True))
    return (
        title,
        f"{off.workers:.4f}",
        f"{on.workers:.4f}",
        f"{on.drainer:.4f}",
        f"{median((b.workers + b.drainer) / a.workers for a, b in pairs) - 1:+.1%}",
        f"{median(b.rate / a.rate for a, b in pairs) - 1:+.1%}",
    )


def _cost(server: LoadedServer, line: Line, step: Step) -> Cost:
    time.sleep(SETTLE_SECONDS)
    before = _cpu_seconds(server.running.pid)
    found = server.load(line, step, CHANNELS)
    time.sleep(SETTLE_SECONDS)
    after = _cpu_seconds(server.running.pid)
    if found.problem:
        raise LoadTestError(f"{server.running.server.title}: {found.problem}.")
    workers, drainer = ((new - old) * 1000 / found.requests for old, new in zip(before, after, strict=True))
    return Cost(workers, drainer, found.requests / found.seconds)


def _cpu_seconds(pid: int) -> tuple[float, float]:
    """CPU time of a server's processes: all but the drainer, and the drainer."""
    workers = drainer = 0.0
    for process in processes.tree(pid):
        try:
            times, command = process.cpu_times(), process.cmdline()
        except psutil.NoSuchProcess:
            continue
        if "ledger.drainer" in command:
            drainer += times.user + times.system
        else:
            workers += times.user + times.system
    return workers, drainer


if __name__ == "__main__":
    sys.exit(main())
