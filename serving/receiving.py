"""The bytes of requests that a worker holds while it waits for the rest of them, over HTTP and gRPC together."""

from serving.errors import Overloaded

STATE = "receiving"
"""Name of the worker's budget in the state of a lifespan, as ASGI has it."""


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

    def take(self, n: int) -> bool:
        """Take ``n`` bytes; False, and nothing is taken, if they do not fit into the budget."""
        if self.taken + n > self.limit_bytes:
            return False
        self.taken += n
        return True

    def refusal(self) -> Overloaded:
        """What a caller is told whose bytes do not fit."""
        return Overloaded(
            "The service is receiving too many large requests at a time. Send it again a little later.", retry_after=1
        )

    def give_back(self, n: int) -> None:
        """Return ``n`` bytes that were taken."""
        self.taken -= n
