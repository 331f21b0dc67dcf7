"""Chooses and draws a model's figures, by its task and the dataset's section in ``params.yaml``."""

from pathlib import Path

import numpy as np
from sklearn.base import BaseEstimator

from contract.dataset import Dataset, Task
from contract.table import FloatMatrix
from model.session import Artifact
from training.errors import PipelineError
from training.evaluation import classification_plots, diagnostics, plots, regression_plots
from training.evaluation.classification_plots import Answers
from training.evaluation.plots import Figure
from training.evaluation.residual_map import residual_map
from training.evaluation.scores import score
from training.params import PARAMS_FILE, LearningCurveParams, MapParams, ModelEvaluationParams
from training.splits import Splits

SCORE = {Task.REGRESSION: "rmse", Task.CLASSIFICATION: "log_loss"}
"""The score that importances and learning curves are drawn in: one that falls as the model improves."""

HELD_OUT_ROWS = 2000
"""Held-out rows of a learning curve that give a steady line: a large table needs no more splits than give so many."""


def draw(
    dataset: Dataset,
    splits: Splits,
    model: Artifact,
    estimator: BaseEstimator,
    params: ModelEvaluationParams,
    directory: Path,
) -> list[Figure]:
    """Every figure of a model, drawn into ``directory``.

    Args:
        model: what is served, and so what is judged.
        estimator: the same model as an estimator, cloned where a figure needs it fitted on other rows.

    Raises:
        PipelineError: if the map's coordinates are no features of the dataset.
    """
    regression = dataset.task is Task.REGRESSION
    figures = (
        _regression(dataset, splits, model, params, directory)
        if regression
        else _classification(dataset, splits, model, estimator, params, directory)
    )
    metric = SCORE[dataset.task]

    def loss(actual: FloatMatrix, predicted: FloatMatrix) -> float:
        return score(dataset, actual, predicted, within=params.close)[metric]

    rises = diagnostics.permutation_importances(
        model.predict,
        splits.test.features,
        splits.test.target,
        loss=loss,
        repeats=params.permutation_repeats,
        random_state=params.random_state,
    )
    sizes = params.special(dataset.name).learning_curve or params.learning_curve
    curve = diagnostics.learning_curve(
        estimator,
        splits.train.features,
        splits.train.target,
        task=dataset.task,
        loss=loss,
        fractions=sizes.fractions,
        rows_per_class=sizes.rows_per_class,
        splits=curve_splits(sizes, len(splits.train.target)),
        held_out=sizes.held_out,
        random_state=params.random_state,
    )
    return [
        *figures,
        plots.importances(dataset, rises, directory, metric=metric, rows=len(splits.test.target)),
        plots.learning_curve(dataset, curve, directory, metric=metric),
    ]


def curve_splits(sizes: LearningCurveParams, rows: int) -> int:
    """How many times the held-out rows of a learning curve are drawn from ``rows``."""
    return min(sizes.splits, max(1, round(HELD_OUT_ROWS / (sizes.held_out * rows))))


def _regression(
    dataset: Dataset, splits: Splits, model: Artifact, params: ModelEvaluationParams, directory: Path
) -> list[Figure]:
    special = params.special(dataset.name)
    fineness = params.figures
    actual, predicted = splits.test.target, model.predict(splits.test.features)
    figures = [
        regression_plots.predicted_against_actual(
            dataset, actual, predicted, directory, cutoff=special.cutoff, points=fineness.scatter_rows
        ),
        regression_plots.residuals(dataset, actual, predicted, directory, bins=fineness.residual_bins),
    ]
    if special.map is not None:
        columns = _coordinates(dataset, special.map)
        position, everywhere = splits.test.features[:, columns], splits.all.features[:, columns]
        placed = ~np.isnan(position).any(axis=1)
        figures.append(
            residual_map(
                dataset,
                position[placed],
                (actual - predicted)[placed],
                everywhere[~np.isnan(everywhere).any(axis=1)],
                special.map.places,
                directory,
                cells=special.map.cells,
                minimum_rows=special.map.minimum_rows,
            )
        )
    figures.append(regression_plots.calibration(dataset, actual, predicted, directory, bins=fineness.calibration_bins))
    return figures


def _coordinates(dataset: Dataset, params: MapParams) -> list[int]:
    """The columns of latitude and longitude."""
    names = dataset.feature_names
    for key, name in (("latitude", params.latitude), ("longitude", params.longitude)):
        if name not in names:
            raise PipelineError(
                f"{PARAMS_FILE}: model_evaluation.datasets.{dataset.name}.map.{key} is {name!r}, "
                f"which is no feature of {dataset.name}; it has {', '.join(names)}."
            )
    return [names.index(params.latitude), names.index(params.longitude)]


def _classification(
    dataset: Dataset,
    splits: Splits,
    model: Artifact,
    estimator: BaseEstimator,
    params: ModelEvaluationParams,
    directory: Path,
) -> list[Figure]:
    test = splits.test
    panels = [Answers("test split", test.target, model.predict(test.features))]
    if len(test.target) < params.cross_validation.below_rows:
        rows = splits.all
        probabilities = diagnostics.cross_validated_probabilities(
            estimator,
            rows.features,
            rows.target,
            folds=params.cross_validation.folds,
            random_state=params.random_state,
        )
        panels.append(Answers("cross-validated", rows.target, probabilities))
    return [
        classification_plots.confusion(dataset, panels, directory),
        classification_plots.reliability(dataset, panels[-1], directory, bins=params.figures.calibration_bins),
    ]
