"""The count of calls that gRPC's core has dropped: never too many, and all of them in the end."""

from typing import Any

import pytest

from serving.protocol.waiting import Waiting
from serving.settings import Settings
from serving.telemetry import UNKNOWN, series

DETAILS: Any = None


class Core:
    """Calls that arrive, and are taken or dropped."""

    def __init__(self) -> None:
        self.started = self.dropped = 0
        self.waiting = Waiting(Settings(MAX_LATENCY_MS=500), lambda: self.started)
        self.before = self._counter()

    def second(self, arrived: int, taken: int, dropped: int = 0) -> int:
        """A second passes; how many are counted by then."""
        self.started += arrived
        self.dropped += dropped
        for _ in range(taken):
            self.waiting.taken.service(DETAILS)
        self.waiting.count()
        counted = self._counter() - self.before
        assert counted <= self.dropped, "the count runs ahead"
        return counted

    def _counter(self) -> int:
        return int(series.SHED.labels(UNKNOWN)._value.get())


def test_calls_that_only_wait_are_not_counted() -> None:
    core = Core()
    core.second(50, 0)
    for _ in range(20):
        assert core.second(100, 100) == 0
    assert core.second(0, 50) == 0


@pytest.mark.parametrize("load", [5, 60])
def test_dropped_calls_are_all_counted_once_the_load_is_over(load: int) -> None:
    core = Core()
    core.second(100, 0)
    for _ in range(load):
        core.second(1000, 300, 700)
    core.second(0, 100)
    for _ in range(5):
        counted = core.second(0, 0)
    assert counted == core.dropped == 700 * load


def test_dropped_calls_are_counted_while_the_load_goes_on() -> None:
    core = Core()
    for _ in range(30):
        counted = core.second(1000, 300, 700)
    assert counted > 0.8 * core.dropped
