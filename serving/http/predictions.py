"""The prediction routes, ``/predict/{model}`` and ``/predict/{model}/batch``: flat JSON in, flat JSON out."""

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import to_json

from contract.dataset import Dataset, Task
from contract.errors import cut
from contract.table import FloatMatrix
from serving.errors import UnsupportedMediaType
from serving.http.app import JSON, HttpRequest, HttpResponse, Route
from serving.http.body import content_length, media_type, most_tokens, parse_json, read_body
from serving.http.errors import checked
from serving.http.rows import SLICE_ROWS, Slices, T, batch_rows
from serving.prediction import Prediction, Predictor
from serving.settings import Settings
from serving.telemetry.call import Endpoint, http_counter

MAXIMUM_ROW_BYTES = 64 * 1024
"""Largest body of a single row."""
USUAL_ROW_BYTES = 2048
"""A larger row must have unknown fields. pydantic takes 6 µs for each, so it gets none of them."""
EXAMPLE_ID = "019abf3c52b071f4a1138a0d3c7c4f6d"
"""A prediction id, for examples."""


class ModelRef(BaseModel):
    """The model that answered."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(description="Name of the model.")
    version: str = Field(description="Version in the BentoML model store.")


class Origin(BaseModel):
    """Where an answer comes from."""

    unit: str = Field(description="Unit of the prediction.")
    model: ModelRef
    prediction_id: str = Field(
        description="Identifies this answer: a UUIDv7 of 32 hexadecimal digits. A row of a batch is it and its index.",
        examples=[EXAMPLE_ID],
    )


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


class PredictionApi:
    """One prediction route of a dataset: its path, its API method, its entry in the OpenAPI document.

    ``takes`` and ``gives`` are the bodies of request and answer.
    """

    def __init__(self, dataset: Dataset, *, batch: bool) -> None:
        self.dataset = dataset
        self.batch = batch
        self.path = f"/predict/{dataset.name}/batch" if batch else f"/predict/{dataset.name}"
        self.name = f"predict_{dataset.name}_batch" if batch else f"predict_{dataset.name}"
        self.takes: type[BaseModel] = dataset.rows if batch else dataset.row
        regression = dataset.task is Task.REGRESSION
        self.gives: type[BaseModel]
        if batch:
            self.gives = RegressionPredictions if regression else ClassificationPredictions
        else:
            self.gives = RegressionPrediction if regression else ClassificationPrediction
        self.summary = f"{dataset.description} One to 10,000 rows." if batch else dataset.description

    @property
    def example(self) -> dict[str, Any]:
        """A body that works when tried."""
        return {"rows": [self.dataset.example] * 2} if self.batch else self.dataset.example

    def matrix(self, body: Any) -> FloatMatrix:
        """A validated body as rows ``[N, F]``."""
        return self.dataset.matrix(body.rows if self.batch else (body,))

    def answer(self, prediction: Prediction) -> dict[str, Any]:
        """A prediction as plain data, as ``gives`` declares it."""
        return self.told(prediction.outputs, prediction.version, prediction.id)

    def told(self, outputs: FloatMatrix, version: str, identifier: str) -> dict[str, Any]:
        """Outputs ``[N, K]`` of a version as plain data, as ``gives`` declares it."""
        values = _values(self.dataset, outputs)
        origin = self._origin(version, identifier)
        return {**origin, "predictions": values} if self.batch else {**values[0], **origin}

    def batch_answer(self, prediction: Prediction) -> Slices[bytes]:
        """The answer to a batch as JSON, made in slices."""
        outputs = prediction.outputs
        parts = []
        for start in range(0, len(outputs), SLICE_ROWS):
            if start:
                yield
            parts.append(to_json(_values(self.dataset, outputs[start : start + SLICE_ROWS]))[1:-1])
        return b'%s,"predictions":[%s]}' % (
            to_json(self._origin(prediction.version, prediction.id))[:-1],
            b",".join(parts),
        )

    def _origin(self, version: str, identifier: str) -> dict[str, Any]:
        return {
            "unit": self.dataset.target.unit,
            "model": {"name": self.dataset.name, "version": version},
            "prediction_id": identifier,
        }


def prediction_apis(datasets: Iterable[Dataset]) -> list[PredictionApi]:
    """The prediction routes of datasets."""
    return [PredictionApi(dataset, batch=batch) for dataset in datasets for batch in (False, True)]


class PredictionApp:
    """Answers the requests of one prediction route.

    Args:
        api: what the route takes and gives.
        predictor: of its dataset.
        settings: the limits of size and time.
    """

    def __init__(self, api: PredictionApi, predictor: Predictor, settings: Settings) -> None:
        self._api = api
        self._validate = api.takes.model_validate_json
        self._predictor = predictor
        self._limit = settings.MAX_BODY_BYTES if api.batch else min(settings.MAX_BODY_BYTES, MAXIMUM_ROW_BYTES)
        self._seconds = settings.TIMEOUT_SECONDS
        self._most_tokens = most_tokens(api.dataset.json_fields)

    @property
    def route(self) -> Route:
        """The route. Its series start at 0, so that a rate counts the first request too."""
        counter = http_counter(self._api.path)
        counter.start_at_zero(200, 500)
        return Route(Endpoint(self._api.path, "http", self._api.dataset, counter), self.answer, "POST")

    async def answer(self, request: HttpRequest) -> HttpResponse:
        """Body to validated rows to a prediction to JSON."""
        request.call.version = self._predictor.version
        kind = media_type(request.scope) or JSON
        if kind != JSON:
            raise UnsupportedMediaType(f"The body must be {JSON}, not {cut(kind)}.")
        if self._api.batch:
            return await self._answer_batch(request)
        body = await read_body(request.scope, request.receive, self._limit, self._seconds)
        prediction = await self._predictor.predict(self._api.matrix(self._row(body)), request.call)
        return HttpResponse(to_json(self._api.answer(prediction)))

    async def _answer_batch(self, request: HttpRequest) -> HttpResponse:
        predictor = self._predictor
        predictor.check_turn(content_length(request.scope))
        body = await read_body(request.scope, request.receive, self._limit, self._seconds)
        async with predictor.turn(len(body)):
            rows = await in_slices(batch_rows(self._api.dataset, parse_json(body, self._most_tokens)))
            prediction = await predictor.predict(rows, request.call)
            return HttpResponse(await in_slices(self._api.batch_answer(prediction)))

    def _row(self, body: bytes) -> Any:
        """The row of a body, checked.

        Raises:
            InvalidInput: names the field.
        """
        if len(body) <= USUAL_ROW_BYTES:
            with suppress(ValidationError):
                return self._validate(body)
        return checked(self._api.dataset.row, parse_json(body))


async def in_slices(work: Slices[T]) -> T:
    """The result of work; other requests are answered between its slices."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: T = end.value
            return result
        await asyncio.sleep(0)


def _values(dataset: Dataset, outputs: FloatMatrix) -> list[dict[str, Any]]:
    """Outputs ``[N, K]`` as the fields of a ``RegressionValue`` or ``ClassificationValue`` each."""
    if dataset.task is Task.REGRESSION:
        return [{"prediction": value} for value in outputs[:, 0].tolist()]
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
