import pytest

from load_tests.benchmark.result import Demand, Result, Sample
from tests.load_tests.benchmark.made_up import met_everywhere, result, sample


def target(subject: str, *samples: Sample, ready: float | None = None, direct: float | None = None) -> Demand:
    found = result(*samples, ready=ready, direct=direct)
    (one,) = (one for one in found.targets if one.subject.startswith(subject))
    return one


def test_figures_are_medians_of_the_rounds() -> None:
    rounds = [sample("ours", speed, number=number, cpu_seconds=0.3) for number, speed in enumerate((900, 1200, 1000))]
    found = result(*rounds).figures("ours")
    assert found.requests_per_second == 1000
    assert found.spread == pytest.approx(0.15)  # half of lowest to highest
    assert found.cpu_ms == pytest.approx(0.3)
    assert (found.p50_ms, found.p99_ms, found.max_ms) == (5, 10, 20)


def test_one_round_with_a_refusal_makes_the_figures_invalid() -> None:
    found = result(sample("bentoml", 5000, refused=1), sample("bentoml", 1000, number=1)).figures("bentoml")
    assert (found.requests_per_second, found.cpu_ms, found.p99_ms) == (None, None, None)
    assert "1 of 5000" in found.problem


def test_the_minute_of_the_longest_answer_is_no_round() -> None:
    found = result(sample("ours", 1000), sample("ours", 1, stall=True, p99_ms=50))
    assert found.figures("ours").requests_per_second == 1000
    assert found.rounds == 1


def test_memory_is_the_largest_of_any_line() -> None:
    ours, *_ = result(sample("ours", worker_bytes=10**6), sample("ours-v2", worker_bytes=2 * 10**6)).servers
    assert (ours.memory_mb, ours.worker_mb) == (6, 2)


def test_a_result_is_read_back() -> None:
    assert Result.model_validate_json(met_everywhere().model_dump_json()) == met_everywhere()


def test_all_targets_can_be_met() -> None:
    assert [one.subject for one in met_everywhere().targets if not one.met] == []


def test_without_measurements_no_target_is_met() -> None:
    assert {one.met for one in result().targets} == {None}


def test_an_invalid_peer_is_no_victory() -> None:
    one = target("/predict/housing against BentoML", sample("ours", 9000), sample("bentoml", 1000, refused=7))
    assert one.met is None


@pytest.mark.parametrize(
    ("one", "met"),
    [
        (target("/predict/housing against FastAPI", sample("ours", 6000), sample("fastapi", 1000)), True),
        (target("/predict/housing against FastAPI", sample("ours", 5999), sample("fastapi", 1000)), False),
        (target("p99 at 64", sample("ours", p99_ms=30.0)), True),
        (target("p99 at 64", sample("ours", p99_ms=30.1)), False),
        (target("longest answer", sample("ours", stall=True, p99_ms=50)), True),
        (target("longest answer", sample("ours", stall=True, p99_ms=51)), False),
        (target("rows/s", sample("ours-binary", 50, connections=16, rows=1000), direct=100_000), True),
        (target("rows/s", sample("ours-binary", 49, connections=16, rows=1000), direct=100_000), False),
        (target("memory a worker", sample("ours", worker_bytes=200_000_000)), True),
        (target("memory a worker", sample("ours", worker_bytes=201_000_000)), False),
        (target("start to", ready=6.0), True),
        (target("start to", ready=6.1), False),
        (
            target("gRPC against MLServer gRPC, CPU", sample("ours-grpc", cpu_seconds=0.33), sample("mlserver-grpc")),
            True,
        ),
        (
            target("gRPC against MLServer gRPC, CPU", sample("ours-grpc", cpu_seconds=0.34), sample("mlserver-grpc")),
            False,
        ),
    ],
    ids=lambda value: f"{value.subject}: {value.measured}" if isinstance(value, Demand) else str(value),
)
def test_a_target_holds_at_its_limit(one: Demand, met: bool) -> None:
    assert one.met is met
