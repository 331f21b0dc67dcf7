"""A frozen, typed view of ``params.yaml``."""

from pathlib import Path
from typing import Annotated, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from training.errors import PipelineError

PARAMS_FILE = Path("params.yaml")

Name = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(gt=0, le=1)]
Decimals = Annotated[int, Field(ge=0, le=12)]
Parameter = str | int | float | bool | None
"""A parameter of an estimator, as YAML writes it."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


_S = TypeVar("_S", bound=_Section)


class TableParams(_Section):
    """The limits of a raw table that its contract does not state."""

    minimum_rows: Count
    maximum_duplicates: Annotated[int, Field(ge=0)]


class FeatureEngineeringParams(_Section):
    """The split: ``test_size`` is the test split's share of the rows."""

    test_size: Annotated[float, Field(gt=0, lt=1)]
    random_state: int


class RotationParams(_Section):
    """Two columns that are coordinates in a plane, and the angles in degrees to rotate them by."""

    columns: Annotated[tuple[Name, Name], Field(strict=False)]
    degrees: Annotated[tuple[float, ...], Field(strict=False)]


class RowFeatureParams(_Section):
    """The features computed from a row. ``ratios`` are pairs of columns: numerator, denominator.

    ``decimals`` is the number of decimal places that a column is rounded to: an input column by its name, a ratio as
    "numerator / denominator". ``derived_decimals`` is that of the rotated columns and all other ratios. Columns without
    either are not rounded.
    """

    rotations: RotationParams | None = None
    ratios: Annotated[tuple[Annotated[tuple[Name, Name], Field(strict=False)], ...], Field(strict=False)] = ()
    decimals: dict[Name, Decimals] = {}
    derived_decimals: Decimals | None = None


class CandidateParams(_Section):
    """The name of an estimator in ``training/candidates.py``, and its parameters."""

    estimator: Name
    parameters: dict[str, Parameter] = {}


class TrainParams(_Section):
    """How the model of one dataset is chosen and converted.

    ``tolerance`` is the largest allowed absolute difference between the ONNX model and the estimator, in the target's
    unit for regression and of a probability for classification.
    """

    folds: Annotated[int, Field(ge=2)]
    random_state: int
    tolerance: Annotated[float, Field(gt=0)]
    golden_rows: Count
    features: RowFeatureParams
    candidates: Annotated[dict[Name, CandidateParams], Field(min_length=1)]


class GateParams(_Section):
    """The score that the gate compares, and that chooses among the candidates, by task."""

    regression: Literal["rmse", "mae", "median_absolute_error", "r2"]
    classification: Literal["log_loss", "brier", "accuracy", "balanced_accuracy", "macro_f1"]


class ChangeParams(_Section):
    """The smallest change of an answer that counts: a share of the target's standard deviation, or a probability."""

    regression: Annotated[float, Field(gt=0)]
    classification: Share


class StabilityParams(_Section):
    """How many answers may change when numbers change by no more than rounding does.

    ``perturbation`` is relative and applied to one feature at a time. The limits are shares of the test rows: when all
    numbers are rounded to float32, and when any one of them is perturbed. Whole numbers, categories and dates do not
    change.
    """

    change: ChangeParams
    perturbation: Annotated[float, Field(gt=0, lt=1)]
    float32_limit: Annotated[float, Field(ge=0, le=1)]
    perturbed_limit: Annotated[float, Field(ge=0, le=1)]


class LearningCurveParams(_Section):
    """A learning curve: the estimator is fitted on each of ``fractions`` of the rows and scored on the held-out rows.

    The share ``held_out`` is drawn anew for each of ``splits``, of which a table of many rows gets fewer. A fraction
    that leaves a class fewer than ``rows_per_class`` rows is skipped.
    """

    fractions: Annotated[tuple[Share, ...], Field(strict=False, min_length=1)]
    splits: Count
    held_out: Annotated[float, Field(gt=0, lt=1)]
    rows_per_class: Count


class CrossValidationParams(_Section):
    """The figures of a classification test split of fewer than ``below_rows`` rows show all rows, cross-validated."""

    below_rows: Annotated[int, Field(ge=0)]
    folds: Annotated[int, Field(ge=2)]


class FigureParams(_Section):
    """The resolution of the figures, in bins and rows."""

    residual_bins: Count
    calibration_bins: Count
    scatter_rows: Count


