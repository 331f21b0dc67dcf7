import numpy as np
import pytest

from contract.datasets.housing import HOUSING
from contract.datasets.iris import IRIS
from model import drift
from model.drift import Detector, Method, Requests, Verdict
from model.reference import Reference
from tests.loop.benches import housing
from tests.serving import tiny_models

MINUTE_US = 60_000_000


@pytest.fixture(scope="module")
def iris() -> Detector:
    onnx, card = tiny_models.artifact(IRIS)
    return Detector(card, tiny_models.reference(IRIS, onnx))


def window(rows: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    return next(housing().windows(1, rows, seed=seed))


def test_every_feature_and_the_prediction_are_compared_worst_first() -> None:
    features, outputs = window(500)
    column = HOUSING.feature_names.index("HouseAge")
    features[:, column] += 20
    found = housing().detector.detect("v1", features, outputs)
    assert found.verdict is Verdict.DRIFT
    assert [change.name for change in found.drifted] == ["HouseAge"]
    worst = found.changes[0]
    assert (worst.name, worst.rows, worst.test) == ("HouseAge", 500, Method.KOLMOGOROV_SMIRNOV)
    assert worst.shift == pytest.approx(20 / 12.6, abs=0.1)
    assert worst.recent == pytest.approx(features[:, column].mean())
    effects = [change.effect for change in found.changes[1:]]
    assert effects == sorted(effects, reverse=True)
    assert {change.name for change in found.changes} == {*HOUSING.feature_names, "prediction"}
    for change in found.changes:
        assert sum(change.recent_shares) == pytest.approx(1)
        assert change.adjusted_p_value >= change.p_value


def test_predictions_drift_by_themselves() -> None:
    features, outputs = window(500)
    found = housing().detector.detect("v1", features, outputs + 0.6)
    assert [change.name for change in found.drifted] == ["prediction"]


def test_a_wider_spread_is_drift_though_the_mean_stays() -> None:
    features, outputs = window(500)
    column = HOUSING.feature_names.index("Latitude")
    features[:, column] += 2.5 * (features[:, column] - features[:, column].mean())
    (worst, *_) = housing().detector.detect("v1", features, outputs).drifted
    assert worst.name == "Latitude"
    assert worst.shift == pytest.approx(0, abs=0.15)
    assert worst.psi is not None
    assert worst.psi > drift.PSI_LIMIT


def test_among_many_rows_a_small_difference_is_certain_but_no_drift() -> None:
    features, outputs = window(10_000)
    column = HOUSING.feature_names.index("HouseAge")
    features[:, column] += 0.1 * features[:, column].std()
    found = housing().detector.detect("v1", features, outputs)
    (change,) = [change for change in found.changes if change.name == "HouseAge"]
    assert change.adjusted_p_value < 1e-6
    assert change.effect < 1
    assert found.verdict is Verdict.NO_DRIFT


def test_classes_are_compared_by_their_shares(iris: Detector) -> None:
    outputs = np.eye(3)[np.random.default_rng(0).integers(0, 2, 300)]
    features = iris.reference.features[np.random.default_rng(0).integers(0, 150, 300)]
    (change,) = iris.detect("v1", features, outputs).drifted
    assert (change.name, change.test, change.shift, change.recent) == ("prediction", Method.CHI_SQUARE, None, None)
    assert change.recent_shares[2] == 0
    assert change.reference_shares == pytest.approx([1 / 3] * 3, abs=0.03)


@pytest.mark.parametrize(("refused", "drifted"), [(0, False), (12, False), (19, False), (40, True)])
def test_refused_requests_are_drift_from_2_percent_on(refused: int, drifted: bool) -> None:
    found = housing().detector.detect("v1", *window(500), Requests(1000, refused))
    (change,) = [change for change in found.changes if change.name == "refused"]
    assert change.drift is drifted
    assert (change.rows, change.recent, change.reference) == (1000, refused / 1000, 0.01)


def test_a_few_refused_requests_are_none() -> None:
    found = housing().detector.detect("v1", *window(500), Requests(20, 1))
    assert found.verdict is Verdict.NO_DRIFT


def test_below_the_minimum_nothing_is_said() -> None:
    features, outputs = window(99)
    found = housing().detector.detect("v1", features + 5, outputs)
    assert (found.verdict, found.changes, found.rows) == (Verdict.TOO_FEW_ROWS, [], 99)


def test_without_features_predictions_are_compared() -> None:
    _, outputs = window(500)
    found = housing().detector.detect("v1", None, outputs)
    assert [change.name for change in found.changes] == ["prediction"]


def times(rows: int) -> np.ndarray:
    """One row a minute, from the first moment of 2026 on."""
    return 1_767_225_600_000_000 + np.arange(rows, dtype=np.int64) * MINUTE_US


@pytest.mark.parametrize("begin", [0, 1000, 1600])
def test_since_when_is_told(begin: int) -> None:
    features, outputs = window(2000)
    features[begin:, 0] += 1.5 * features[:, 0].std()
    found = housing().detector.detect_window("v1", times(2000), features, outputs)
    worst = found.changes[0]
    assert (worst.name, worst.drift) == ("MedInc", True)
    # In the whole, where that has drifted most; else in the newest quarter.
    assert worst.rows == (2000 if begin == 0 else 500)
    starts = [part.since for part in found.parts]
    assert worst.since == starts[begin // 100]
    assert found.since == "2026-01-01T00:00:00.000Z"
    assert len(found.parts) == 20
    assert sum(part.rows for part in found.parts) == 2000
    assert "MedInc" in found.parts[-1].drift


def test_what_is_over_is_told_with_its_begin() -> None:
    features, outputs = window(1000)
    features[300:900, 0] += 2 * features[:, 0].std()
    found = housing().detector.detect_window("v1", times(1000), features, outputs)
    assert found.changes[0].name == "MedInc"
    assert found.changes[0].since == found.parts[3].since
    assert found.parts[-1].drift == []


def test_a_constant_feature_is_compared() -> None:
    constant = np.full((300, 4), 5.0)
    onnx, card = tiny_models.artifact(IRIS)
    known = tiny_models.reference(IRIS, onnx)
    features = [
        feature.model_copy(update={"deciles": [5.0] * 11, "decile_shares": [0.0] * 9 + [1.0], "std": 0.0})
        for feature in card.features
    ]
    reference = Reference(np.full_like(known.features, 5.0), known.outputs, known.target)
    detector = Detector(card.model_copy(update={"features": features}), reference)
    outputs = known.outputs[np.random.default_rng(0).integers(0, 150, 300)]
    assert detector.detect("v1", constant, outputs).verdict is Verdict.NO_DRIFT
    assert len(detector.detect("v1", constant - 1, outputs).drifted) == 4
