"""What the benchmark shows while it runs, and its tables."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from load_tests.benchmark import targets
from load_tests.benchmark.results import Failure, Report, Sample
from load_tests.benchmark.servers import Line
from load_tests.benchmark.tables import tables

WIDTH = 200
"""Columns of what is written to a file or a pipe, where no line should be broken."""


class Terminal:
    """Tells people."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        if not self._console.is_terminal:
            self._console.width = WIDTH

    @contextmanager
    def progress(self, seconds: float) -> Iterator["Steps"]:
        """Steps as they happen, beside how long all will take."""
        self._console.print(f"The benchmark takes about {seconds / 60:.0f} min, and set-up the first time.")
        yield Steps(self._console, seconds)

    def error(self, sentence: str) -> None:
        """Why it cannot go on."""
        self._console.print(sentence, style="red", highlight=False, markup=False)

    def report(self, report: Report) -> None:
        """The tables, and the targets."""
        for table in tables(report):
            shown = Table(title=table.title, caption=table.note, title_justify="left", caption_justify="left")
            for index, name in enumerate(table.columns):
                shown.add_column(name, justify="left" if index == 0 or table.words else "right", overflow="fold")
            for row in table.rows:
                shown.add_row(*row)
            self._console.print(shown)
        shown = Table(title="Targets", title_justify="left")
        for name in ("target", "at least", "measured", ""):
            shown.add_column(name, overflow="fold")
        for target in targets.evaluate(report):
            style = {True: "green", False: "red", None: "yellow"}[target.met]
            shown.add_row(target.subject, target.demand, target.measured, target.verdict, style=style)
        self._console.print(shown)
        for failure in report.failures:
            self._console.print(f"{failure.subject}: {failure.reason}", style="red", highlight=False, markup=False)

    def written(self, paths: Sequence[Path]) -> None:
        """Where the reports are."""
        self._console.print("Written: " + ", ".join(str(path) for path in paths), highlight=False, soft_wrap=True)


class Steps:
    """A line for each step, with the time since the start and the time left."""

    def __init__(self, console: Console, seconds: float) -> None:
        self._console = console
        self._seconds = seconds
        self._started = time.monotonic()

    def doing(self, what: str) -> None:
        """Something begins."""
        gone = time.monotonic() - self._started
        self._console.print(f"[{gone:4.0f} s of about {self._seconds:.0f}] {what}", highlight=False, markup=False)

    def measured(self, line: Line, sample: Sample) -> None:
        """A measure is done."""
        problem = sample.load.problem
        self._console.print(
            f"    {line.protocol.name}, {sample.connections} connections, {sample.rows} rows: "
            f"{sample.requests_per_second:,.0f} requests/s, {sample.cpu_ms:.2f} CPU-ms, "
            f"p50 {sample.load.p50_ms:.1f} ms, p99 {sample.load.p99_ms:.1f} ms"
            + (f" INVALID: {problem}" * bool(problem)),
            style="red" if problem else "dim",
            highlight=False,
            markup=False,
        )

    def failed(self, failure: Failure) -> None:
        """Something could not be measured."""
        self._console.print(f"{failure.subject}: {failure.reason}", style="red", highlight=False, markup=False)
