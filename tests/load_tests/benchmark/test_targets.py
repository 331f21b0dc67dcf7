import pytest

from load_tests.benchmark import targets
from load_tests.benchmark.results import Sample
from load_tests.benchmark.targets import Target
from tests.load_tests.benchmark.reports import met_everywhere, report, sample


def target(samples: list[Sample], subject: str, *, ready: float | None = None, direct: float | None = None) -> Target:
    found = report(samples, ready={"ours": ready} if ready else None, direct=direct)
    (one,) = (one for one in targets.evaluate(found) if one.subject.startswith(subject))
    return one


def test_all_can_be_met() -> None:
    assert {one.subject: one.verdict for one in targets.evaluate(met_everywhere()) if not one.met} == {}


def test_without_measures_none_is_met() -> None:
    assert {one.verdict for one in targets.evaluate(report([]))} == {"not measured"}


@pytest.mark.parametrize(("ours", "met"), [(3000, True), (2999, False)])
def test_a_ratio_of_speeds(ours: int, met: bool) -> None:
    one = target([sample("ours", ours), sample("mlserver", 1000)], "/predict/housing against MLServer REST, requests")
    assert one.met is met
    assert f"({ours:,} against 1,000)" in one.measured


@pytest.mark.parametrize(("ours", "met"), [(0.49, True), (0.51, False)])
def test_a_share_of_cpu(ours: float, met: bool) -> None:
    samples = [sample("ours", cpu_seconds=ours), sample("mlserver", cpu_seconds=1.0)]
    assert target(samples, "/predict/housing against MLServer REST, CPU").met is met


def test_an_invalid_peer_is_no_victory() -> None:
    samples = [sample("ours", 9000), sample("bentoml", 1000, refused=7)]
    assert target(samples, "/predict/housing against BentoML").met is None


@pytest.mark.parametrize(("p99", "met"), [(30.0, True), (30.1, False)])
def test_a_latency(p99: float, met: bool) -> None:
    assert target([sample("ours", p99_ms=p99)], "p99 at 64").met is met


@pytest.mark.parametrize(("p99", "met"), [(50.0, True), (50.5, False)])
def test_the_longest_answer_in_a_minute(p99: float, met: bool) -> None:
    one = target([sample("ours", stall=True, p99_ms=p99), sample("mlserver", stall=True, p99_ms=75)], "longest answer")
    assert one.met is met
    assert "MLServer: 150 ms" in one.measured


@pytest.mark.parametrize(("requests", "met"), [(50, True), (49, False)])
def test_rows_against_onnxruntime_called_directly(requests: int, met: bool) -> None:
    samples = [sample("ours-binary", requests, connections=16, rows=1000)]
    assert target(samples, "rows/s", direct=100_000).met is met


@pytest.mark.parametrize(("size", "met"), [(200_000_000, True), (201_000_000, False)])
def test_memory(size: int, met: bool) -> None:
    assert target([sample("ours", worker_bytes=size)], "memory a worker").met is met


@pytest.mark.parametrize(("seconds", "met"), [(6.0, True), (6.1, False)])
def test_start(seconds: float, met: bool) -> None:
    assert target([], "start to", ready=seconds).met is met
