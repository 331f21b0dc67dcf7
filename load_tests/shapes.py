"""Load shapes: the number of users over time."""

from enum import StrEnum
from math import ceil


class Shape(StrEnum):
    """A load over time."""

    STEADY = "steady"
    RAMP = "ramp"
    SPIKE = "spike"
    SOAK = "soak"


RAMP_END = 0.8
"""Share of a ramp's time after which all users have started."""
SPIKE_BASE = 0.25
"""Share of the users outside the spike."""
SPIKE_START, SPIKE_END = 0.4, 0.6
SOAK_RAMP_END = 0.05
"""Share of a soak's time after which all users have started; a soak is meant to be long."""


def users_at(shape: Shape, elapsed: float, duration: float, peak: int) -> int | None:
    """The users at a time.

    Args:
        shape: ``STEADY`` has all users all the time; ``RAMP`` grows in a line and then holds; ``SPIKE`` has a quarter
            of them, and all for the fifth in the middle; ``SOAK`` grows for a twentieth and then holds.
        elapsed, duration: seconds since the start, and of the whole.
        peak: the most users.

    Returns:
        at least 1; None when it is over.
    """
    if elapsed >= duration:
        return None
    share = elapsed / duration
    match shape:
        case Shape.STEADY:
            height = 1.0
        case Shape.RAMP:
            height = share / RAMP_END
        case Shape.SPIKE:
            height = 1.0 if SPIKE_START <= share < SPIKE_END else SPIKE_BASE
        case Shape.SOAK:
            height = share / SOAK_RAMP_END
    return max(1, min(peak, ceil(peak * height)))
