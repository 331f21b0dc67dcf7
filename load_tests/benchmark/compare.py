"""Compare two checkouts of this service: ``python -m load_tests.benchmark --against /path/to/the/other``.

Both run at once, with the same models and packages. Each round loads one, then the other, so that what else the machine
does slows both alike. The figure to read is CPU-milliseconds a request of the process tree.
"""

import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import median

from load_tests.benchmark import processes
from load_tests.benchmark.plan import OURS, Line, Step
from load_tests.benchmark.processes import running
from load_tests.benchmark.report import table
from load_tests.benchmark.runner import Bodies, LoadedServer, deployed_model, models_folder
from load_tests.errors import LoadTestError

CONNECTIONS = 64
GRPC_CHANNELS = 4
WARM_UP_SECONDS = 2


def compare(
    checkouts: Sequence[Path], *, rounds: int, seconds: int, only: Sequence[str], say: Callable[[str], object]
) -> str:
    """Measure two checkouts; return a table of the medians and their ratio.

    Args:
        checkouts: the folders; the second is the denominator of the ratio (the old state).
        rounds: how often each is loaded on each line. A round with failed requests does not count.
        seconds: length of each load.
        only: keys of the lines of ``OURS`` to measure; by default those of one row.
        say: is told each round in a line.

    Raises:
        LoadTestError: a checkout did not start, or gave a wrong answer.
    """
    _, model = deployed_model()
    rows = []
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="compare-"))
        bodies = Bodies(Path(folder), model["onnx"])
        targets = []
        for checkout in checkouts:
            settings = {**OURS.environment, "MODELS_DIR": str(models_folder().resolve())}
            server = replace(OURS, title=str(checkout), folder=checkout, checkout=checkout, environment=settings)
            started = running(server, Path(sys.executable).parent, model, bodies.table[:1])
            targets.append(LoadedServer(stack.enter_context(started), bodies))
        for line in (line for line in OURS.lines if (line.key in only if only else not line.rows_only)):
            for target in targets:
                target.check(line, 1)
                target.load(line, Step(CONNECTIONS, 1, WARM_UP_SECONDS), GRPC_CHANNELS)
            measured = []
            for number in range(rounds):
                what = f"{line.title}, round {number + 1} of {rounds}"
                try:
                    figures = [_cpu_ms(target, line, seconds) for target in targets]
                except LoadTestError as error:  # such as requests that were shed on a busy machine
                    say(f"{what} does not count: {error}")
                    continue
                measured.append(figures)
                say(f"{what}: {', '.join(f'{cpu_ms:.4f}' for cpu_ms in figures)} CPU-ms a request")
            if not measured:
                rows.append((line.title, *["invalid"] * len(targets), "–", "–"))
                continue
            ratios = sorted(first / second for first, second in measured)
            medians = [f"{median(figures):.4f}" for figures in zip(*measured, strict=True)]
            rows.append((line.title, *medians, f"{median(ratios):.3f}", " ".join(f"{ratio:.2f}" for ratio in ratios)))
    title = f"CPU-ms a request, one row, {CONNECTIONS} callers (gRPC: {GRPC_CHANNELS} channels), medians"
    return table(title, ("", *(str(checkout) for checkout in checkouts), "ratio", "ratios of the rounds"), rows)


def _cpu_ms(target: LoadedServer, line: Line, seconds: int) -> float:
    before = processes.cpu_seconds(target.running.pid)
    found = target.load(line, Step(CONNECTIONS, 1, seconds), GRPC_CHANNELS)
    used = processes.cpu_seconds(target.running.pid) - before
    if found.problem:
        raise LoadTestError(f"{target.running.server.title}: {found.problem}.")
    return used * 1000 / found.requests
