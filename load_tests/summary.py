"""The result of a run: the figures of each user class, as JSON and as a table."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict

MUCH_LATE = 0.25
"""Share of late arrivals above which the intended load was not reached."""
SUMMARY_FILE = Path("reports/load_test.json")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Figures(_Part):
    """The figures of one user class.

    Percentiles are of the response time: from when a request was sent to when its answer was read. What it waited
    before, because no user was free, is no part of them: it is told by ``late_share`` (of the arrivals, those that
    started over 10 ms after they were due) and ``longest_late_ms``. Where these are high, the percentiles are too good
    to be true (coordinated omission).
    """

    requests: int
    failures: int
    failure_rate: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    requests_per_second: float
    late_share: float
    longest_late_ms: float

    @classmethod
    def of_nothing(cls) -> Self:
        """The figures of a class that made no request."""
        return cls(
            requests=0,
            failures=0,
            failure_rate=0,
            p50_ms=0,
            p95_ms=0,
            p99_ms=0,
            requests_per_second=0,
            late_share=0,
            longest_late_ms=0,
        )


class Summary(_Part):
    """A run. ``breaches`` is None if no thresholds were checked."""

    started_at: datetime
    shape: str
    load: str
    seconds: float
    users: dict[str, Figures]
    errors: dict[str, int]
    breaches: list[str] | None

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")

    def table(self) -> str:
        """The summary as text for a terminal."""
        lines = [
            f"{self.shape}, {self.seconds:.0f} s: {self.load}",
            "",
            f"{'':18}{'requests':>10}{'failed':>8}{'req/s':>9}{'p50 ms':>9}{'p95 ms':>9}{'p99 ms':>9}{'late':>8}",
            *(_line(name, figures) for name, figures in self.users.items()),
            *(f"{count} × {error}" for error, count in self.errors.items()),
            "",
            *(_lateness(name, figures) for name, figures in self.users.items() if figures.late_share > MUCH_LATE),
            *self._verdict(),
        ]
        return "\n".join(lines)

    def _verdict(self) -> Sequence[str]:
        if self.breaches is None:
            return ["Thresholds: not checked."]
        if not self.breaches:
            return ["Thresholds: all hold."]
        return ["Thresholds broken:", *(f"  {breach}" for breach in self.breaches)]


def _line(name: str, figures: Figures) -> str:
    return (
        f"{name:18}{figures.requests:10d}{figures.failures:8d}{figures.requests_per_second:9.1f}"
        f"{figures.p50_ms:9.1f}{figures.p95_ms:9.1f}{figures.p99_ms:9.1f}{figures.late_share * 100:7.1f}%"
    )


def _lateness(name: str, figures: Figures) -> str:
    return (
        f"{name}: {figures.late_share:.0%} of the requests started late, up to {figures.longest_late_ms:.0f} ms: its "
        "users are too few, the service too slow, or this machine too busy to send the load."
    )
