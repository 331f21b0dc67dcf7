"""What the OpenAPI document shows of the models that are served: their versions, and answers that they gave.

The answers are computed beside the requests: they are counted nowhere and are no predictions on record.
"""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import TypeAdapter
from pydantic_core import from_json

from contract.table import FloatMatrix
from ledger.jobs import State, Trigger
from ledger.reader import Bin, Logged, ModelVersion, Stats, VersionStats
from ledger.times import iso
from model.drift import Drift, Verdict
from serving.bundle import for_outsiders
from serving.http import drift, feedback, logs, models, retrain
from serving.http.predictions import EXAMPLE_ID, PredictionApi, prediction_apis
from serving.models import LoadedModel
from serving.protocol.body import write_response
from serving.protocol.codec import Codec, example_tensors
from serving.protocol.documents import MODEL_PATH, VERSION_PATH
from serving.protocol.infer_request import InferRequest
from serving.protocol.inference import Inference

_ANYTHING = TypeAdapter[Any](Any)
_ALL_AS_JSON = InferRequest(None, [], [], {None: False})
_ROWS = 2
"""Rows of a batch."""
_HOUR_US = 3600 * 1_000_000
ByModel = dict[str, Any]
"""A value for each model."""


def with_examples(document: Mapping[str, Any], inference: Inference, *, outside: bool = False) -> dict[str, Any]:
    """A document with what is served now: names and versions in its paths, and an answer of each route.

    Args:
        document: of ``serving.http.openapi``; it stays as it is.
        inference: the models.
        outside: whether outsiders read it.
    """
    made: dict[str, Any] = copy.deepcopy(dict(document))
    bundle = inference.bundle
    versions = {name: predictor.version for name, predictor in bundle.predictors.items()}
    for item in made["paths"].values():
        for operation in item.values():
            for parameter in operation.get("parameters", ()):
                _fill_in(parameter, versions)
    for path, example in _answers(inference, outside=outside):
        _show(made["paths"][path], example)
    for path, example in _answers_by_model(inference).items():
        _show_by_model(made["paths"][path], example, "responses")
    for path in (f"{MODEL_PATH}/infer", f"{VERSION_PATH}/infer"):
        asked: ByModel = {one.name: {"inputs": example_tensors(one, _ROWS)} for one in bundle.datasets}
        _show_by_model(made["paths"][path], asked, "requestBody")
    asked = {one.name: {"model": one.name, "rows": [one.example] * _ROWS} for one in bundle.datasets}
    _show_by_model(made["paths"][drift.PATH], asked, "requestBody")
    return made


def _fill_in(parameter: dict[str, Any], versions: Mapping[str, str]) -> None:
    """Give the parameters of a path the models that are served."""
    if parameter["in"] != "path":
        return
    if parameter["name"] == "model_name":
        parameter["schema"] = {"type": "string", "enum": [*versions]}
        parameter["example"] = next(iter(versions))
    elif parameter["name"] == "model_version":
        parameter["example"] = next(iter(versions.values()))
        # For the script of the page, which follows the model that is chosen.
        parameter["x-versions"] = dict(versions)


def _show(item: Mapping[str, Any], example: object) -> None:
    (operation,) = item.values()
    status = next(status for status in ("200", "202") if status in operation["responses"])
    operation["responses"][status]["content"]["application/json"]["example"] = _plain(example)


def _show_by_model(item: Mapping[str, Any], examples: ByModel, where: str) -> None:
    (operation,) = item.values()
    told = operation[where]["200"] if where == "responses" else operation[where]
    content = told["content"]["application/json"]
    content.pop("example", None)
    content["examples"] = {name: {"summary": name, "value": _plain(one)} for name, one in examples.items()}


def _plain(value: object) -> Any:
    """As JSON has it."""
    return _ANYTHING.dump_python(value, mode="json")


