"""Computes the data of the figures: permutation importances, learning curve, cross-validated probabilities."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.model_selection import StratifiedKFold, cross_val_predict, train_test_split

from contract.dataset import Task
from contract.table import FloatMatrix
from training.onnx.export import answers

Predict = Callable[[FloatMatrix], FloatMatrix]
"""Features of shape ``[N, F]`` to predictions ``[N]`` or probabilities ``[N, C]``."""
Loss = Callable[[FloatMatrix, FloatMatrix], float]
"""Targets and predictions to a number that is lower for better models."""


@dataclass(frozen=True)
class LearningCurve:
    """Loss by number of training rows: ``rows`` of shape ``[S]``, ``training`` and ``validation`` ``[S, splits]``."""

    rows: NDArray[np.int64]
    training: FloatMatrix
    validation: FloatMatrix


def permutation_importances(
    predict: Predict, features: FloatMatrix, target: FloatMatrix, *, loss: Loss, repeats: int, random_state: int
) -> FloatMatrix:
    """How much the loss rises when one feature's values are shuffled among the rows (Breiman, 2001).

    Returns:
        The rise, in the unit of the loss, of shape ``[F, repeats]``.
    """
    random = np.random.default_rng(random_state)
    base = loss(target, predict(features))
    rises = np.empty((features.shape[1], repeats))
    for column in range(features.shape[1]):
        for repeat in range(repeats):
            shuffled = features.copy()
            shuffled[:, column] = random.permutation(shuffled[:, column])
            rises[column, repeat] = loss(target, predict(shuffled)) - base
    return rises


def learning_curve(
    estimator: BaseEstimator,
    features: FloatMatrix,
    target: FloatMatrix,
    *,
    task: Task,
    loss: Loss,
    fractions: Sequence[float],
    rows_per_class: int,
    splits: int,
    held_out: float,
    random_state: int,
) -> LearningCurve:
    """Fit clones of an estimator on growing parts of the rows; compute the loss on each part and on held-out rows.

    scikit-learn's ``learning_curve`` takes the first rows of each split, which may lack a class in a small table. Here
    the parts of a classification table are stratified, and each part of a split is tested on the same held-out rows.

    Args:
        fractions: of the rows that are not held out.
        rows_per_class: parts with fewer rows of a class are skipped, except the largest part: an estimator that
            calibrates itself by cross-validation cannot be fitted on them.
        splits: how many times the held-out rows are drawn.
        held_out: the share of rows to hold out.
    """
    strata = target if task is Task.CLASSIFICATION else None
    rarest = 1.0 if strata is None else np.unique(strata, return_counts=True)[1].min() / len(strata)
    available = len(target) - round(held_out * len(target))
    rows = np.array(
        [
            round(fraction * available)
            for fraction in fractions
            if fraction == max(fractions) or int(fraction * available * rarest) >= rows_per_class
        ],
        dtype=np.int64,
    )
    training, validation = np.empty((2, len(rows), splits))
    for split in range(splits):
        seed = random_state + split
        rest, others = train_test_split(
            np.arange(len(target)), train_size=available, random_state=seed, stratify=strata
        )
        for size, count in enumerate(rows):
            part = rest
            if count < available:
                rest_strata = None if strata is None else strata[rest]
                part, _ = train_test_split(rest, train_size=int(count), random_state=seed, stratify=rest_strata)
            fitted = clone(estimator).fit(features[part], target[part])
            training[size, split] = loss(target[part], answers(fitted, features[part], task))
            validation[size, split] = loss(target[others], answers(fitted, features[others], task))
    return LearningCurve(rows, training, validation)


def cross_validated_probabilities(
    estimator: BaseEstimator, features: FloatMatrix, target: FloatMatrix, *, folds: int, random_state: int
) -> FloatMatrix:
    """Class probabilities of shape ``[N, C]``, each row's from a clone that was not fitted on it."""
    splitter = StratifiedKFold(folds, shuffle=True, random_state=random_state)
    return np.asarray(
        cross_val_predict(clone(estimator), features, target, cv=splitter, method="predict_proba"), dtype=np.float64
    )
