"""The model card: what an artifact says of itself. It travels with ``model.onnx`` from training to serving."""

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from contract.dataset import Dataset, Task
from contract.errors import StartupError

CARD_FILE = "card.json"
ONNX_FILE = "model.onnx"
ONNX_INPUT = "input"
"""Name of the model's only input, FP64 of shape ``[N, F]``."""
REGRESSION_OUTPUT = "predict"
"""Name of a regression model's output, FP64 of shape ``[N]`` or ``[N, 1]``."""
PROBABILITIES_OUTPUT = "probabilities"
"""Name of a classification model's output, floats of shape ``[N, C]`` that sum to 1."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FeatureCard(_Part):
    """A feature as the model saw it in training.

    ``deciles`` are the 0 %, 10 %, …, 100 % quantiles of the training split: 11 values.
    """

    name: str
    unit: str
    description: str
    minimum: float
    maximum: float
    deciles: Annotated[list[float], Field(min_length=11, max_length=11)]
    mean: float
    std: float


class GoldenRow(_Part):
    """A row of the test split and the estimator's own answer: checked when the service starts.

    ``output`` is one number for regression and the class probabilities for classification.
    """

    row: dict[str, float]
    output: list[float]


class OnnxCard(_Part):
    """The converted model beside the estimator: largest absolute difference over all rows, and what was allowed."""

    sha256: str
    opset: int
    max_difference: float
    tolerance: float


class ModelCard(_Part):
    """What an artifact says of itself.

    ``metrics`` are on the test split, ``cross_validation`` is (mean, deviation) by metric on the training split.
    ``prediction_deciles`` (regression) are the 11 quantiles of the model's own predictions on the training split,
    ``class_shares`` (classification) the share of each predicted class there. ``data_sha256`` is the checksum of the
    raw CSV; ``git_revision`` ends in ``+dirty`` for an uncommitted tree.
    """

    name: str
    task: Task
    contract_version: str
    target: str
    unit: str
    classes: list[str]
    features: list[FeatureCard]
    prediction_deciles: list[float]
    class_shares: dict[str, float]
    algorithm: str
    parameters: dict[str, str | int | float | bool | None]
    metrics: dict[str, float]
    cross_validation: dict[str, tuple[float, float]]
    onnx: OnnxCard
    golden: list[GoldenRow]
    training_rows: int
    data_sha256: str
    git_revision: str
    run_id: str
    trained_at: datetime
    libraries: dict[str, str]

    def check(self, dataset: Dataset) -> None:
        """Refuse an artifact that was trained under another contract.

        Raises:
            StartupError: names both contract versions and the way out.
        """
        if self.contract_version != dataset.contract_version:
            raise StartupError(
                f"The stored model {dataset.name!r} was trained under contract {self.contract_version}, this code has "
                f"{dataset.contract_version}: its features, units or classes changed. Run `make train` to train and "
                "import it anew, or check out the code it was trained with."
            )
