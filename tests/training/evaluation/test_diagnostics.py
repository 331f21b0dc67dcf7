import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LinearRegression, LogisticRegression

from contract.dataset import Task
from contract.table import FloatMatrix
from tests.training.tiny_models import PEBBLES, PLOTS, splits
from training.evaluation import diagnostics
from training.evaluation.scores import score


def rmse(actual: FloatMatrix, predicted: FloatMatrix) -> float:
    return score(PLOTS, actual, predicted, within=0.2)["rmse"]


def log_loss(actual: FloatMatrix, predicted: FloatMatrix) -> float:
    return score(PEBBLES, actual, predicted, within=0.2)["log_loss"]


def test_importances_find_the_feature_that_matters() -> None:
    test = splits(PLOTS).test

    rises = diagnostics.permutation_importances(
        lambda rows: 2 * rows[:, 0], test.features, test.target, loss=rmse, repeats=4, random_state=0
    )

    assert rises.shape == (3, 4)
    assert rises[0].min() > 10
    assert np.all(rises[1:] == 0)


def test_importances_leave_the_rows_as_they_were() -> None:
    test = splits(PLOTS).test
    before = test.features.copy()

    diagnostics.permutation_importances(
        lambda rows: rows[:, 0], test.features, test.target, loss=rmse, repeats=1, random_state=0
    )

    np.testing.assert_array_equal(test.features, before)


@pytest.mark.parametrize("task", Task)
def test_learning_curve_by_size_and_split(task: Task) -> None:
    regression = task is Task.REGRESSION
    train = splits(PLOTS if regression else PEBBLES).train

    curve = diagnostics.learning_curve(
        LinearRegression() if regression else LogisticRegression(),
        train.features,
        train.target,
        task=task,
        loss=rmse if regression else log_loss,
        fractions=[0.2, 0.5, 1.0],
        rows_per_class=4,
        splits=3,
        held_out=0.25,
        random_state=0,
    )

    assert curve.rows.tolist() == [14, 36, 72]
    assert curve.training.shape == curve.validation.shape == (3, 3)
    # More rows: no worse on others.
    assert curve.validation[-1].mean() < curve.validation[0].mean()


def test_learning_curve_skips_what_is_too_small_for_its_classes() -> None:
    train = splits(PEBBLES).train

    curve = diagnostics.learning_curve(
        CalibratedClassifierCV(LogisticRegression(), ensemble=False),
        train.features,
        train.target,
        task=Task.CLASSIFICATION,
        loss=log_loss,
        fractions=[0.1, 0.5, 1.0],
        rows_per_class=5,
        splits=3,
        held_out=0.25,
        random_state=0,
    )

    assert curve.rows.tolist() == [36, 72]


def test_cross_validated_probabilities_of_every_row() -> None:
    rows = splits(PEBBLES).all

    probabilities = diagnostics.cross_validated_probabilities(
        LogisticRegression(), rows.features, rows.target, folds=5, random_state=0
    )

    assert probabilities.shape == (120, 3)
    assert np.mean(probabilities.argmax(axis=1) == rows.target) > 0.8


def test_equal_seeds_give_equal_numbers() -> None:
    train = splits(PLOTS).train

    first, second = (
        diagnostics.permutation_importances(
            lambda rows: rows[:, 0], train.features, train.target, loss=rmse, repeats=2, random_state=3
        )
        for _ in range(2)
    )

    np.testing.assert_array_equal(first, second)
