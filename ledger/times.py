"""Times: microseconds since 1970 in the database, ISO 8601 in UTC for everyone else."""

import time
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def now_us() -> int:
    """The time, in microseconds."""
    return time.time_ns() // 1000


def iso(microseconds: int) -> str:
    """A time as text, such as ``2026-11-27T03:35:16.123456Z``."""
    return (_EPOCH + timedelta(microseconds=microseconds)).isoformat(timespec="microseconds").replace("+00:00", "Z")


def from_iso(text: str) -> int:
    """A written time in microseconds. Without an offset it is in UTC; a date is its first moment.

    Raises:
        ValueError: it is not a time in ISO 8601.
    """
    time_of_day = datetime.fromisoformat(text)
    if time_of_day.tzinfo is None:
        time_of_day = time_of_day.replace(tzinfo=UTC)
    return (time_of_day - _EPOCH) // timedelta(microseconds=1)
