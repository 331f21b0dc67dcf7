import pytest

from load_tests.benchmark.results import Figure, Report
from tests.load_tests.benchmark.reports import report, sample


def test_the_median_of_the_rounds_and_their_extremes() -> None:
    found = report([sample("ours", speed, number=number) for number, speed in enumerate((900, 1200, 1000))])
    assert found.requests_per_second("ours") == Figure(median=1000, low=900, high=1200)


def test_spread_is_half_the_distance_of_the_extremes() -> None:
    assert Figure(median=1000, low=900, high=1200).spread == pytest.approx(0.15)
    assert Figure(median=0, low=0, high=0).spread == 0


def test_cpu_is_of_one_request() -> None:
    figure = report([sample("ours", 2000, cpu_seconds=0.6)]).cpu_ms("ours")
    assert figure is not None
    assert figure.median == pytest.approx(0.3)


def test_rows_per_second_counts_the_rows_of_each_request() -> None:
    figure = report([sample("ours", 50, connections=16, rows=1000)]).rows_per_second("ours", 1000)
    assert figure is not None
    assert figure.median == 50_000


def test_one_round_with_a_refusal_makes_the_figure_invalid() -> None:
    found = report([sample("bentoml", 5000, refused=1), sample("bentoml", 1000, number=1)])
    assert found.requests_per_second("bentoml") is None
    assert found.cpu_ms("bentoml") is None
    assert found.latency("bentoml", "p99_ms") is None
    assert "1 of 5000" in found.problem("bentoml", 64)


def test_the_minute_of_the_stall_test_is_no_round() -> None:
    found = report([sample("ours", 1000), sample("ours", 1, stall=True, p99_ms=50)])
    figure = found.requests_per_second("ours")
    assert figure is not None
    assert figure.median == 1000
    stall = found.stall("ours")
    assert stall is not None
    assert stall.load.max_ms == 100


def test_memory_is_the_most_that_was_seen_of_any_line() -> None:
    found = report([sample("ours", worker_bytes=100), sample("ours-v2", worker_bytes=200), sample("mlserver")])
    assert (found.peak_memory("ours"), found.worker_memory("ours")) == (600, 200)
    assert found.peak_memory("litserve") == 0


def test_a_report_is_read_back() -> None:
    found = report([sample("ours")], ready={"ours": 3.0}, direct=100.0)
    assert Report.model_validate_json(found.model_dump_json()) == found
