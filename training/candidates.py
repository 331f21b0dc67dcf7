"""The estimators that ``params.yaml`` can name."""

import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.ensemble._forest import ForestClassifier, ForestRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from contract.dataset import Dataset, Task
from contract.feature import Kind
from model.session import ArtifactError
from training import boosters, selection
from training.errors import PipelineError
from training.features import BoostingRows, KindEncoder, OptionalRowFeatures, RowFeatures, SinglePrecision
from training.onnx import export
from training.onnx.hard_rows import hard_rows
from training.params import CandidateParams, Parameter, RowFeatureParams
from training.splits import Split

Steps = list[tuple[str, BaseEstimator]]


@dataclass(frozen=True)
class Columns:
    """What an estimator is given: ``count`` columns, of which ``categories`` hold codes and ``optional`` other values
    that may be missing. ``codes`` is how many codes the largest vocabulary has; ``missing``, whether any value may be
    missing.
    """

    count: int
    categories: list[int]
    optional: list[int]
    codes: int
    missing: bool

    def encoded(self, *, one_hot: bool) -> Steps:
        """The step that leaves numbers alone; none where there are no others."""
        if not self.categories and not self.optional:
            return []
        return [("kinds", KindEncoder(self.categories, self.optional, one_hot=one_hot))]


def _scaled(estimator: BaseEstimator, columns: Columns) -> Steps:
    return [*columns.encoded(one_hot=True), ("scale", StandardScaler()), ("estimator", estimator)]


def _forest(estimator: BaseEstimator, columns: Columns) -> Steps:
    return [*columns.encoded(one_hot=False), ("single_precision", SinglePrecision()), ("estimator", estimator)]


def _calibrated(estimator: BaseEstimator, columns: Columns) -> Steps:
    # A support vector machine has no probabilities; scikit-learn 1.11 removes `SVC(probability=True)` in favour of this
    # wrapper. It fits one machine, and one sigmoid per class on held-out folds.
    return _scaled(CalibratedClassifierCV(estimator, ensemble=False, method="sigmoid"), columns)


def _boosted(estimator: BaseEstimator, columns: Columns) -> Steps:
    # It takes missing values as they are, and categories by their codes.
    if columns.categories:
        estimator.set_params(categorical_features=columns.categories)
    if not columns.missing and columns.codes <= estimator.max_bins:
        return [("estimator", estimator)]
    return [("boosting_rows", BoostingRows(columns.categories, most=estimator.max_bins)), ("estimator", estimator)]


def _lightgbm(estimator: BaseEstimator, columns: Columns) -> Steps:
    # It takes missing values and codes as they are.
    if columns.categories:
        estimator.set_params(categorical_column=",".join(map(str, columns.categories)))
    return [("estimator", estimator)]


def _xgboost(estimator: BaseEstimator, columns: Columns) -> Steps:
    # The same.
    if columns.categories:
        kinds = ["c" if column in columns.categories else "q" for column in range(columns.count)]
        estimator.set_params(enable_categorical=True, feature_types=kinds)
    return [("estimator", estimator)]


