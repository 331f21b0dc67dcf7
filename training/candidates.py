"""The estimators that ``params.yaml`` can name."""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.ensemble._forest import ForestClassifier, ForestRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from contract.dataset import Dataset, Task
from model.session import ArtifactError, open_session
from training import selection
from training.errors import PipelineError
from training.features import RowFeatures, SinglePrecision
from training.onnx import export
from training.params import CandidateParams, Parameter, RowFeatureParams
from training.splits import Split

Steps = list[tuple[str, BaseEstimator]]


def _scaled(estimator: BaseEstimator) -> Steps:
    return [("scale", StandardScaler()), ("estimator", estimator)]


def _forest(estimator: BaseEstimator) -> Steps:
    return [("single_precision", SinglePrecision()), ("estimator", estimator)]


def _calibrated(estimator: BaseEstimator) -> Steps:
    # A support vector machine has no probabilities; scikit-learn 1.11 removes `SVC(probability=True)` in favour of this
    # wrapper. It fits one machine, and one sigmoid per class on held-out folds.
    return _scaled(CalibratedClassifierCV(estimator, ensemble=False, method="sigmoid"))


def _alone(estimator: BaseEstimator) -> Steps:
    return [("estimator", estimator)]


ESTIMATORS: dict[Task, dict[str, tuple[type[BaseEstimator], Callable[[BaseEstimator], Steps]]]] = {
    Task.REGRESSION: {
        "linear": (Ridge, _scaled),
        "random_forest": (RandomForestRegressor, _forest),
        "extra_trees": (ExtraTreesRegressor, _forest),
        "hist_gradient_boosting": (HistGradientBoostingRegressor, _alone),
    },
    Task.CLASSIFICATION: {
        "logistic_regression": (LogisticRegression, _scaled),
        "svc": (SVC, _calibrated),
        "random_forest": (RandomForestClassifier, _forest),
        "extra_trees": (ExtraTreesClassifier, _forest),
        "hist_gradient_boosting": (HistGradientBoostingClassifier, _alone),
    },
}
"""By task and name: the estimator class, and a function that adds the preprocessing steps it needs."""


def build(
    dataset: Dataset, name: str, candidate: CandidateParams, features: RowFeatureParams, *, random_state: int
) -> Pipeline:
    """An unfitted pipeline from the contract's columns to the target.

    Args:
        dataset: the contract; its task decides which estimators there are.
        name: the candidate's name, for errors.
        candidate: the estimator's name and parameters.
        features: the features computed from a row.
        random_state: the seed of an estimator that draws, unless its parameters give one.

    Raises:
        PipelineError: for an unknown estimator, parameter or value; names the key in ``params.yaml``.
    """
    key = f"train.{dataset.name}.candidates.{name}"
    known = ESTIMATORS[dataset.task]
    if candidate.estimator not in known:
        raise PipelineError(
            f"{key}.estimator: there is no {candidate.estimator!r} for {dataset.task}; there is {', '.join(known)}. "
            "Add one in training/candidates.py."
        )
    estimator_type, steps = known[candidate.estimator]
    estimator = _configured(estimator_type(), candidate.parameters, key, random_state)
    return Pipeline([("features", row_features(dataset, features)), *steps(estimator)])


SAMPLE_ROWS = 200
"""Rows of the small fit that shows whether a candidate can be deployed."""


def check_deployable(dataset: Dataset, name: str, pipeline: Pipeline, split: Split) -> None:
    """Fit a candidate on a few rows, convert and save it: a candidate that cannot be deployed fails before training.

    Ensembles are fitted with two members, which shows the same in less time.

    Raises:
        PipelineError: if it cannot be converted to ONNX, or holds types that must not be loaded; names the candidate.
    """
    sample = _sample(dataset, split)
    *steps, (step, estimator) = pipeline.steps
    if isinstance(estimator, HistGradientBoostingRegressor | HistGradientBoostingClassifier):
        estimator = clone(estimator).set_params(max_iter=2)
    elif "n_estimators" in estimator.get_params():
        estimator = clone(estimator).set_params(n_estimators=2)
    fitted = selection.fit(Pipeline([*steps, (step, estimator)]), sample, dataset.task)
    try:
        open_session(export.convert(dataset, fitted))
        with tempfile.TemporaryDirectory() as directory:
            export.save_estimator(fitted, Path(directory) / export.ESTIMATOR_FILE)
    except (PipelineError, ArtifactError) as error:
        raise PipelineError(f"train.{dataset.name}.candidates.{name} cannot be deployed: {error}") from error


