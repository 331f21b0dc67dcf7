"""The bytes of HTTP requests that a worker holds while it waits for the rest of them."""

import asyncio

from serving import memory
from serving.errors import NotReceived

STATE = "receiving"
"""Name of the worker's budget in the state of a lifespan, as ASGI has it."""
TRIM_BYTES = 16 * 1024 * 1024
"""If at least this many bytes were taken, the process returns free memory to the system once all are given back."""
TRIM_SECONDS = 1.0
"""Seconds until then: callers may still refer to the memory."""


class ReceiveBudget:
    """Bounds the bytes of unfinished requests. A reader takes bytes before it keeps them, and gives as many back.

    A request that arrives in one piece needs none, so single predictions go on whatever others leave unfinished.

    Args:
        limit_bytes: maximum bytes taken at a time.

    ``taken`` are the bytes taken now.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.taken = 0
        self._most = 0

    def take(self, n: int) -> bool:
        """Take ``n`` bytes; False, and nothing is taken, if they do not fit into the budget."""
        if self.taken + n > self.limit_bytes:
            return False
        self.taken += n
        self._most = max(self._most, self.taken)
        return True

    def give_back(self, n: int) -> None:
        """Return ``n`` bytes that were taken; on the event loop."""
        self.taken -= n
        if not self.taken and self._most >= TRIM_BYTES:
            self._most = 0
            asyncio.get_running_loop().call_later(TRIM_SECONDS, memory.give_back)

    def refusal(self) -> NotReceived:
        """The error for a caller whose bytes do not fit."""
        return NotReceived(
            "The service is receiving too many large requests at a time. Send it again a little later.", retry_after=1
        )
