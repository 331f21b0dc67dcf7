import numpy as np
import pytest
from numpy.typing import NDArray

from contract.dataset import Dataset, Target
from contract.row import Row, category, feature
from contract.table import FloatMatrix
from tests.training.tiny_models import PEBBLES, PLOTS, splits
from training.evaluation.stability import Stability, measure
from training.params import ChangeParams, StabilityParams

PARAMS = StabilityParams(
    change=ChangeParams(regression=0.001, classification=0.001),
    perturbation=1e-6,
    float32_limit=0.1,
    perturbed_limit=0.1,
)


def measured(dataset: Dataset, answers: NDArray[np.float64], threshold: float) -> Stability:
    """A model that looks at the first feature alone: up to the threshold it gives one answer, above it another."""
    rows = splits(dataset).test

    def predict(features: FloatMatrix) -> NDArray[np.float64]:
        return np.asarray(answers[(features[:, 0] > threshold).astype(int)])

    return measure(dataset, predict, rows.features, rows.target, PARAMS)


PRICES = np.array([1.0, 2.0])
PROBABILITIES = np.array([[0.2, 0.8, 0.0], [0.5, 0.5, 0.0]])


@pytest.mark.parametrize(("dataset", "answers"), [(PLOTS, PRICES), (PEBBLES, PROBABILITIES)])
def test_threshold_on_a_row_is_unstable_for_that_row(dataset: Dataset, answers: NDArray[np.float64]) -> None:
    rows = splits(dataset).test.features
    first = dataset.feature_names[0]

    found = measured(dataset, answers, threshold=float(rows[3, 0]))

    assert found.perturbed == {name: (1 / len(rows) if name == first else 0) for name in dataset.feature_names}
    assert found.worst == first
    assert found.excess == ""
    assert found.metrics == {"float32": found.float32, "perturbed": 1 / len(rows)}


@pytest.mark.parametrize(("dataset", "answers"), [(PLOTS, PRICES), (PEBBLES, PROBABILITIES)])
def test_threshold_between_the_rows_is_stable(dataset: Dataset, answers: NDArray[np.float64]) -> None:
    ordered = np.sort(splits(dataset).test.features[:, 0])

    found = measured(dataset, answers, threshold=float(ordered[5:7].mean()))

    assert found.metrics == {"float32": 0, "perturbed": 0}


def test_small_changes_do_not_count() -> None:
    spread = splits(PLOTS).test.target.std()
    rows = splits(PLOTS).test.features
    below, above = np.array([1.0, 1.0 + 0.0009 * spread]), np.array([1.0, 1.0 + 0.0011 * spread])

    assert measured(PLOTS, below, threshold=float(rows[3, 0])).metrics["perturbed"] == 0
    assert measured(PLOTS, above, threshold=float(rows[3, 0])).metrics["perturbed"] > 0


def test_smooth_model_is_stable_in_any_unit() -> None:
    rows = splits(PLOTS).test
    for unit in (1e-6, 1.0, 1e6):
        found = measure(PLOTS, lambda features: features[:, 0] * unit, rows.features, rows.target * unit, PARAMS)  # noqa: B023
        assert found.metrics == {"float32": 0, "perturbed": 0}


def test_rows_that_float32_moves_over_a_threshold_are_counted() -> None:
    rows = splits(PLOTS).test

    def predict(features: FloatMatrix) -> NDArray[np.float64]:
        return np.where(features[:, 1] == features[:, 1].astype(np.float32), 5.0, 0.0)

    found = measure(PLOTS, predict, rows.features, rows.target, PARAMS)

    assert found.float32 == 1
    assert "gives 100 % of the test rows another answer" in found.excess
    assert "all numbers are rounded to float32; at most 10 % is allowed" in found.excess


def test_perturbed_feature_over_the_limit_is_named() -> None:
    rows = splits(PLOTS).test

    def predict(features: FloatMatrix) -> NDArray[np.float64]:
        return np.where(features[:, 2] == rows.features[:, 2], 0.0, np.nan)

    # Values that float32 holds exactly: only the perturbation changes them.
    rows.features[:] = rows.features.astype(np.float32)
    found = measure(PLOTS, predict, rows.features, rows.target, PARAMS)

    assert found.float32 == 0
    assert "longitude changes by 0.0001 %" in found.excess


class TicketRow(Row):
    port: str = category("Cork", "Lima", description="Port.", example="Cork")
    age: float | None = feature(unit="years", minimum=0, maximum=120, description="Age.", example=22.5)
    siblings: int = feature(unit="persons", minimum=0, maximum=20, description="Siblings.", example=1)


class PortRow(Row):
    port: str = category("Cork", "Lima", description="Port.", example="Cork")


@pytest.mark.parametrize(("row", "perturbed"), [(TicketRow, {"age": 0.0}), (PortRow, {})])
def test_only_numbers_change(row: type[Row], perturbed: dict[str, float]) -> None:
    dataset = Dataset("tickets", "Price.", row, Target("price", "USD", "Price."))
    rows = np.array([[1, 0.1, 16_777_217], [0, np.nan, 3]])[:, : len(dataset.features)]

    def whole_rows_alone(given: FloatMatrix) -> FloatMatrix:
        assert (given[:, ::2] == rows[:, ::2]).all()
        return given[:, 0]

    found = measure(dataset, whole_rows_alone, rows, np.arange(2.0), PARAMS)
    assert found.perturbed == perturbed
    assert found.metrics == {"float32": 0, "perturbed": 0}
    assert not found.excess
