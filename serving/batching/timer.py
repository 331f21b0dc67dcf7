"""How long a batch will take, learnt from those that ran."""

STALL = 10
"""So many times its prediction a batch teaches at most: one stall of the machine must not refuse callers for long."""
SHORT_GAP = 0.001
"""Seconds that are no stall."""
GAP_WEIGHT = 0.1
"""Of the latest gap in their mean."""


class BatchTimer:
    """Predicts the seconds a batch takes: ``fixed + per_row * rows``, by least squares, the recent weighing more.

    ``gap`` is what passes before a batch that could start does start, in seconds: the event loop has other work too,
    and under load that, not the model, may be what takes the time.
    """

    def __init__(self, decay: float = 0.98) -> None:
        self._decay = decay
        self._weight = self._rows = self._seconds = self._rows_squared = self._product = 0.0
        self.fixed = 0.0
        self.per_row = 0.0
        self.gap = 0.0

    def observe(self, rows: int, seconds: float) -> None:
        """Learn from one batch."""
        decay = self._decay
        if self._weight > 1:
            seconds = min(seconds, STALL * self.predict(rows))
        self._weight = self._weight * decay + 1
        self._rows = self._rows * decay + rows
        self._seconds = self._seconds * decay + seconds
        self._rows_squared = self._rows_squared * decay + rows * rows
        self._product = self._product * decay + rows * seconds
        mean_rows, mean_seconds = self._rows / self._weight, self._seconds / self._weight
        variance = self._rows_squared / self._weight - mean_rows * mean_rows
        if variance < 1e-9 * (1 + mean_rows * mean_rows):
            # All batches had one size: the slope is unknown, and the line through the origin is the cautious guess.
            self.per_row = mean_seconds / mean_rows
        else:
            covariance = self._product / self._weight - mean_rows * mean_seconds
            self.per_row = min(max(covariance / variance, 0.0), mean_seconds / mean_rows)
        self.fixed = mean_seconds - self.per_row * mean_rows

    def observe_gap(self, seconds: float) -> None:
        """Learn from the wait of one batch for the event loop."""
        seconds = min(seconds, STALL * max(self.gap, SHORT_GAP))
        self.gap += (seconds - self.gap) * GAP_WEIGHT

    def predict(self, rows: int) -> float:
        """Seconds for one batch of ``rows``; 0 before the first observation."""
        return self.fixed + self.per_row * rows
