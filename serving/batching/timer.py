"""Predicts how long a batch will take, from the batches that ran."""

STALL = 10
"""An observation counts for at most ten times the prediction: one stall must not refuse callers for long."""
SHORT_GAP = 0.001
"""A gap of this many seconds is never a stall."""
GAP_WEIGHT = 0.1
"""Weight of the latest gap in the moving mean."""


class BatchTimer:
    """Predicts the seconds of a batch as ``fixed + per_row * rows``: least squares, with more weight on recent batches.

    ``gap`` is the mean time in seconds between the moment a batch could start and the moment it does. The event loop
    has other work too, and under load that may take longer than the model.
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
            # All batches had one size, so the slope is unknown. A line through the origin is the cautious guess.
            self.per_row = mean_seconds / mean_rows
        else:
            covariance = self._product / self._weight - mean_rows * mean_seconds
            self.per_row = min(max(covariance / variance, 0.0), mean_seconds / mean_rows)
        self.fixed = mean_seconds - self.per_row * mean_rows

    def observe_gap(self, seconds: float) -> None:
        """Learn from the time that one batch waited for the event loop."""
        seconds = min(seconds, STALL * max(self.gap, SHORT_GAP))
        self.gap += (seconds - self.gap) * GAP_WEIGHT

    def predict(self, rows: int) -> float:
        """Seconds for one batch of ``rows``; 0 before the first observation."""
        return self.fixed + self.per_row * rows