def _answers(inference: Inference, *, outside: bool) -> Iterator[tuple[str, object]]:
    """What routes answer that are about no model, or about one of their own; by path."""
    bundle = inference.bundle
    versions = {name: predictor.version for name, predictor in bundle.predictors.items()}
    for api in prediction_apis(bundle.datasets):
        yield api.path, _prediction(api, bundle[api.dataset.name].model)
    yield "/v2", inference.server_metadata()
    yield "/v2/health/live", {"live": True}
    yield "/v2/health/ready", {"ready": True}
    yield "/v2/repository/index", inference.index()
    yield "/health", bundle.health()
    infos = bundle.models_info()
    yield "/models/info", {"models": {name: for_outsiders(one) if outside else one for name, one in infos.items()}}
    worker = {"models": versions, "workers": {"4711": versions}}
    yield models.RELOAD, worker
    yield models.ROLLBACK, worker
    taken = len(feedback.EXAMPLE)
    counts = {"taken": taken, "replaced": 0, "unchanged": 0, "waiting": 0, "refused": 0}
    yield feedback.PATH, {**counts, "unknown": [], "detail": []}
    logged = [_logged(predictor.model) for predictor in bundle.predictors.values()]
    yield logs.RECENT, {"predictions": [logs.logged(one) for one in logged], "cursor": None}
    yield logs.STATS, logs.stats(_stats(logged))
    job = _job(next(iter(bundle.predictors.values())).model)
    yield retrain.PATH, {"job": job, "new": True, "worker": "A worker is there."}
    yield retrain.JOBS, {"jobs": [job], "worker": "A worker is there."}
    yield retrain.STATUS, {**job, "result": None, "log": "", "worker": "A worker is there."}
    yield retrain.ALERT, {"jobs": [job["id"]], "skipped": []}


def _answers_by_model(inference: Inference) -> dict[str, ByModel]:
    """What routes answer about the model that is asked for; by path."""
    predictors = inference.bundle.predictors.items()
    described = {name: inference.model_metadata(predictor) for name, predictor in predictors}
    ready = {name: {"name": name, "ready": True} for name, _ in predictors}
    inferred = {name: _inferred(predictor.model) for name, predictor in predictors}
    answers = {"": described, "/ready": ready, "/infer": inferred}
    by_path = {f"{path}{end}": answer for path in (MODEL_PATH, VERSION_PATH) for end, answer in answers.items()}
    return by_path | {drift.PATH: {name: _drift(predictor.model) for name, predictor in predictors}}


def _row(model: LoadedModel, rows: int) -> FloatMatrix:
    """The example of the dataset, so many times: ``[N, F]``."""
    return np.array([model.dataset.encode(model.dataset.example)] * rows, dtype=np.float64)


def _prediction(api: PredictionApi, model: LoadedModel) -> dict[str, Any]:
    outputs = model.artifact.outputs(_row(model, _ROWS if api.batch else 1))
    return api.told(outputs, model.version, EXAMPLE_ID)


def _inferred(model: LoadedModel) -> Any:
    name = model.dataset.name
    answer = {"model_name": name, "model_version": model.version, "parameters": {"prediction_id": EXAMPLE_ID}}
    tensors = Codec(model.dataset).tensors(model.artifact.outputs(_row(model, _ROWS)), ())
    return from_json(write_response(answer, tensors, _ALL_AS_JSON)[0])


def _drift(model: LoadedModel) -> Drift:
    """Of the rows of the example request, which are too few."""
    return Drift(
        model=model.dataset.name,
        version=model.version,
        verdict=Verdict.TOO_FEW_ROWS,
        rows=_ROWS,
        reference_rows=model.card.reference.rows,
        changes=[],
    )


def _logged(model: LoadedModel) -> Logged:
    """The example as the ledger has it."""
    dataset, rows = model.dataset, _row(model, 1)
    outputs = dataset.target.classes or (dataset.target.name,)
    version = ModelVersion(0, dataset.name, model.version, dataset.feature_names, outputs, None, dataset.features)
    answered = model.artifact.outputs(rows)
    return Logged(EXAMPLE_ID, _us(model), EXAMPLE_ID, version, "http", 0.4, 1, rows, answered, {})


def _stats(predictions: Sequence[Logged]) -> Stats:
    versions = [
        VersionStats(one.model.model, one.model.version, 1, 1, {0.5: 0.4, 0.95: 0.4, 0.99: 0.4}, [_bin(one)], 0)
        for one in predictions
    ]
    since = predictions[0].time_us // _HOUR_US * _HOUR_US
    return Stats(since, since + 24 * _HOUR_US, versions, [])


def _bin(one: Logged) -> Bin:
    predicted = logs.shown_output(one.model, one.outputs, 0)
    if isinstance(predicted, str):
        return Bin(predicted, None, None, 1)
    return Bin(None, math.floor(predicted), math.floor(predicted) + 1, 1)


def _job(model: LoadedModel) -> dict[str, Any]:
    asked = iso(_us(model))
    return {
        "id": 1,
        "model": model.dataset.name,
        "trigger": Trigger.PERSON,
        "who": "ops",
        "state": State.QUEUED,
        "stage": "",
        "progress": 0.0,
        "attempts": 0,
        "reason": None,
        "created_at": asked,
        "started_at": None,
        "finished_at": None,
    }


def _us(model: LoadedModel) -> int:
    """When the model was loaded, in microseconds since 1970: a time after it was trained."""
    return int(model.loaded_at.timestamp() * 1e6)
