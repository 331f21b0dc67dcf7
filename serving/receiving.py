"""The bytes of HTTP requests that a worker holds while it waits for the rest of them."""

import asyncio

from serving import memory
from serving.errors import Overloaded

STATE = "receiving"
"""Name of the worker's budget in the state of a lifespan, as ASGI has it."""
TRIM_BYTES = 16 * 1024 * 1024
"""As soon as all is given back after so many were taken, the process gives its free memory back too."""
TRIM_SECONDS = 1.0
"""How long after that: those who give back may still refer to it."""


class ReceiveBudget:
    """Bounds the bytes of unfinished requests. Whoever keeps some takes them first, and gives back as many.

    A request that arrives in one piece never asks: so single predictions go on whatever others leave unfinished.

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

    def refusal(self) -> Overloaded:
        """What a caller is told whose bytes do not fit."""
        return Overloaded(
            "The service is receiving too many large requests at a time. Send it again a little later.", retry_after=1
        )
