"""The bytes of requests that a worker holds while it waits for the rest of them, over HTTP and gRPC together."""


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

    def give_back(self, n: int) -> None:
        """Return ``n`` bytes that were taken."""
        self.taken -= n
