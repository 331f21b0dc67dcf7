"""Cross-validation of candidates on the training split, and the choice of the best."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.pipeline import Pipeline

from contract.dataset import Dataset, Task
from contract.table import FloatMatrix
from training.errors import PipelineError
from training.evaluation.scores import LOWER_IS_BETTER, score
from training.onnx import export
from training.splits import Split

SCORES = {Task.REGRESSION: ("rmse", "mae", "r2"), Task.CLASSIFICATION: ("accuracy", "macro_f1", "log_loss")}
"""The scores that people know."""


@dataclass(frozen=True)
class CrossValidation:
    """A candidate's scores on the rows it did not see.

    ``folds`` has each metric's value by fold; ``out_of_fold`` is the answer for every row of the training split, each
    from the model that did not see it: of shape ``[N]`` for regression, class probabilities ``[N, C]`` for classes.
    """

    folds: dict[str, list[float]]
    out_of_fold: FloatMatrix

    @property
    def summary(self) -> dict[str, tuple[float, float]]:
        """Mean and standard deviation over the folds, by metric."""
        return {metric: (float(np.mean(values)), float(np.std(values))) for metric, values in self.folds.items()}


def fit(pipeline: Pipeline, split: Split, task: Task) -> Pipeline:
    """Fit a copy of a pipeline, with the weights of the rows where they have any."""
    step = pipeline.steps[-1][0]
    weights = {} if split.weight is None else {f"{step}__sample_weight": split.weight}
    return clone(pipeline).fit(split.features, _labels(split, task), **weights)


def _labels(split: Split, task: Task) -> NDArray[np.int64] | FloatMatrix:
    return split.target.astype(np.int64) if task is Task.CLASSIFICATION else split.target


def scores(dataset: Dataset, target: FloatMatrix, answer: FloatMatrix, metric: str) -> dict[str, float]:
    """The score ``metric`` that candidates are compared by, and those that people know."""
    every = score(dataset, target, answer, within=1)
    return {name: every[name] for name in dict.fromkeys((*SCORES[dataset.task], metric))}


def cross_validate(
    dataset: Dataset, pipeline: Pipeline, split: Split, *, metric: str, folds: int, random_state: int
) -> CrossValidation:
    """Score a pipeline on shuffled folds of the training split, stratified for classes: by ``metric`` and ``SCORES``.

    Raises:
        PipelineError: if there are fewer rows (of a class) than folds.
    """
    kind = StratifiedKFold if dataset.task is Task.CLASSIFICATION else KFold
    values: dict[str, list[float]] = {}
    out_of_fold: FloatMatrix | None = None
    try:
        parts = list(
            kind(folds, shuffle=True, random_state=random_state).split(split.features, _labels(split, dataset.task))
        )
    except ValueError as error:
        raise PipelineError(f"train.{dataset.name}.folds: {error}") from error
    for seen, unseen in parts:
        fitted = fit(pipeline, split.take(seen), dataset.task)
        answer = export.answers(fitted, split.features[unseen], dataset.task)
        if out_of_fold is None:
            out_of_fold = np.empty((len(split.target), *answer.shape[1:]))
        out_of_fold[unseen] = answer
        for name, value in scores(dataset, split.target[unseen], answer, metric).items():
            values.setdefault(name, []).append(value)
    assert out_of_fold is not None  # noqa: S101 # there are two folds or more
    return CrossValidation(values, out_of_fold)


def best(results: Mapping[str, CrossValidation], metric: str) -> str:
    """The name of the candidate to refit: the one with the best mean of the score that the gate compares."""
    sign = 1 if metric in LOWER_IS_BETTER else -1
    # Scores of folds of unlike sizes: sums that differ in the last bit are equal, and the first of equals is taken.
    return min(results, key=lambda name: round(sign * results[name].summary[metric][0], 12))
