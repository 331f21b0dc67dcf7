"""The gate's decisions on tiny real models."""

from pathlib import Path

import numpy as np
import pytest

from contract.dataset import Dataset
from contract.table import FloatMatrix
from loop import gate
from loop.gate import Answers, Finding, Rows, Verdict
from model.session import Artifact
from tests.training.tiny_models import PEBBLES, PLOTS, write_model
from training import params
from training.params import MapParams, RetrainingParams

AREA = MapParams(
    latitude="latitude", longitude="longitude", cells=10, minimum_rows=1, places={"West": (50, 6), "East": (50, 15)}
)


@pytest.fixture(scope="module")
def limits() -> RetrainingParams:
    return params.load().retraining


def plots(rows: int, east: float, seed: int) -> tuple[FloatMatrix, FloatMatrix]:
    """Features and prices: twice the size, and in the east, of which this share of the rows is, 7.5 more."""
    random = np.random.default_rng(seed)
    longitude = np.where(random.uniform(size=rows) < east, 15.0, 6.0) + random.normal(0, 0.2, rows)
    features = np.column_stack([random.uniform(0, 50, rows), random.normal(50, 0.1, rows), longitude])
    return features, 2 * features[:, 0] + 7.5 * (longitude > 10) + random.normal(0, 1, rows)


def pebbles(rows: int, seed: int) -> tuple[FloatMatrix, FloatMatrix]:
    """Features and kinds: the length tells the kind; the width is 1 and gives models a constant."""
    random = np.random.default_rng(seed)
    kind = np.arange(rows, dtype=np.float64) % 3
    return np.column_stack([kind - 1 + random.normal(0, 0.3, rows), np.ones(rows)]), kind


def judge(
    dataset: Dataset,
    folder: Path,
    weights: tuple[FloatMatrix, FloatMatrix],
    recent: tuple[FloatMatrix, FloatMatrix],
    old: tuple[FloatMatrix, FloatMatrix],
    limits: RetrainingParams,
) -> Verdict:
    """The verdict on linear models with the weights of champion and challenger."""
    champion, challenger = (
        Artifact.read(write_model(folder / str(number), dataset, one)) for number, one in enumerate(weights)
    )
    answers = [
        Answers(features, actual, champion.predict(features), challenger.predict(features))
        for features, actual in (recent, old)
    ]
    return gate.decide(dataset, answers[0], answers[1], limits, AREA if dataset is PLOTS else None)


def column(*weights: float) -> FloatMatrix:
    return np.array(weights)[:, None]


def finding(verdict: Verdict, rows: Rows, group: str) -> Finding:
    return next(one.finding for one in verdict.comparisons if (one.rows, one.group) == (rows, group))


def test_a_better_challenger_takes_over(tmp_path: Path, limits: RetrainingParams) -> None:
    rows = plots(200, 0, 0), plots(400, 0, 1)
    verdict = judge(PLOTS, tmp_path, (column(1.9, 0, 0), column(2, 0, 0)), *rows, limits)
    assert verdict.promoted
    assert verdict.reason.startswith("The challenger becomes the champion: RMSE ")
    assert finding(verdict, Rows.RECENT, gate.ALL) is Finding.BETTER
    assert finding(verdict, Rows.OLD, "near West") is Finding.BETTER
    first = verdict.comparisons[0]
    assert first.count == 200
    assert first.challenger == pytest.approx(1, rel=0.2)
    assert first.change == pytest.approx(first.challenger / first.champion - 1)


def test_a_worse_challenger_does_not(tmp_path: Path, limits: RetrainingParams) -> None:
    rows = plots(200, 0, 0), plots(400, 0, 1)
    verdict = judge(PLOTS, tmp_path, (column(2, 0, 0), column(1.9, 0, 0)), *rows, limits)
    assert not verdict.promoted
    assert "on 200 recent rows: " in verdict.reason
    assert "; on the test split, RMSE" in verdict.reason
    assert finding(verdict, Rows.RECENT, gate.ALL) is Finding.WORSE
    assert finding(verdict, Rows.OLD, gate.ALL) is Finding.WORSE


def test_better_on_recent_rows_and_worse_in_one_region_does_not(tmp_path: Path, limits: RetrainingParams) -> None:
    """It has learned the west, of which the recent rows are, and forgotten the east, of which few old rows are."""
    rows = plots(300, 0, 0), plots(1000, 0.03, 1)
    verdict = judge(PLOTS, tmp_path, (column(2, 0, 0.5), column(2, 0, 0)), *rows, limits)
    assert finding(verdict, Rows.RECENT, gate.ALL) is Finding.BETTER
    assert finding(verdict, Rows.OLD, gate.ALL) is Finding.BETTER
    assert finding(verdict, Rows.OLD, "near East") is Finding.WORSE
    assert not verdict.promoted
    assert "on the test split, near East, RMSE" in verdict.reason