ESTIMATORS: dict[Task, dict[str, tuple[Callable[[], BaseEstimator], Callable[[BaseEstimator, Columns], Steps]]]] = {
    Task.REGRESSION: {
        "linear": (Ridge, _scaled),
        "neural_network": (MLPRegressor, _scaled),
        "random_forest": (RandomForestRegressor, _forest),
        "extra_trees": (ExtraTreesRegressor, _forest),
        "gradient_boosting": (GradientBoostingRegressor, _forest),
        "hist_gradient_boosting": (HistGradientBoostingRegressor, _boosted),
        "lightgbm": (partial(boosters.make, "lightgbm", Task.REGRESSION), _lightgbm),
        "xgboost": (partial(boosters.make, "xgboost", Task.REGRESSION), _xgboost),
    },
    Task.CLASSIFICATION: {
        "logistic_regression": (LogisticRegression, _scaled),
        "svc": (SVC, _calibrated),
        "neural_network": (MLPClassifier, _scaled),
        "random_forest": (RandomForestClassifier, _forest),
        "extra_trees": (ExtraTreesClassifier, _forest),
        "gradient_boosting": (GradientBoostingClassifier, _forest),
        "hist_gradient_boosting": (HistGradientBoostingClassifier, _boosted),
        "lightgbm": (partial(boosters.make, "lightgbm", Task.CLASSIFICATION), _lightgbm),
        "xgboost": (partial(boosters.make, "xgboost", Task.CLASSIFICATION), _xgboost),
    },
}
"""By task and name: what makes the estimator, and a function that adds the preprocessing steps it needs."""


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
        PipelineError: for an unknown estimator, parameter or value, and for one whose package is not installed; names
            the key in ``params.yaml``.
    """
    key = f"train.{dataset.name}.candidates.{name}"
    known = ESTIMATORS[dataset.task]
    if candidate.estimator not in known:
        raise PipelineError(
            f"{key}.estimator: there is no {candidate.estimator!r} for {dataset.task}; there is {', '.join(known)}. "
            "Add one in training/candidates.py."
        )
    make, steps = known[candidate.estimator]
    try:
        made = make()
    except PipelineError as error:
        raise PipelineError(f"{key}.estimator: {error}") from error
    estimator = _configured(made, candidate.parameters, key, random_state)
    computed = row_features(dataset, features)
    return Pipeline([("features", computed), *steps(estimator, _columns(dataset, computed))])


def _columns(dataset: Dataset, computed: RowFeatures) -> Columns:
    """The columns that ``computed`` gives: the features, then what is computed from them."""
    categories = [column for column, feature in enumerate(dataset.features) if feature.kind is Kind.CATEGORY]
    optional = {column for column, feature in enumerate(dataset.features) if feature.optional}
    derived = [pair for x, y, _ in computed.rotations for pair in ((x, y), (x, y))] + list(computed.ratios)
    missing = [len(dataset.features) + place for place, pair in enumerate(derived) if not optional.isdisjoint(pair)]
    return Columns(
        count=len(dataset.features) + len(derived),
        categories=categories,
        optional=[*sorted(optional - set(categories)), *missing],
        codes=max((int(dataset.features[column].maximum) + 1 for column in categories), default=0),
        missing=dataset.has_optional,
    )


SAMPLE_ROWS = 50
"""Rows of the small fit that shows whether a candidate can be deployed."""


def check_deployable(dataset: Dataset, name: str, pipeline: Pipeline, split: Split, tolerance: float) -> None:
    """Fit a candidate on a few rows, convert it, compare, save and load it: what cannot be deployed fails before
    training.

    Ensembles are fitted with two members, and iterations are few, which shows the same in less time.

    Raises:
        PipelineError: if it cannot be fitted or converted to ONNX, if it then answers otherwise by more than
            ``tolerance``, or if it holds types that must not be loaded; names the candidate.
    """
    sample = _sample(dataset, split)
    *steps, (step, estimator) = pipeline.steps
    few = {parameter: 2 for parameter in ("max_iter", "n_estimators") if parameter in estimator.get_params(deep=False)}
    iterative = isinstance(estimator, _ITERATIVE) or boosters.of(estimator) is not None
    hasty = clone(estimator).set_params(**few) if iterative else estimator
    refusals: tuple[type[Exception], ...] = (PipelineError, ArtifactError, ValueError, *boosters.refusals())
    try:
        with warnings.catch_warnings():
            # It learns nothing from few rows in few iterations, and need not.
            warnings.simplefilter("ignore")
            fitted = selection.fit(Pipeline([*steps, (step, hasty)]), sample, dataset.task)
            content = export.convert(dataset, fitted)
            with tempfile.TemporaryDirectory() as directory:
                path = Path(directory) / export.ESTIMATOR_FILE
                export.save_estimator(fitted, path)
                loaded = export.load_estimator(path)
            rows = hard_rows(dataset, fitted, sample.features)
            export.compare(dataset, content, export.predictor(dataset, loaded), rows, tolerance)
    except refusals as error:
        # XGBoost adds where it was in its own code.
        said = " ".join(str(error).partition("Stack trace:")[0].split())
        raise PipelineError(f"train.{dataset.name}.candidates.{name} cannot be deployed: {said}") from error


_ITERATIVE = (
    HistGradientBoostingRegressor,
    HistGradientBoostingClassifier,
    GradientBoostingRegressor,
    GradientBoostingClassifier,
    ForestRegressor,
    ForestClassifier,
    MLPRegressor,
    MLPClassifier,
)


def _sample(dataset: Dataset, split: Split) -> Split:
    """The first rows of the split; of a classification, the first of each class."""
    if dataset.task is Task.REGRESSION:
        chosen = np.arange(min(SAMPLE_ROWS, len(split.target)))
    else:
        classes = np.unique(split.target)
        chosen = np.concatenate(
            [np.flatnonzero(split.target == one)[: max(SAMPLE_ROWS // len(classes), 10)] for one in classes]
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
    if boosters.of(estimator):
        return estimator  # it checks values when it is fitted
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
    used = {*params.decimals, *chain(*params.ratios), *(params.rotations.columns if params.rotations else ())}
    if codes := [one.name for one in dataset.features if one.name in used and not one.numeric]:
        raise PipelineError(f"train.{dataset.name}.features: {', '.join(codes)} is no number.")
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
    return (OptionalRowFeatures if dataset.has_optional else RowFeatures)(
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
