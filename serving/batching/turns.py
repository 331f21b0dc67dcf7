"""Large requests take turns: few at a time are parsed, run and answered, so that they fit into memory.

The others wait with their bodies unparsed, in order of arrival. Small requests overtake them.
"""

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import perf_counter

from serving import memory
from serving.errors import DeadlineExceeded, Overloaded

LARGE_BYTES = 64 * 1024
"""A body up to this size needs no turn: parsing takes at most 5 ms, whatever it holds."""
AT_ONCE = 2
"""One is parsed while another is in the model."""
GIVE_BACK_SECONDS = 1.0
WEIGHT = 0.2
"""Weight of the latest turn in the moving mean."""


class Turns:
    """The turns of one worker.

    Args:
        max_latency_ms: a request is refused before it is parsed if its turn comes later, or is estimated to.
        timeout_seconds: maximum time a request waits.
    """

    def __init__(self, max_latency_ms: float, timeout_seconds: float) -> None:
        self._max_latency = max_latency_ms / 1000
        self._timeout = timeout_seconds
        self._running = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._bytes = 0
        self._seconds_per_byte = 0.0
        self._giving_back = False

    def check(self, size: int, shed: Callable[[], None]) -> None:
        """Refuse a body of this size if its turn would come too late.

        Args:
            size: in bytes.
            shed: is called if it is refused.

        Raises:
            Overloaded: tells when its turn would be.
        """
        if size <= LARGE_BYTES:
            return
        self._give_back_later()
        wait = self._bytes * self._seconds_per_byte
        if self._running >= AT_ONCE and wait > self._max_latency:
            shed()
            raise self._overloaded("would begin", wait)

    @asynccontextmanager
    async def take(self, size: int, shed: Callable[[], None]) -> AsyncIterator[None]:
        """Wait for a turn, and hold it for the length of the block. Small bodies need none.

        Args:
            size: of the body, in bytes.
            shed: is called if it is refused.

        Raises:
            Overloaded: its turn would come, or came, too late.
            DeadlineExceeded: its turn did not come within ``timeout_seconds``.
        """
        if size <= LARGE_BYTES:
            yield
            return
        self.check(size, shed)
        self._bytes += size
        try:
            if self._running >= AT_ONCE:
                await self._wait(shed)
            else:
                self._running += 1
            started = perf_counter()
            try:
                yield
            finally:
                self._learn(size, perf_counter() - started)
                self._pass_on()
        finally:
            self._bytes -= size

    async def _wait(self, shed: Callable[[], None]) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        arrived = perf_counter()
        try:
            async with asyncio.timeout(self._timeout):
                await turn
        except (TimeoutError, asyncio.CancelledError) as error:
            if turn in self._waiting:
                self._waiting.remove(turn)
            elif not turn.cancelled():
                self._pass_on()
            if isinstance(error, TimeoutError):
                raise DeadlineExceeded(f"There was no prediction within {self._timeout:g} seconds.") from None
            raise
        waited = perf_counter() - arrived
        if waited > self._max_latency:
            self._pass_on()
            shed()
            raise self._overloaded("has waited", waited)

    def _pass_on(self) -> None:
        """Give a turn that is over to the next who waits."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():  # a caller that was cancelled a moment ago
                turn.set_result(None)
                return
        self._running -= 1

    def _give_back_later(self) -> None:
        """Give memory back once a second while large bodies come, and once after the last."""
        if not self._giving_back:
            self._giving_back = True
            asyncio.get_running_loop().call_later(GIVE_BACK_SECONDS, self._give_back)

    def _give_back(self) -> None:
        self._giving_back = False
        asyncio.get_running_loop().run_in_executor(None, memory.give_back)

    def _learn(self, size: int, seconds: float) -> None:
        latest = seconds / size / self._running
        self._seconds_per_byte += (latest - self._seconds_per_byte) * (WEIGHT if self._seconds_per_byte else 1)

    def _overloaded(self, what: str, seconds: float) -> Overloaded:
        return Overloaded(
            f"The service is overloaded with large requests: this one {what} {seconds * 1000:.0f} ms, "
            f"over the limit of {self._max_latency * 1000:.0f} ms; send fewer rows at a time.",
            retry_after=math.ceil(seconds),
        )
