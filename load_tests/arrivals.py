"""When requests are due: an arrival process that does not wait for answers (open loop).

The users of one class share one process. Independent processes of many users would add up to a Poisson process
whatever each of them is (the Palm-Khintchine theorem), so bursts would be lost.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

LATE_SECONDS = 0.01
"""A request that starts this much after it was due is late: all users, or the load generator, were busy."""


class Process(StrEnum):
    """How requests arrive. ``CLOSED``: a user sends its next request as soon as it has its answer."""

    CONSTANT = "constant"
    POISSON = "poisson"
    GAMMA = "gamma"
    CLOSED = "closed"


def gaps(process: Process, variation: float, draw: np.random.Generator) -> Callable[[], float]:
    """Return a function that draws the time between two arrivals, in units of its mean.

    Args:
        process: ``CONSTANT`` has the coefficient of variation 0, ``POISSON`` 1, ``GAMMA`` what is given.
        variation: coefficient of variation (deviation by mean) of ``GAMMA``; over 1, requests come in bursts.
        draw: source of randomness.
    """
    if process is Process.POISSON:
        return draw.standard_exponential
    if process is Process.GAMMA:
        # The gamma distribution of shape k and scale 1/k has the mean 1 and the variation 1/√k.
        shape = 1 / variation**2
        return lambda: draw.standard_gamma(shape) / shape
    return lambda: 1.0


@dataclass
class Lateness:
    """How late requests started: shows whether the load generator and the service keep up."""

    arrivals: int = 0
    late: int = 0
    longest_seconds: float = 0.0

    def add(self, seconds: float) -> None:
        """Count one arrival."""
        self.arrivals += 1
        self.late += seconds > LATE_SECONDS
        self.longest_seconds = max(self.longest_seconds, seconds)


class Arrivals:
    """The arrivals of one user class. The next free user takes the next one.

    Nothing is dropped: an arrival that finds no free user is sent late, as soon as there is one.

    Args:
        process: how they arrive.
        rate: arrivals a second for each user that takes part, so that a load shape scales them.
        variation: of ``Process.GAMMA``.
        seed: the same seed draws the same arrivals.
    """

    def __init__(self, process: Process, rate: float, variation: float = 3.0, seed: int = 0) -> None:
        self._closed = process is Process.CLOSED
        self._gap = gaps(process, variation, np.random.default_rng(seed))
        self._rate = rate
        self._users = 0
        self._next = 0.0
        self.lateness = Lateness()

    def join(self, now: float) -> None:
        """Add a user; the first one starts the process at ``now``, in seconds."""
        self._users += 1
        if self._users == 1:
            self._next = now + self._draw()

    def leave(self) -> None:
        """Remove a user."""
        self._users -= 1

    def take(self, now: float) -> float:
        """Time at which the next request is due, on the clock of ``now``; in the past if it is late."""
        if self._closed:
            return now
        due = self._next
        self._next = due + self._draw()
        return due

    def _draw(self) -> float:
        return self._gap() / (self._rate * self._users)
