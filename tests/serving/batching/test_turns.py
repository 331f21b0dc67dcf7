"""Large requests take turns; small ones pass them by."""

import asyncio

import pytest

from serving.batching.turns import AT_ONCE, LARGE_BYTES, Turns
from serving.errors import DeadlineExceeded, Overloaded

LARGE = LARGE_BYTES + 1


class Story:
    """Callers of one ``Turns``, each of which holds its turn until it is let go."""

    def __init__(self, max_latency_ms: float = 60_000, timeout_seconds: float = 60) -> None:
        self.turns = Turns(max_latency_ms, timeout_seconds)
        self.inside: list[int] = []
        self.shed = 0
        self._go: dict[int, asyncio.Event] = {}

    def begin(self, number: int, size: int = LARGE) -> asyncio.Task[None]:
        self._go[number] = asyncio.Event()
        return asyncio.create_task(self._call(number, size))

    def end(self, number: int) -> None:
        self._go[number].set()

    async def _call(self, number: int, size: int) -> None:
        async with self.turns.take(size, self._count):
            self.inside.append(number)
            await self._go[number].wait()
            self.inside.remove(number)

    def _count(self) -> None:
        self.shed += 1


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_few_have_a_turn_at_a_time_in_order_of_arrival() -> None:
    async def story() -> None:
        callers = Story()
        tasks = [callers.begin(number) for number in range(AT_ONCE + 3)]
        await settle()
        assert callers.inside == list(range(AT_ONCE))
        for number in range(AT_ONCE + 3):
            callers.end(number)
            await settle()
        await asyncio.gather(*tasks)
        assert callers.inside == []

    asyncio.run(story())


def test_a_small_body_waits_for_nobody() -> None:
    async def story() -> None:
        callers = Story()
        tasks = [callers.begin(number) for number in range(AT_ONCE + 1)]
        tasks.append(callers.begin(99, LARGE_BYTES))
        await settle()
        assert 99 in callers.inside
        for number in (*range(AT_ONCE + 1), 99):
            callers.end(number)
        await asyncio.gather(*tasks)

    asyncio.run(story())


def test_who_leaves_while_waiting_takes_no_turn() -> None:
    async def story() -> None:
        callers = Story()
        tasks = [callers.begin(number) for number in range(AT_ONCE + 2)]
        await settle()
        tasks[AT_ONCE].cancel()
        callers.end(0)
        await settle()
        assert AT_ONCE + 1 in callers.inside
        for number in range(1, AT_ONCE + 2):
            callers.end(number)
        await asyncio.gather(*tasks, return_exceptions=True)
        tasks = [callers.begin(number) for number in range(AT_ONCE)]
        await settle()
        assert len(callers.inside) == AT_ONCE
        for number in range(AT_ONCE):
            callers.end(number)
        await asyncio.gather(*tasks)

    asyncio.run(story())


def test_a_turn_that_would_come_too_late_is_refused_before_it_is_waited_for() -> None:
    async def story() -> None:
        callers = Story(max_latency_ms=1)
        first = callers.begin(0)
        await settle()
        await asyncio.sleep(0.05)
        callers.end(0)
        await first  # how long a turn takes is known now
        tasks = [callers.begin(number) for number in range(AT_ONCE)]
        await settle()
        with pytest.raises(Overloaded, match=r"would begin \d+ ms, over the limit of 1 ms"):
            callers.turns.check(LARGE, callers._count)
        callers.turns.check(LARGE_BYTES, callers._count)
        assert callers.shed == 1
        for number in range(AT_ONCE):
            callers.end(number)
        await asyncio.gather(*tasks)
        callers.turns.check(LARGE, callers._count)  # an idle worker refuses nothing

    asyncio.run(story())


@pytest.mark.parametrize(
    ("limits", "error"),
    [({"max_latency_ms": 1}, Overloaded), ({"timeout_seconds": 0.01}, DeadlineExceeded)],
    ids=["latency", "time-out"],
)
def test_a_turn_that_came_too_late_is_refused_and_given_on(limits: dict[str, float], error: type[Exception]) -> None:
    async def story() -> None:
        callers = Story(**limits)
        tasks = [callers.begin(number) for number in range(AT_ONCE + 1)]
        await asyncio.sleep(0.05)
        for number in range(AT_ONCE):
            callers.end(number)
        with pytest.raises(error):
            await tasks[-1]
        again = callers.begin(0)
        await settle()
        assert callers.inside == [0]
        callers.end(0)
        await asyncio.gather(*tasks[:-1], again)

    asyncio.run(story())
