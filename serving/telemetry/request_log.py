"""The log line of a request. At DEBUG every request has one; else those that were refused, shed, slow or failed.

A line has no values of features, and so not the sentence of a refusal, which repeats them: it has feature and reason.
Callers could cause lines faster than they can be written, so lines about callers' faults are limited. Metrics count
all.
"""

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from contract.errors import BundleError, InvalidInput
from serving.errors import TooManyAttempts

logger = logging.getLogger(__name__)

LINES_PER_SECOND = 10
"""Maximum lines of one kind per worker, except at DEBUG. The next line that is written tells how many were left out."""
MAXIMUM_REASONS = 10
MAXIMUM_NAME = 60


@dataclass
class RequestLog:
    """The lines of one worker.

    Args:
        slow_seconds: a request that takes longer is logged.
        clock: seconds, from any time on.
    """

    slow_seconds: float
    clock: Callable[[], float] = monotonic
    _limits: dict[str, "_Limit"] = field(default_factory=dict)

    def wants(self, status: int, seconds: float) -> bool:
        """Whether a request may get a line."""
        return status >= 400 or seconds >= self.slow_seconds or logger.isEnabledFor(logging.DEBUG)

    def write(self, status: int, seconds: float, error: BaseException | None, fields: Mapping[str, Any]) -> None:
        """Log a request.

        Args:
            status: of HTTP, or the one that HTTP would have for it.
            seconds: from its arrival to its answer.
            error: what it was refused or failed with, if known.
            fields: of the line; the request id comes by itself.
        """
        level, event = _event(status, error, slow=seconds >= self.slow_seconds)
        extra = {**fields, "duration_ms": round(seconds * 1000, 3)}
        if logging.DEBUG < level < logging.ERROR and not logger.isEnabledFor(logging.DEBUG):
            limit = self._limits.setdefault(event, _Limit())
            if not limit.allows(int(self.clock())):
                return
            left_out = limit.take_left_out()
            if left_out:
                extra["left_out"] = left_out
        if isinstance(error, InvalidInput):
            extra["refused"] = [
                {"feature": feature[:MAXIMUM_NAME], "reason": reason, "rows": rows}
                for (feature, reason), rows in Counter(error.refused).most_common(MAXIMUM_REASONS)
            ]
        elif isinstance(error, BundleError) and status >= BundleError.status:
            extra["error"] = str(error)
        # Our own errors need no stack: if a model raised, the runner has logged it.
        stack = None if error is None or isinstance(error, BundleError) else error
        logger.log(level, event, extra=extra, exc_info=stack)


def _event(status: int, error: BaseException | None, *, slow: bool) -> tuple[int, str]:
    if status >= 500:
        # 503 and 504 come from the load or a restart; any other 5xx is a bug.
        return (logging.WARNING if status in {503, 504} else logging.ERROR), "request failed"
    if status == 429 and not isinstance(error, TooManyAttempts):
        return logging.WARNING, "request shed"
    if status >= 400:
        return logging.INFO, "request refused"
    return (logging.WARNING, "request slow") if slow else (logging.DEBUG, "request answered")


class _Limit:
    """At most ``LINES_PER_SECOND``."""

    def __init__(self) -> None:
        self._second = 0
        self._lines = 0
        self._left_out = 0

    def allows(self, second: int) -> bool:
        """Whether one more line may be written in this second."""
        if second != self._second:
            self._second, self._lines = second, 0
        self._lines += 1
        if self._lines > LINES_PER_SECOND:
            self._left_out += 1
            return False
        return True

    def take_left_out(self) -> int:
        """How many lines were left out since the last call."""
        left_out, self._left_out = self._left_out, 0
        return left_out
