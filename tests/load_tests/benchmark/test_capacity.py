"""From CPU time to pods and cost."""

from pathlib import Path

import pytest

from load_tests.benchmark import capacity
from load_tests.benchmark.capacity import Assumptions, Cost
from tests.load_tests.benchmark.made_up import result, sample


@pytest.mark.parametrize(
    ("rate", "cpu_ms", "assumed", "needed", "pods", "hourly"),
    [
        pytest.param(10_000, 0.1, Assumptions(1, 1.0, 2, 0.1), 1, 2, 0.2, id="one core is full, and one is spare"),
        pytest.param(10_001, 0.1, Assumptions(1, 1.0, 2, 0.1), 2, 4, 0.4, id="a little more is a pod more"),
        pytest.param(10_000, 0.1, Assumptions(1, 0.5, 2, 0.1), 2, 4, 0.4, id="headroom"),
        pytest.param(40_000, 0.1, Assumptions(2, 1.0, 3, 0.1), 2, 3, 0.6, id="two of three zones bear it"),
        pytest.param(60_000, 0.1, Assumptions(2, 1.0, 3, 0.1), 3, 6, 1.2, id="zones are even"),
        pytest.param(1, 0.1, Assumptions(2, 0.6, 3, 0.0), 1, 3, 0.0, id="a pod a zone at least"),
    ],
)
def test_capacity(rate: float, cpu_ms: float, assumed: Assumptions, needed: int, pods: int, hourly: float) -> None:
    found = capacity.capacity(rate, cpu_ms, assumed)
    assert (found.needed, found.pods, found.cores) == (needed, pods, pods * assumed.cores)
    assert found.hourly == pytest.approx(hourly)
    assert found.per_million == pytest.approx(hourly / 3600 * 1e6 / rate)
    # What is promised: with a zone lost, the cores of the others are not busier than was assumed.
    left = pods // assumed.zones * (assumed.zones - 1) * assumed.cores
    assert found.busy / left <= assumed.utilisation + 1e-9


@pytest.mark.parametrize("wrong", [{"cores": 0}, {"utilisation": 0}, {"utilisation": 1.1}, {"zones": 1}, {"price": -1}])
def test_assumptions_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="two zones at least"):
        Assumptions(**wrong)  # type: ignore[arg-type]  # that is the point


def test_a_run_of_ones_own_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measured = result(sample("ours", 2000), sample("ours-binary", 125, connections=16, rows=1000))
    assert capacity.costs(measured) == [
        Cost("/predict/housing", 1, 0.5),
        Cost("/v2 binary", 1000, 8.0),
    ]
    file = tmp_path / "benchmark.json"
    file.write_text(measured.model_dump_json())
    assert capacity.main(["--report", str(file), "--price", "0.5", "--zones", "2"]) == 0
    told = capsys.readouterr().out
    assert "one of 2 zones lost; 0.5 for a core and hour" in told
    assert "0.5 CPU-ms a request, 2,000 requests a core and second" in told
    assert "8 CPU-ms a request, 125,000 rows a core and second" in told


def test_a_run_without_this_service_is_refused() -> None:
    with pytest.raises(ValueError, match="make benchmark"):
        capacity.costs(result(sample("mlserver")))


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--zones", "1"], "two zones at least"),
        (["--report", "nowhere.json"], "nowhere.json"),
    ],
)
def test_the_command_says_what_is_wrong(arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        capacity.main(arguments)
    assert problem in capsys.readouterr().err
