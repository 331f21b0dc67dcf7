"""What a soak finds, without a service."""

import asyncio

import psutil

from load_tests.soak import CAPACITY_SECONDS, Callers, Soak


class Scripted(Callers):
    """Traffic of which half was shed and one answer was wrong while the capacity was measured."""

    def __init__(self) -> None:
        self._root = psutil.Process()

    async def _all(self, soak: Soak, seconds: float, rate: float | None) -> None:  # noqa: ARG002 # as its base
        soak.latencies.extend([0.01] * 100)
        if rate is None:
            soak.shed = 50
            soak.wrong["500"] = 1
        await asyncio.sleep(0.05)


def test_the_time_in_which_the_capacity_is_measured_counts_too() -> None:
    said: list[str] = []
    soaked = asyncio.run(Scripted().soak(0.05, 0.7, said.append))
    assert soaked.rate == 0.7 * 50 / CAPACITY_SECONDS, "what was shed is not answered"
    assert "1 answers were 500" in soaked.faults(1)
    assert [line.split(",")[0] for line in said] == ["find the capacity: 5 seconds", "send 7 requests a second"]