class MapParams(_Section):
    """A map of residuals: which features are the coordinates, and places as ``[latitude, longitude]`` in degrees."""

    latitude: Name
    longitude: Name
    cells: Count
    minimum_rows: Count
    places: dict[Name, Annotated[tuple[float, float], Field(strict=False)]] = {}


class DatasetEvaluationParams(_Section):
    """What differs for one dataset.

    ``cutoff``: the largest value that the source of the target reports. ``learning_curve`` and ``stability`` override
    the common ones.
    """

    cutoff: float | None = None
    map: MapParams | None = None
    learning_curve: LearningCurveParams | None = None
    stability: StabilityParams | None = None


class ModelEvaluationParams(_Section):
    """The gate, the stability check and the figures.

    ``margin`` is relative: a share of the champion's score. ``close`` is the relative error that still counts as close.
    """

    gate: GateParams
    margin: Annotated[float, Field(ge=0, lt=1)]
    close: Annotated[float, Field(gt=0)]
    stability: StabilityParams
    permutation_repeats: Count
    random_state: int
    learning_curve: LearningCurveParams
    cross_validation: CrossValidationParams
    figures: FigureParams
    datasets: dict[Name, DatasetEvaluationParams] = {}

    def special(self, name: str) -> DatasetEvaluationParams:
        """``datasets.<name>``; without a section, nothing differs."""
        return self.datasets.get(name, DatasetEvaluationParams())


class GroupParams(_Section):
    """When a class or a region counts: from ``minimum_rows`` on. It may be worse by ``tolerance``, relative."""

    minimum_rows: Count
    tolerance: Annotated[float, Field(ge=0)]


class ByTaskParams(_Section):
    """A number for each task."""

    regression: Annotated[float, Field(ge=0)]
    classification: Annotated[float, Field(ge=0)]


class RetrainingParams(_Section):
    """What ``loop/retrain.py`` trains on, and when its gate lets a challenger become the champion.

    ``margin``, ``tolerance`` and those of groups are relative: shares of the champion's score. ``slack`` is in the
    score's unit: RMSE, or log loss in nats.
    """

    window_days: Annotated[float, Field(gt=0)]
    weight: Annotated[float, Field(gt=0)]
    held_back: Annotated[float, Field(gt=0, lt=1)]
    minimum_rows: Count
    recent_days: Annotated[float, Field(gt=0)]
    minimum_recent_rows: Count
    margin: Annotated[float, Field(ge=0, lt=1)]
    certainty: Annotated[float, Field(gt=0, lt=1)]
    tolerance: Annotated[float, Field(ge=0)]
    group: GroupParams
    slack: ByTaskParams
    quality_drop: ByTaskParams


class DeploymentValidationParams(_Section):
    """The checks of the running service. ``p95_budget_ms`` limits the 95th percentile of the latency of one row."""

    p95_budget_ms: Annotated[float, Field(gt=0)]
    requests: Count
    golden_rows: Count


class Params(_Section):
    """The whole file. Sections that differ by dataset are keyed by the dataset's name."""

    data_preparation: dict[Name, TableParams]
    feature_engineering: FeatureEngineeringParams
    train: dict[Name, TrainParams]
    model_evaluation: ModelEvaluationParams
    retraining: RetrainingParams
    deployment_validation: DeploymentValidationParams

    def table(self, name: str) -> TableParams:
        """``data_preparation.<name>``.

        Raises:
            PipelineError: if the section is missing.
        """
        return _of(self.data_preparation, "data_preparation", name)

    def training(self, name: str) -> TrainParams:
        """``train.<name>``.

        Raises:
            PipelineError: if the section is missing.
        """
        return _of(self.train, "train", name)


def _of(sections: dict[str, _S], key: str, name: str) -> _S:
    if name not in sections:
        raise PipelineError(f"{PARAMS_FILE} has no {key}.{name}: add it after the example of {', '.join(sections)}.")
    return sections[name]


def load(path: Path = PARAMS_FILE) -> Params:
    """Read the parameters.

    Raises:
        PipelineError: if the file is missing or not YAML, or names each key that is missing, unknown or ill-typed.
    """
    try:
        return Params.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise PipelineError(f"{path} is missing: run the stage in the root of the repository.") from None
    except yaml.YAMLError as error:
        raise PipelineError(f"{path} is not YAML: {error}") from error
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(str(part) for part in reason['loc']) or 'the file'}: {reason['msg']}"
            for reason in error.errors(include_url=False)
        )
        raise PipelineError(f"{path}: {wrong}.") from error
