"""The calls of one endpoint or method, counted.

A call is only noted; what was noted is written a moment later, many calls at a time. To write each call's five series
when they change took a tenth of a small prediction.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from prometheus_client import Counter, Gauge, Histogram

from serving.telemetry.bulk import observe_all

FLUSH_SECONDS = 0.1

_waiting: "set[Calls]" = set()
"""Who has noted something since the last flush: what there are of them is bounded by the routes and the models."""


class Calls:
    """The series of one endpoint.

    Args:
        in_progress: its gauge of calls that are being answered.
        answered: its counter and its histogram of seconds, for the status of an answer.
        begun: is told once for all calls that have begun since the last time.
    """

    def __init__(
        self,
        in_progress: Gauge,
        answered: Callable[[Any], tuple[Counter, Histogram]],
        begun: Callable[[], None] = lambda: None,
    ) -> None:
        self._gauge = in_progress
        self._answered = answered
        self._begun = begun
        self._in_progress = 0
        self._any_begun = False
        self._seconds: defaultdict[Any, list[float]] = defaultdict(list)
        self._series: dict[Any, tuple[Counter, Histogram]] = {}

    def begin(self) -> None:
        """A call has come."""
        self._in_progress += 1
        self._any_begun = True
        self._note()

    def end(self, status: Any, seconds: float) -> None:
        """It was answered, with this status, after so many seconds."""
        self._in_progress -= 1
        self._seconds[status].append(seconds)
        self._note()

    def write(self) -> None:
        """Write what was noted."""
        self._gauge.set(self._in_progress)
        if self._any_begun:
            self._begun()
            self._any_begun = False
        for status, seconds in self._seconds.items():
            if not seconds:
                continue
            if status not in self._series:
                self._series[status] = self._answered(status)
            counter, histogram = self._series[status]
            counter.inc(len(seconds))
            observe_all(histogram, seconds)
            seconds.clear()

    def _note(self) -> None:
        if not _waiting:
            asyncio.get_running_loop().call_later(FLUSH_SECONDS, flush)
        _waiting.add(self)


def flush() -> None:
    """Write what all have noted."""
    waiting = list(_waiting)
    # First, so that the next call asks for a flush again, whatever becomes of this one.
    _waiting.clear()
    for calls in waiting:
        calls.write()
