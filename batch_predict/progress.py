"""How far a run has come: a bar in a terminal, a line now and then in a log."""

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from training import console

LOG_SECONDS = 10.0


class RowProgress:
    """Counts rows that are done, of ``total``; ``before`` of them were done by an earlier run."""

    def __init__(self, total: int, before: int) -> None:
        self._total = total
        self._done = before
        self._new = 0
        self._started = self._told = time.perf_counter()
        screen = Console(file=sys.stderr)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=screen,
            disable=not screen.is_terminal,
        )
        self._terminal = screen.is_terminal
        self._task = self._bar.add_task("rows", total=total, completed=before, rate="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    @property
    def rate(self) -> float:
        """Rows a second, of this run."""
        return self._new / max(time.perf_counter() - self._started, 1e-9)

    def advance(self, rows: int) -> None:
        """So many rows more are done."""
        self._done += rows
        self._new += rows
        self._bar.update(self._task, completed=self._done, rate=f"{self.rate:,.0f} rows/s")
        now = time.perf_counter()
        if not self._terminal and now - self._told >= LOG_SECONDS:
            self._told = now
            console.log.info("%s of %s rows, %s rows/s", f"{self._done:,}", f"{self._total:,}", f"{self.rate:,.0f}")
