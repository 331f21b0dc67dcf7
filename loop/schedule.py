"""Schedules in cron syntax, in UTC."""

from datetime import UTC, datetime

from cronsim import CronSim, CronSimError


def check(expression: str) -> str:
    """Check a cron expression and return it; an empty one means never.

    Raises:
        ValueError: it does not parse.
    """
    if expression:
        try:
            CronSim(expression, datetime(2000, 1, 1, tzinfo=UTC))
        except CronSimError as error:
            raise ValueError(
                f"{expression!r} is no cron expression of five fields, such as 0 3 * * 1: {error}"
            ) from None
    return expression


class Schedule:
    """Tells when something is due.

    Args:
        expression: five fields: minute, hour, day of the month, month, day of the week.
        now: the time of its start.
    """

    def __init__(self, expression: str, now: datetime) -> None:
        self._expression = expression
        self._due = self._next(now)

    def due(self, now: datetime) -> bool:
        """Whether a scheduled time has passed since the last call; missed times count once."""
        if self._due is None or now < self._due:
            return False
        self._due = self._next(now)
        return True

    def _next(self, now: datetime) -> datetime | None:
        return next(CronSim(self._expression, now), None) if self._expression else None
