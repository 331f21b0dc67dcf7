import numpy as np
import pytest

from tests.training.tiny_models import PEBBLES, PLOTS
from training.evaluation import scores


def test_regression_by_hand() -> None:
    actual, predicted = np.array([1.0, 2.0, 4.0, 5.0]), np.array([1.0, 2.5, 3.0, 5.0])

    assert scores.regression_scores(actual, predicted, within=0.2) == pytest.approx(
        {
            "rmse": np.sqrt((0.25 + 1) / 4),
            "mae": 1.5 / 4,
            "median_absolute_error": 0.25,
            "r2": 1 - 1.25 / 10,
            "within_20_percent": 0.5,
        }
    )


def test_share_of_close_predictions_includes_its_bound_and_takes_zero() -> None:
    close = scores.regression_scores(np.array([10.0, 0.0, 0.0]), np.array([11.0, 0.0, 0.1]), within=0.1)

    assert close["within_10_percent"] == pytest.approx(2 / 3)


def test_classification_by_hand() -> None:
    actual = np.array([0.0, 0.0, 1.0, 2.0])
    probabilities = np.array([[0.8, 0.1, 0.1], [0.3, 0.6, 0.1], [0.25, 0.5, 0.25], [0.0, 0.2, 0.8]])

    assert scores.classification_scores(actual, probabilities) == pytest.approx(
        {
            "accuracy": 3 / 4,
            "balanced_accuracy": (1 / 2 + 1 + 1) / 3,
            "macro_f1": (2 / 3 + 2 / 3 + 1) / 3,
            "log_loss": -np.log([0.8, 0.3, 0.5, 0.8]).mean(),
            "brier": ((0.04 + 0.01 + 0.01) + (0.49 + 0.36 + 0.01) + (0.0625 + 0.25 + 0.0625) + (0.04 + 0.04)) / 4,
        }
    )


def test_a_class_without_test_rows_is_left_out_of_the_averages() -> None:
    found = scores.classification_scores(np.array([0.0, 1.0]), np.array([[0.9, 0.1, 0.0], [0.1, 0.8, 0.1]]))

    assert found["balanced_accuracy"] == 1
    assert found["macro_f1"] == 1


def test_task_decides_the_scores() -> None:
    regression = scores.score(PLOTS, np.array([1.0, 2.0]), np.array([1.0, 2.0]), within=0.2)
    classification = scores.score(PEBBLES, np.array([0.0, 1.0]), np.eye(3)[:2], within=0.2)

    assert regression["rmse"] == 0
    assert classification["accuracy"] == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [("rmse", "RMSE (kEUR)"), ("r2", "R²"), ("log_loss", "log loss (nats)"), ("within_20_percent", "within 20 %")],
)
def test_names_for_people(name: str, text: str) -> None:
    assert scores.with_unit(name, PLOTS) == text
    assert scores.meaning(name)


def test_baseline_is_the_mean_of_what_was_learned() -> None:
    found = scores.baseline(PLOTS, np.array([1.0, 3.0]), np.array([2.0, 5.0]), within=0.2)
    assert found == pytest.approx(scores.regression_scores(np.array([2.0, 5.0]), np.array([2.0, 2.0]), within=0.2))


def test_baseline_is_the_shares_of_the_classes_that_were_learned() -> None:
    found = scores.baseline(PEBBLES, np.array([0.0, 0, 1, 2]), np.array([0.0, 1]), within=0.2)
    assert found["log_loss"] == pytest.approx(-(np.log(0.5) + np.log(0.25)) / 2)
    assert found["accuracy"] == 0.5


def test_classes_that_nobody_has_or_predicts_have_no_recall_or_precision() -> None:
    first, second, third = scores.by_class(PEBBLES, np.array([0.0, 0, 1]), np.eye(3)[[0, 2, 0]])
    assert (first.rows, first.predicted, first.precision, first.recall) == (2, 2, 0.5, 0.5)
    assert (second.rows, second.predicted, second.precision, second.recall) == (1, 0, None, 0.0)
    assert (third.rows, third.predicted, third.precision, third.recall) == (0, 1, 0.0, None)
    assert scores.by_class(PLOTS, np.zeros(2), np.zeros(2)) == []
