import asyncio

import numpy as np
import pytest

from load_tests.benchmark.batching import offer, poisson, quantile_ms, saturate
from serving.errors import Overloaded


def test_arrivals_are_poisson() -> None:
    times = np.array(list(poisson(rate=1000, seconds=20)))
    assert np.all(np.diff(times) > 0)
    assert len(times) == pytest.approx(20_000, rel=0.05)
    gaps = np.diff(times)
    # Exponential gaps: the deviation is the mean.
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)


async def every_fourth_is_refused(number: int) -> None:
    if number % 4 == 0:
        raise Overloaded("full", retry_after=1)
    await asyncio.sleep(0.01)


def test_the_refused_are_counted_apart() -> None:
    arrivals = asyncio.run(offer(every_fourth_is_refused, rate=400, seconds=1, settle=0.2))
    assert len(arrivals.delays) == pytest.approx(400, rel=0.3)
    assert arrivals.refused == pytest.approx(len(arrivals.delays) / 4, abs=2)
    assert len(arrivals.latencies) + arrivals.refused == len(arrivals.delays)
    assert quantile_ms(arrivals.latencies, 0.5) >= 10


def test_a_busy_loop_does_not_hide_its_delay() -> None:
    """Requests that block the loop for longer than the gap between arrivals: later ones wait for their turn."""

    async def blocking(_: int) -> None:
        until = asyncio.get_running_loop().time() + 0.02
        while asyncio.get_running_loop().time() < until:
            pass

    arrivals = asyncio.run(offer(blocking, rate=100, seconds=0.5))
    assert quantile_ms(arrivals.latencies, 0.99) > 200
    assert quantile_ms(arrivals.delays, 0.99) > 150


def test_an_error_that_is_no_refusal_is_raised() -> None:
    async def broken(_: int) -> None:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        asyncio.run(offer(broken, rate=100, seconds=0.1))


def test_a_closed_loop_counts_what_was_accepted() -> None:
    async def request(_: int) -> None:
        await asyncio.sleep(0.02)

    assert 100 < asyncio.run(saturate(request, callers=10, seconds=0.5)) <= 600
