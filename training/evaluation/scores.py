"""Scores of a model on a test split, for challenger and champion alike."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import (
    accuracy_score,
    f1_score,
    log_loss,
    mean_absolute_error,
    median_absolute_error,
    precision_recall_fscore_support,
    r2_score,
    recall_score,
    root_mean_squared_error,
)

from contract.dataset import Dataset, Task
from contract.table import FloatMatrix

CANDIDATES_FILE = "candidates.json"
"""Beside a trained model: the cross-validated scores of the candidates, mean and standard deviation by name."""
LOWER_IS_BETTER = frozenset({"rmse", "mae", "median_absolute_error", "log_loss", "brier"})
"""Scores that fall as a model improves; all others rise."""


@dataclass(frozen=True)
class _Words:
    label: str
    meaning: str


_WORDS: Mapping[str, _Words] = {
    "rmse": _Words("RMSE", "root mean squared error: large misses weigh most"),
    "mae": _Words("MAE", "mean absolute error: the average miss"),
    "median_absolute_error": _Words("median absolute error", "half of the predictions miss by less"),
    "r2": _Words("R²", "share of the target's variance that the model explains"),
    "accuracy": _Words("accuracy", "share of rows whose likeliest class is the true one"),
    "balanced_accuracy": _Words("balanced accuracy", "accuracy of each class, averaged over the classes"),
    "macro_f1": _Words("macro F1", "F1 of each class, averaged over the classes"),
    "log_loss": _Words("log loss", "surprise at the true class, given the probabilities"),
    "brier": _Words("Brier score", "squared error of the probabilities, summed over the classes"),
}
_IN_TARGET_UNIT = frozenset({"rmse", "mae", "median_absolute_error"})


def label(name: str) -> str:
    """A score's display name: ``log_loss`` is "log loss"."""
    return _WORDS[name].label if name in _WORDS else name.replace("_percent", " %").replace("_", " ")


def meaning(name: str) -> str:
    """A short explanation of a score."""
    if name in _WORDS:
        return _WORDS[name].meaning
    return "share of predictions that miss by no more than that share of the actual value"


def percent(share: float) -> str:
    """A share for people: 0.00123 is "0.123 %"."""
    return f"{100 * share:.3g} %"


def unit(name: str, dataset: Dataset) -> str:
    """A score's unit; empty if it has none."""
    return dataset.target.unit if name in _IN_TARGET_UNIT else "nats" if name == "log_loss" else ""


def with_unit(name: str, dataset: Dataset) -> str:
    """An axis label: the score's display name with its unit, such as "RMSE (100k USD)"."""
    return f"{label(name)} ({unit(name, dataset)})" if unit(name, dataset) else label(name)


def score(dataset: Dataset, actual: FloatMatrix, predicted: FloatMatrix, *, within: float) -> dict[str, float]:
    """Compute every score of a model's answers.

    Args:
        dataset: its task decides which scores there are.
        actual: targets of shape ``[N]``: in the target's unit, or class indices.
        predicted: shape ``[N]`` in the target's unit, or class probabilities of shape ``[N, C]``.
        within: regression only: the relative error that still counts as close, 0.2 for 20 %.
    """
    if dataset.task is Task.REGRESSION:
        return regression_scores(actual, predicted, within=within)
    return classification_scores(actual, predicted)


def regression_scores(actual: FloatMatrix, predicted: FloatMatrix, *, within: float) -> dict[str, float]:
    """RMSE, mean and median absolute error in the target's unit; R² and the share of close predictions as fractions."""
    close = np.abs(predicted - actual) <= within * np.abs(actual)
    return {
        "rmse": float(root_mean_squared_error(actual, predicted)),
        "mae": float(mean_absolute_error(actual, predicted)),
        "median_absolute_error": float(median_absolute_error(actual, predicted)),
        "r2": float(r2_score(actual, predicted)),
        f"within_{100 * within:g}_percent": float(close.mean()),
    }


def classification_scores(actual: FloatMatrix, probabilities: FloatMatrix) -> dict[str, float]:
    """Accuracy, balanced accuracy and macro F1 of the likeliest class; log loss (nats) and Brier score.

    Classes without rows in the split are left out of the two averages over classes. The Brier score follows Brier
    (1950): it is summed over the classes, and so ranges from 0 to 2.
    """
    classes = np.arange(probabilities.shape[1])
    truth = actual.astype(np.int64)
    likeliest = probabilities.argmax(axis=1)
    present = np.unique(truth)
    indicator = (truth[:, None] == classes).astype(np.float64)
    return {
        "accuracy": float(accuracy_score(truth, likeliest)),
        "balanced_accuracy": float(recall_score(truth, likeliest, labels=present, average="macro")),
        "macro_f1": float(f1_score(truth, likeliest, labels=present, average="macro", zero_division=0)),
        "log_loss": float(log_loss(truth, probabilities, labels=classes)),
        "brier": float(((probabilities - indicator) ** 2).sum(axis=1).mean()),
    }


def baseline(dataset: Dataset, learned: FloatMatrix, actual: FloatMatrix, *, within: float) -> dict[str, float]:
    """The scores of an answer that ignores the features: the mean of the targets ``learned``, or their class shares.

    Args:
        learned: the targets of the training split, ``[M]``.
        actual, within: as for ``score``.
    """
    if dataset.task is Task.REGRESSION:
        answer = np.full(len(actual), learned.mean())
    else:
        shares = np.bincount(learned.astype(np.int64), minlength=len(dataset.target.classes)) / len(learned)
        answer = np.tile(shares, (len(actual), 1))
    return score(dataset, actual, answer, within=within)


@dataclass(frozen=True)
class ClassScore:
    """How well one class is told from the others: of ``rows`` that are of the class, and ``predicted`` that are said to
    be. Precision is None if none is, recall if there are no such rows.
    """

    name: str
    rows: int
    predicted: int
    precision: float | None
    recall: float | None
    f1: float


def by_class(dataset: Dataset, actual: FloatMatrix, probabilities: FloatMatrix) -> list[ClassScore]:
    """Precision and recall of each class; none for regression."""
    if dataset.task is Task.REGRESSION:
        return []
    classes = range(len(dataset.target.classes))
    truth, likeliest = actual.astype(np.int64), probabilities.argmax(axis=1)
    counted = precision_recall_fscore_support(truth, likeliest, labels=classes, zero_division=0)
    found = zip(dataset.target.classes, *(column.tolist() for column in counted), strict=True)
    predicted = np.bincount(likeliest, minlength=len(classes)).tolist()
    return [
        ClassScore(name, rows, said, precision if said else None, recall if rows else None, f1)
        for (name, precision, recall, f1, rows), said in zip(found, predicted, strict=True)
    ]
