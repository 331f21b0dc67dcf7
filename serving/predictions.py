"""What the prediction routes answer: a model's outputs in the words of its dataset."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from contract.dataset import Dataset, Row
from contract.table import FloatMatrix
from serving.batching.runner import Runner
from serving.models import LoadedModel
from serving.telemetry import request_id


class ModelRef(BaseModel):
    """The model that answered."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(description="Name of the model.")
    version: str = Field(description="Version in the BentoML model store.")


class Origin(BaseModel):
    """Where an answer comes from."""

    unit: str = Field(description="Unit of the prediction.")
    model: ModelRef
    prediction_id: str = Field(description="Identifies this answer.", examples=["0b3a7c52b0f1411f8a3a0d3c7c4f6d0e"])


class RegressionValue(BaseModel):
    """One predicted number."""

    prediction: float = Field(description="The predicted value, in `unit`.")


class ClassificationValue(BaseModel):
    """One predicted class."""

    prediction: int = Field(description="Index of the most probable class.")
    label: str = Field(description="Name of the most probable class.")
    confidence: float = Field(description="Probability of that class, 0 to 1.")
    probabilities: dict[str, float] = Field(description="Probability of each class by name; they sum to 1.")


class RegressionPrediction(Origin, RegressionValue):
    """The answer to one row: a number."""


class ClassificationPrediction(Origin, ClassificationValue):
    """The answer to one row: a class."""


class RegressionPredictions(Origin):
    """The answers to a batch, in the order of its rows."""

    predictions: list[RegressionValue]


class ClassificationPredictions(Origin):
    """The answers to a batch, in the order of its rows."""

    predictions: list[ClassificationValue]


class Predictor:
    """A loaded model and its runner: validated rows in, answers out."""

    def __init__(self, model: LoadedModel, runner: Runner) -> None:
        self.model = model
        self.runner = runner
        self._model_ref = ModelRef(name=model.dataset.name, version=model.version)

    async def regress(self, row: Row) -> RegressionPrediction:
        """One row to a number."""
        outputs = await self._run([row])
        return RegressionPrediction(prediction=float(outputs[0, 0]), **self._origin())

    async def regress_batch(self, rows: Sequence[Row]) -> RegressionPredictions:
        """Rows to a number each, in their order."""
        outputs = await self._run(rows)
        values = [RegressionValue(prediction=value) for value in outputs[:, 0].tolist()]
        return RegressionPredictions(predictions=values, **self._origin())

    async def classify(self, row: Row) -> ClassificationPrediction:
        """One row to a class."""
        outputs = await self._run([row])
        (value,) = _classes(self.model.dataset, outputs)
        return ClassificationPrediction(**value, **self._origin())

    async def classify_batch(self, rows: Sequence[Row]) -> ClassificationPredictions:
        """Rows to a class each, in their order."""
        outputs = await self._run(rows)
        values = [ClassificationValue(**value) for value in _classes(self.model.dataset, outputs)]
        return ClassificationPredictions(predictions=values, **self._origin())

    async def _run(self, rows: Sequence[Row]) -> FloatMatrix:
        return await self.runner.run(self.model.dataset.matrix(rows))

    def _origin(self) -> dict[str, Any]:
        return {
            "unit": self.model.dataset.target.unit,
            "model": self._model_ref,
            "prediction_id": request_id.new(),
        }


def _classes(dataset: Dataset, outputs: FloatMatrix) -> list[dict[str, Any]]:
    """Probabilities ``[N, C]`` as the fields of a ``ClassificationValue`` each."""
    classes = dataset.target.classes
    best = np.argmax(outputs, axis=1).tolist()
    return [
        {
            "prediction": index,
            "label": classes[index],
            "confidence": probabilities[index],
            "probabilities": dict(zip(classes, probabilities, strict=True)),
        }
        for index, probabilities in zip(best, outputs.tolist(), strict=True)
    ]