def _sample(dataset: Dataset, split: Split) -> Split:
    """The first rows of the split; of a classification, the first of each class."""
    if dataset.task is Task.REGRESSION:
        chosen = np.arange(min(SAMPLE_ROWS, len(split.target)))
    else:
        classes = np.unique(split.target)
        chosen = np.concatenate(
            [np.flatnonzero(split.target == one)[: max(SAMPLE_ROWS // len(classes), 20)] for one in classes]
        )
    return split.take(chosen)


def _configured(
    estimator: BaseEstimator, parameters: Mapping[str, Parameter], key: str, random_state: int
) -> BaseEstimator:
    known: dict[str, Any] = estimator.get_params(deep=False)
    if unknown := sorted(set(parameters) - set(known)):
        raise PipelineError(
            f"{key}.parameters: {type(estimator).__name__} has no {', '.join(unknown)}; it has {', '.join(known)}."
        )
    defaults: dict[str, Parameter] = {"random_state": random_state} if "random_state" in known else {}
    if isinstance(estimator, ForestRegressor | ForestClassifier):
        defaults["n_jobs"] = -1  # one tree per core; the result is the same
    estimator.set_params(**(defaults | dict(parameters)))
    try:
        estimator._validate_params()
    except ValueError as error:
        raise PipelineError(f"{key}.parameters: {error}") from error
    return estimator


def row_features(dataset: Dataset, params: RowFeatureParams) -> RowFeatures:
    """The transformer that ``params`` describes.

    Raises:
        PipelineError: for a column that the dataset does not have, and for a denominator that may be zero: by its
            range in the contract, or because its values are rounded to zero.
    """
    ratio_names = [" / ".join(pair) for pair in params.ratios]
    if unknown := sorted(params.decimals.keys() - {*dataset.feature_names, *ratio_names}):
        raise PipelineError(
            f"train.{dataset.name}.features.decimals: {', '.join(unknown)} is neither a feature nor a ratio; there is "
            f"{', '.join([*dataset.feature_names, *ratio_names])}."
        )
    decimals = [params.decimals.get(name) for name in dataset.feature_names]
    rotations: list[tuple[int, int, float]] = []
    if params.rotations is not None:
        x, y = (_index(dataset, name) for name in params.rotations.columns)
        rotations = [(x, y, degrees) for degrees in params.rotations.degrees]
    ratios = [(_index(dataset, numerator), _index(dataset, denominator)) for numerator, denominator in params.ratios]
    for _, denominator in ratios:
        feature = dataset.features[denominator]
        places = decimals[denominator]
        low, high = (value if places is None else round(value, places) for value in (feature.minimum, feature.maximum))
        if low <= 0 <= high:
            raise PipelineError(
                f"train.{dataset.name}.features.ratios: {feature.name} may be zero (its range is {feature.minimum:g} "
                f"to {feature.maximum:g}{'' if places is None else f', rounded to {places} decimals'}), so it cannot "
                "be a denominator. Narrow its range in the contract or remove the ratio."
            )
    return RowFeatures(
        rotations=rotations,
        ratios=ratios,
        decimals=decimals,
        derived_decimals=[params.derived_decimals] * 2 * len(rotations)
        + [params.decimals.get(name, params.derived_decimals) for name in ratio_names],
    )


def _index(dataset: Dataset, name: str) -> int:
    if name not in dataset.feature_names:
        raise PipelineError(
            f"train.{dataset.name}.features: {name} is no feature of {dataset.name}; it has "
            f"{', '.join(dataset.feature_names)}."
        )
    return dataset.feature_names.index(name)
