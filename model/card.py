"""The model card: what an artifact says of itself. It travels with ``model.onnx`` from training to serving."""

import hashlib
from datetime import datetime
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from contract.dataset import Dataset, Task
from contract.deciles import DECILES
from contract.errors import StartupError
from contract.feature import Value

CARD_FILE = "card.json"
ONNX_FILE = "model.onnx"
REFERENCE_FILE = "reference.npz"
ONNX_INPUT = "input"
"""Name of the model's only input, FP64 of shape ``[N, F]``."""
REGRESSION_OUTPUT = "predict"
"""Name of a regression model's output, FP64 of shape ``[N]`` or ``[N, 1]``."""
TRAINING_RUN = "training_run"
"""Key of the ``TrainingRun`` in the metadata of a BentoML model."""
FEEDBACK_ROWS = "feedback_rows"
"""Name of the parameter that says how many training rows came from the ledger; left out where none did."""
PROBABILITIES_OUTPUT = "probabilities"
"""Name of a classification model's output, floats of shape ``[N, C]`` that sum to 1."""


class ContractMismatch(StartupError):
    """An artifact was trained under another contract: ``trained`` is its version, ``present`` that of this code."""

    def __init__(self, name: str, trained: str, present: str) -> None:
        super().__init__(
            f"The stored model {name!r} was trained under contract {trained}, this code has {present}: its features, "
            "units or classes changed. Run `make train` to train and import it anew, or check out the code it was "
            "trained with."
        )
        self.trained = trained
        self.present = present


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


Buckets = Annotated[list[float], Field(min_length=1)]
"""The share of rows in each bucket of a feature: ``contract.buckets``."""
Edges = Annotated[list[float], Field(min_length=DECILES + 1, max_length=DECILES + 1)]
Shares = Annotated[list[float], Field(min_length=DECILES, max_length=DECILES)]
Nothing = Annotated[list[float], Field(max_length=0)]
"""Empty: not applicable to this task."""


class FeatureCard(_Part):
    """A feature as the model saw it in training.

    ``deciles`` are the 0 %, 10 %, …, 100 % quantiles of the training split: 11 values; none for flags and categories.
    ``decile_shares`` are the shares of the training split in the feature's buckets, as ``contract.buckets`` counts: the
    ten between the quantiles, or one each category, and one for missing values. Where values are tied, as the ages of
    houses are, those of the deciles are not a tenth each. ``minimum`` to ``std`` are of encoded values, without those
    that are missing; there is no ``mean`` and no ``std`` of categories.
    """

    name: str
    unit: str
    description: str
    minimum: float
    maximum: float
    deciles: Edges | Nothing
    decile_shares: Buckets
    mean: float | None
    std: float | None


class GoldenRow(_Part):
    """A row of the test split and the estimator's own answer: checked when the service starts.

    ``row`` has the values as JSON has them. ``output`` is one number for regression and the class probabilities for
    classification.
    """

    row: dict[str, Value]
    output: list[float]


class OnnxCard(_Part):
    """The converted model beside the estimator: largest absolute difference over all rows, and what was allowed."""

    sha256: str
    opset: int
    max_difference: float
    tolerance: float


class ReferenceCard(_Part):
    """The sample of training rows beside the model: ``model.reference``."""

    rows: int
    sha256: str


class ModelCard(_Part):
    """What an artifact says of itself.

    ``metrics`` are on the test split, ``cross_validation`` is (mean, deviation) by metric on the training split.
    ``prediction_deciles`` (regression) are the 11 quantiles of the model's own predictions on the training split and
    ``prediction_decile_shares`` the shares of the predictions between them, ``class_shares`` (classification) the share
    of each predicted class there. ``data_sha256`` is the checksum of the raw CSV.

    The card depends on the data, the parameters and the code alone: training twice gives the same card. What differs
    from run to run is in ``TrainingRun``.
    """

    name: str
    task: Task
    contract_version: str
    target: str
    unit: str
    classes: list[str]
    features: list[FeatureCard]
    prediction_deciles: Edges | Nothing
    prediction_decile_shares: Shares | Nothing
    class_shares: dict[str, float]
    algorithm: str
    parameters: dict[str, str | int | float | bool | None]
    metrics: dict[str, float]
    cross_validation: dict[str, tuple[float, float]]
    onnx: OnnxCard
    reference: ReferenceCard
    golden: list[GoldenRow]
    training_rows: int
    data_sha256: str
    libraries: dict[str, str]

    @model_validator(mode="after")
    def _has_its_reference(self) -> Self:
        regression = self.task is Task.REGRESSION
        if not bool(self.prediction_deciles) == bool(self.prediction_decile_shares) == regression:
            raise ValueError("prediction_deciles and prediction_decile_shares belong to regression")
        if set(self.class_shares) != set(self.classes):
            raise ValueError("class_shares must have each of the classes")
        return self

    @property
    def feedback_rows(self) -> int:
        """The training rows that came from the ledger."""
        return int(self.parameters.get(FEEDBACK_ROWS) or 0)

    @property
    def content_version(self) -> str:
        """The artifact's version, such as ``sha-3f9a0c1b2d4e``: a checksum of the card, which holds the model's."""
        return f"sha-{hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:12]}"

    def check(self, dataset: Dataset) -> None:
        """Refuse an artifact that was trained under another contract.

        Raises:
            ContractMismatch: names both contract versions and the way out.
        """
        if self.contract_version != dataset.contract_version:
            raise ContractMismatch(dataset.name, self.contract_version, dataset.contract_version)


class TrainingRun(_Part):
    """The MLflow run that made an artifact, when, and from which commit (``+dirty``: with uncommitted changes).

    It is stored beside the artifact, in the metadata of the BentoML model. A machine that got the model from DVC's
    cache alone has none of it: each field is None then.
    """

    run_id: str | None = None
    trained_at: datetime | None = None
    git_revision: str | None = None
