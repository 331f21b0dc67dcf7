"""Reads the messages of gRPC, few at a time, so that unfinished messages do not fill the memory.

gRPC's core takes in 64 kB of a message until somebody asks for it, and then all of it.
"""

import asyncio
from collections import deque
from time import perf_counter

import grpc.aio

from contract.errors import InvalidInput
from serving.errors import NotReceived

RECEIVING_BYTES = 64 * 1024 * 1024
"""Maximum bytes of messages that a worker takes in at a time."""
PATIENCE_SECONDS = 0.1
"""Maximum seconds for a message to arrive while others wait; 4 MB take a few milliseconds."""
_LATE = "the message is late"
"""Message that marks our own cancellation."""


class Receiver:
    """Reads the messages of one worker.

    Args:
        maximum_bytes: of one message.
    """

    def __init__(self, maximum_bytes: int) -> None:
        self._limit = max(RECEIVING_BYTES // maximum_bytes, 1)
        self._reading: dict[asyncio.Task[None], float] = {}
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    async def read(self, context: "grpc.aio.ServicerContext[bytes, bytes]") -> bytes:
        """The message of a call.

        Raises:
            InvalidInput: the call ended without one.
            NotReceived: it has not arrived after ``PATIENCE_SECONDS``, and others wait.
        """
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a message is read outside of a task")
        if len(self._reading) >= self._limit:
            await self._wait()
        self._reading[task] = perf_counter()
        try:
            message = await context.read()
        except asyncio.CancelledError as error:
            if error.args != (_LATE,):
                raise
            task.uncancel()
            raise NotReceived(
                f"The message did not arrive within {PATIENCE_SECONDS:g} seconds, and others wait.", 1
            ) from None
        finally:
            del self._reading[task]
            if self._waiting:
                self._let_in()
        if not isinstance(message, bytes):
            raise InvalidInput("The call has no message.")
        return message

    async def _wait(self) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        if self._timer is None:
            self._watch()
        try:
            await turn
        except asyncio.CancelledError:
            if turn in self._waiting:
                self._waiting.remove(turn)
            raise

    def _let_in(self) -> None:
        free = self._limit - len(self._reading)
        while self._waiting and free > 0:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                free -= 1

    def _watch(self) -> None:
        """While others wait: give up the messages that are late."""
        self._timer = None
        if not self._waiting:
            return
        now = perf_counter()
        for task, started in self._reading.items():
            if started <= now - PATIENCE_SECONDS:
                task.cancel(_LATE)
        self._timer = asyncio.get_running_loop().call_later(PATIENCE_SECONDS / 2, self._watch)
