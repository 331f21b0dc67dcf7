from datetime import UTC, datetime
from pathlib import Path

import pytest

from load_tests.summary import Figures, Summary

FIGURES = Figures(
    requests=1000,
    failures=2,
    failure_rate=0.002,
    p50_ms=2.5,
    p95_ms=12,
    p99_ms=45,
    requests_per_second=41.2,
    late_share=0.05,
    longest_late_ms=31,
)


def summary(late_share: float = 0.05, breaches: list[str] | None = None) -> Summary:
    return Summary(
        started_at=datetime(2026, 1, 1, tzinfo=UTC),
        shape="steady",
        load="40 requests/s of 4 users, poisson arrivals",
        seconds=30.2,
        users={"GrpcUser": FIGURES.model_copy(update={"late_share": late_share})},
        errors={"GrpcUser iris: status INTERNAL instead of OK: ": 2},
        breaches=breaches,
    )


def test_it_is_written_and_read_again(tmp_path: Path) -> None:
    told = summary(breaches=["GrpcUser p99 45 ms > 30 ms"])
    told.write(tmp_path / "new" / "summary.json")
    assert Summary.model_validate_json((tmp_path / "new" / "summary.json").read_bytes()) == told


@pytest.mark.parametrize(
    ("breaches", "verdict"),
    [
        (None, "Thresholds: not checked."),
        ([], "Thresholds: all hold."),
        (["GrpcUser p99 45 ms > 30 ms"], "Thresholds broken:\n  GrpcUser p99 45 ms > 30 ms"),
    ],
)
def test_the_table_has_the_figures_the_errors_and_the_verdict(breaches: list[str] | None, verdict: str) -> None:
    table = summary(breaches=breaches).table()
    assert table.startswith("steady, 30 s: 40 requests/s of 4 users, poisson arrivals\n")
    (line,) = [line for line in table.splitlines() if line.startswith("GrpcUser  ")]
    assert line.split() == ["GrpcUser", "1000", "2", "41.2", "2.5", "12.0", "45.0", "5.0%"]
    assert "2 × GrpcUser iris: status INTERNAL" in table
    assert table.endswith(verdict)


def test_a_load_that_was_not_sent_in_time_is_told() -> None:
    assert "started late" not in summary().table()
    assert "GrpcUser: 84% of the requests started late, up to 31 ms" in summary(late_share=0.84).table()