def test_better_on_recent_rows_and_worse_on_old_ones_does_not(tmp_path: Path, limits: RetrainingParams) -> None:
    rows = plots(300, 0, 0), plots(1000, 1, 1)
    verdict = judge(PLOTS, tmp_path, (column(2, 0, 0.5), column(2, 0, 0)), *rows, limits)
    assert finding(verdict, Rows.OLD, gate.ALL) is Finding.WORSE
    assert not verdict.promoted


def test_better_by_all_and_worse_for_one_class_does_not(tmp_path: Path, limits: RetrainingParams) -> None:
    """The challenger is much surer of flint and quartz, and doubts slate."""
    weak = np.array([[-0.5, 0, 0.5], [0, 0, 0.5]])
    strong = np.array([[-4.0, 0, 2.0], [0, 1.5, 0]])
    verdict = judge(PEBBLES, tmp_path, (weak, strong), pebbles(300, 0), pebbles(300, 1), limits)
    findings = {one.group: one.finding for one in verdict.comparisons if one.rows is Rows.OLD}
    assert findings[gate.ALL] is Finding.BETTER
    assert findings["slate"] is Finding.WORSE
    assert not verdict.promoted
    assert "on the test split, slate, log loss" in verdict.reason


def test_a_class_with_few_rows_is_not_judged(tmp_path: Path, limits: RetrainingParams) -> None:
    features, kind = pebbles(300, 0)
    kept = (kind != 2) | (np.arange(300) < 9)
    few = features[kept], kind[kept]
    weak, strong = np.array([[-0.5, 0, 0.5], [0, 0, 0.5]]), np.array([[-4.0, 0, 2.0], [0, 1.5, 0]])
    verdict = judge(PEBBLES, tmp_path, (weak, strong), few, few, limits)
    assert finding(verdict, Rows.OLD, "slate") is Finding.FEW_ROWS
    assert verdict.promoted


@pytest.mark.parametrize(("rows", "seed"), [(60, 3), (60, 5), (60, 11)])
def test_an_improvement_that_may_be_chance_does_not(
    tmp_path: Path, limits: RetrainingParams, rows: int, seed: int
) -> None:
    """Two models that differ in a feature that means nothing: one of them is luckier."""
    features, price = plots(rows, 0, seed)
    weights = [column(2, 0, 0), column(2, 0, 0.03)]
    errors = [float((((features @ one)[:, 0] - price) ** 2).mean()) for one in weights]
    if errors[1] > errors[0]:
        weights.reverse()
    verdict = judge(PLOTS, tmp_path, (weights[0], weights[1]), (features, price), plots(400, 0, 1), limits)
    assert not verdict.promoted
    assert finding(verdict, Rows.RECENT, gate.ALL) is Finding.TOO_LITTLE


def test_an_equal_challenger_does_not(tmp_path: Path, limits: RetrainingParams) -> None:
    rows = plots(200, 0, 0), plots(400, 0, 1)
    verdict = judge(PLOTS, tmp_path, (column(2, 0, 0), column(2, 0, 0)), *rows, limits)
    assert not verdict.promoted
    assert "0 % better, and 1 % is asked for" in verdict.reason


@pytest.mark.parametrize("rows", [0, 1, 49])
def test_too_few_recent_rows_decide_nothing(limits: RetrainingParams, rows: int) -> None:
    features, price = plots(200, 0, 0)
    few = features[:rows], price[:rows]
    answers = Answers(*few, few[1], few[1])
    old = Answers(features, price, price, price)
    verdict = gate.decide(PLOTS, answers, old, limits, AREA)
    assert not verdict.promoted
    assert f"there are {rows} recent rows to judge on, and 50 are needed" in verdict.reason


def test_a_difference_that_is_too_small_to_matter_is_none(tmp_path: Path, limits: RetrainingParams) -> None:
    """Of a log loss of nearly zero, twice as much is nearly zero."""
    sure, less = np.array([[-24.0, 0, 24.0], [0, 12, 0]]), np.array([[-20.0, 0, 20.0], [0, 10, 0]])
    features, kind = pebbles(300, 0)
    features[:, 0] = kind - 1
    recent = pebbles(300, 1)
    verdict = judge(PEBBLES, tmp_path, (sure, less), recent, (features, kind), limits)
    old = [one for one in verdict.comparisons if one.rows is Rows.OLD]
    assert max(one.change for one in old) > limits.group.tolerance
    assert Finding.WORSE not in {one.finding for one in old}
    assert verdict.promoted


def test_a_verdict_is_plain_data_that_json_has(tmp_path: Path, limits: RetrainingParams) -> None:
    exact = plots(60, 0, 0)[0], plots(60, 0, 0)[0][:, 0] * 2
    verdict = judge(PLOTS, tmp_path, (column(2, 0, 0), column(1, 0, 0)), exact, exact, limits)
    plain = verdict.as_dict()
    assert plain["comparisons"][0]["change"] is None  # infinitely worse
    assert plain["comparisons"][0]["finding"] == "worse"
    assert not plain["promoted"]
