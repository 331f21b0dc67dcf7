"""Two checkouts of this service, measured by turns: ``python -m load_tests.benchmark --against /path/to/the/other``.

Both run at once, with the same models and the same packages. Each round loads one, then the other, so that what else
the machine does slows both alike. The figure to read is CPU-milliseconds a request of the process tree.
"""

import contextlib
import dataclasses
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from load_tests.benchmark import deployment, payloads
from load_tests.benchmark.errors import BenchmarkError
from load_tests.benchmark.measure import Bodies, check, load
from load_tests.benchmark.peers import onnx_model
from load_tests.benchmark.plan import Step
from load_tests.benchmark.process_tree import cpu_seconds
from load_tests.benchmark.running import Running, running
from load_tests.benchmark.servers import OURS, PROJECT, Line

CONNECTIONS = 64
GRPC_CHANNELS = 4
WARM_UP_SECONDS = 2


def compare(checkouts: Sequence[Path], *, rounds: int, seconds: int, only: Sequence[str], screen: Console) -> None:
    """Measure two checkouts and print the medians and their ratio.

    Args:
        checkouts: the folders, the one that is divided by (the old state) last.
        rounds: how often each is loaded on each line.
        seconds: length of each load.
        only: keys of the lines of ``OURS`` to measure; all of one row if empty.
        screen: where it is printed.

    Raises:
        BenchmarkError: a checkout did not start, or gave a wrong answer. A round with failed requests does not count.
    """
    model = deployment.find()
    models = os.environ.get("MODELS_DIR") or str(PROJECT / "models")
    rows = payloads.table()
    expected = onnx_model.load(model.onnx)(rows)
    lines = [line for line in OURS.lines if (line.key in only if only else not line.rows_only)]
    table = Table("", *(str(checkout) for checkout in checkouts), "ratio", "ratio of each round")
    with contextlib.ExitStack() as stack:
        bodies = Bodies(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="compare-"))), rows)
        targets = []
        for checkout in checkouts:
            settings = {**OURS.environment, "MODELS_DIR": models}
            server = dataclasses.replace(
                OURS, title=str(checkout), folder=checkout, checkout=checkout, environment=settings
            )
            targets.append(stack.enter_context(running(server, Path(sys.executable).parent, model, rows[:1])))
        for line in lines:
            for target in targets:
                check(target, line, rows, expected, 1)
                load(target, line, Step(CONNECTIONS, 1, WARM_UP_SECONDS), bodies, channels=GRPC_CHANNELS)
            measured: list[list[float]] = []
            for number in range(rounds):
                try:
                    figures = [_load(target, line, bodies, seconds) for target in targets]
                except BenchmarkError as error:  # such as requests that were shed on a busy machine
                    screen.print(f"{line.title}, round {number + 1} of {rounds} does not count: {error}", style="red")
                    continue
                measured.append(figures)
                shown = ", ".join(f"{cpu_ms:.4f}" for cpu_ms in figures)
                screen.print(f"{line.title}, round {number + 1} of {rounds}: {shown} CPU-ms a request", style="dim")
            if not measured:
                table.add_row(line.title, *["invalid"] * len(targets), "–", "–")
                continue
            ratios = [first / second for first, second in measured]
            medians = [f"{median(figures):.4f}" for figures in zip(*measured, strict=True)]
            table.add_row(
                line.title, *medians, f"{median(ratios):.3f}", " ".join(f"{one:.2f}" for one in sorted(ratios))
            )
    table.title = f"CPU-ms a request, one row, {CONNECTIONS} callers (gRPC: on {GRPC_CHANNELS} channels); medians"
    screen.print(table)


def _load(target: Running, line: Line, bodies: Bodies, seconds: int) -> float:
    """CPU-milliseconds a request of the server's process tree under load."""
    before = cpu_seconds(target.pid)
    found = load(target, line, Step(CONNECTIONS, 1, seconds), bodies, channels=GRPC_CHANNELS)
    used = cpu_seconds(target.pid) - before
    if found.problem:
        raise BenchmarkError(f"{target.server.title}, {line.title}: {found.problem}.")
    return used * 1000 / found.requests
