"""The OpenAPI document."""

from collections.abc import Collection, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from contract import DATASETS
from contract.dataset import Dataset
from model.drift import Drift
from serving.http import drift, feedback, logs, logs_page, models, retrain
from serving.http.errors import Error, ErrorReason
from serving.http.feedback import FeedbackEntry, FeedbackResult
from serving.http.models import RollbackRequest, ServedVersions
from serving.http.predictions import prediction_apis
from serving.protocol.documents import (
    BINARY_TYPE,
    JSON_LENGTH_PARAMETER,
    PATH_PARAMETERS,
    PROTOCOL_ROUTES,
    ProtocolError,
    ProtocolRoute,
)

_ERRORS = {
    "400": ("A malformed body or a refused value.", "MedInc: input should be less than or equal to 50, not 1000.0"),
    "401": (
        "No key, or a wrong one. Where the service has keys, all but the probes needs one.",
        "This needs a key: send `Authorization: Bearer <key>`.",
    ),
    "403": ("A key for something else.", "This key does not open this; one of ADMIN_KEYS or API_KEYS does."),
    "404": ("There is no such model, or not in this version.", "There is no model wine; there are housing, iris."),
    "413": ("The body is too large.", "The body is larger than 4194304 bytes; send the rows in several requests."),
    "415": (
        "The body is not JSON, or is compressed with something other than gzip.",
        "The body must be application/json, not text/plain.",
    ),
    "429": (
        "Shed: an answer would take too long; or too many wrong keys. `Retry-After`: seconds until the next try.",
        "The model housing is overloaded: an answer is estimated to take 612 ms, over the limit of 500 ms.",
    ),
    "503": ("The service is shutting down.", "The model housing is shutting down."),
    "504": ("No prediction within the time limit.", "There was no prediction within 30 seconds."),
}
_LEDGER_ERRORS = {
    **_ERRORS,
    "400": ("A malformed body or parameter, or every entry is refused.", "[0].row: the prediction 019abf… has 1 row"),
    "404": ("The ledger is off.", "The ledger is off (LEDGER=off): predictions are not recorded."),
    "503": (
        "The ledger's database does not answer, or has no tables yet. `Retry-After`: seconds until the next try.",
        "The ledger's database does not answer. Predictions are recorded all the same; try again later.",
    ),
    "504": ("The body did not arrive in time.", "The body did not arrive within 30 seconds."),
}

_RELOAD_ERRORS = {
    **_ERRORS,
    "400": ("A malformed body.", "model: the field is missing"),
    "404": ("There is no such model.", "model: there is no model 'wine'; there are housing, iris."),
    "409": (
        "A worker refuses the deployed model, or there is nothing to roll back to. `detail` has each worker's reason.",
        "The deployed model is refused: worker 4711 serves sha-3f9a0c1b2d4e: The stored model housing:sha-… is damaged",
    ),
    "503": (
        "Workers have not looked in time; `detail` names them.",
        "Not all workers have reloaded: worker 4711 has not looked within 120 s",
    ),
    "504": ("The body did not arrive in time.", "The body did not arrive within 30 seconds."),
}

_PREDICTION_ERRORS = ("400", "413", "415", "429", "503", "504")
_CHALLENGE = {"WWW-Authenticate": {"description": "`Bearer`.", "schema": {"type": "string"}}}
_RETRY = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
_HEADERS = {"401": _CHALLENGE, "429": _RETRY}
_TAGS = ("predictions", "ledger", "Open Inference Protocol", "operations", "admin")
BEARER = "key"
"""Name of the scheme: what ``Authorize`` asks for."""
_SCHEME = {
    "type": "http",
    "scheme": "bearer",
    "description": "A key, where the service asks for one (docs/access.md).",
}
PUBLIC = ("/livez", "/healthz", "/readyz", "/health", "/v2/health/live", "/v2/health/ready")
"""Routes that never ask for a key."""

_DRIFT_ERRORS = {
    **_LEDGER_ERRORS,
    "400": ("A malformed body or a refused value.", "rows[3].MedInc: input should be less than or equal to 50, not 99"),
    "429": (
        "Shed: enough requests wait; or too many wrong keys. `Retry-After`: seconds until the next try.",
        "4 requests are compared or wait already. Try again.",
    ),
    "504": ("No answer within the time limit.", "There was no answer within 30 seconds."),
}

_RETRAIN_ERRORS = {
    **_LEDGER_ERRORS,
    "400": ("A malformed body or parameter.", "model: input should be 'housing' or 'iris', not 'wine'"),
    "404": ("There is no such job, or the ledger is off.", "id: there is no job 7; GET /retrain/jobs lists them."),
    "409": (
        "It was retrained a while ago, or little has come true since.",
        'model: housing was last retrained 12 minutes ago; wait 48 minutes, or send "force": true.',
    ),
}

_GZIP = "May be compressed: `Content-Encoding: gzip`."


def _reference(body: type[BaseModel]) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{body.__name__}"}


def _content(body: type[BaseModel], example: object = None) -> dict[str, Any]:
    content: dict[str, Any] = {"schema": _reference(body)}
    if example is not None:
        content["example"] = example
    return {"application/json": content}


_TEXT = {"text/plain": {"schema": {"type": "string"}}}
_JSON = {"application/json": {"schema": {"type": "object"}}}
_NOT_READY = {"503": {"description": "Not ready.", "content": {"application/json": {"schema": {}}}}}
GET_ROUTES: dict[str, dict[str, Any]] = {
    "/livez": {"summary": "Is the process alive?", "content": _TEXT},
    "/healthz": {"summary": "Is the process alive? The name that BentoML has for it", "content": _TEXT},
    "/readyz": {"summary": "Is every model loaded and warm?", "content": _TEXT, "errors": _NOT_READY},
    "/health": {"summary": "Status, uptime and model versions", "content": _JSON, "errors": _NOT_READY},
    "/models/info": {"summary": "Each model's version, run, metrics, features and ranges", "content": _JSON},
    logs.RECENT: {
        "summary": "Predictions on record, newest first",
        "content": _content(logs.RecentPredictions),
        "query": logs.RecentQuery,
    },
    logs.STATS: {
        "summary": "By model and version: rows, requests, errors, latency, distribution, share with feedback",
        "content": _content(logs.LoggedStats),
        "query": logs.StatsQuery,
    },
    retrain.JOBS: {
        "summary": "Retraining jobs, newest first",
        "content": _content(retrain.Jobs),
        "query": retrain.JobsQuery,
    },
    logs_page.PATH: {
        "summary": "The predictions on record as a page for people",
        "content": {"text/html": {"schema": {"type": "string"}}},
        "query": logs_page.PageQuery,
    },
    "/schema.json": {"summary": "The prediction routes, as BentoML's clients read them", "content": _JSON},
    "/metrics": {"summary": "Prometheus metrics", "content": _TEXT},
    "/metrics/prometheus": {"summary": "Prometheus metrics, under the former path", "content": _TEXT},
}


def document(
    title: str, version: str, description: str, datasets: Collection[Dataset] = tuple(DATASETS.values())
) -> dict[str, Any]:
    """The OpenAPI 3.1 document of the service, from the datasets and the protocol.

    Args:
        title, description: of the service.
        version: of the Bento.
        datasets: whose models are served.
    """
    bodies: list[type[BaseModel]] = [Error, ErrorReason]
    lenient_bodies: list[type[BaseModel]] = [ProtocolError, *logs.ANSWERS]
    paths: dict[str, Any] = {}
    first = next(iter(datasets))
    for api in prediction_apis(datasets):
        bodies += [api.takes, api.gives]
        paths[api.path] = {
            "post": {
                "operationId": api.name,
                "tags": ["predictions"],
                "summary": api.summary,
                "requestBody": {"description": _GZIP, "required": True, "content": _content(api.takes, api.example)},
                "responses": {
                    "200": {"description": (api.gives.__doc__ or "").strip(), "content": _content(api.gives)},
                    **{status: _error(status, Error, detail=[]) for status in _PREDICTION_ERRORS},
                },
            }
        }
    for path, route in GET_ROUTES.items():
        answers = {"200": {"description": route["summary"], "content": route["content"]}, **route.get("errors", {})}
        operation: dict[str, Any] = {
            "operationId": path.strip("/").replace("/", "_").replace(".", "_"),
            "tags": ["operations"],
            "summary": route["summary"],
            "responses": answers,
        }
        if "query" in route:
            operation["tags"] = ["ledger"]
            operation["parameters"] = _query_parameters(route["query"])
            errors = {status: _error(status, Error, _LEDGER_ERRORS, detail=[]) for status in ("400", "404", "503")}
            if "application/json" not in route["content"]:
                errors = {status: {**error, "content": route["content"]} for status, error in errors.items()}
            answers |= errors
        paths[path] = {"get": operation}
    paths[feedback.PATH] = {
        "post": {
            "operationId": "feedback",
            "tags": ["ledger"],
            "summary": "What came true for earlier predictions: one entry, or a list of up to 10,000",
            "requestBody": {
                "description": _GZIP,
                "required": True,
                "content": {
                    "application/json": {
                        "schema": {
                            "anyOf": [
                                _reference(FeedbackEntry),
                                {
                                    "type": "array",
                                    "items": _reference(FeedbackEntry),
                                    "minItems": 1,
                                    "maxItems": feedback.MAXIMUM_ENTRIES,
                                },
                            ]
                        },
                        "example": feedback.EXAMPLE,
                    }
                },
            },
            "responses": {
                "200": {"description": (FeedbackResult.__doc__ or "").strip(), "content": _content(FeedbackResult)},
                **{
                    status: _error(status, Error, _LEDGER_ERRORS, detail=[])
                    for status in ("400", "404", "413", "415", "503", "504")
                },
            },
        }
    }
    bodies += [FeedbackEntry, FeedbackResult, RollbackRequest, ServedVersions]
    paths[models.RELOAD] = _reload_item("models_reload", "Have all workers serve the deployed models", ("409", "503"))
    paths[models.ROLLBACK] = _reload_item(
        "models_rollback",
        "Deploy what was deployed before, in all workers",
        ("400", "404", "409", "413", "415", "503", "504"),
        {"required": True, "content": _content(RollbackRequest, {"model": first.name})},
    )
    paths[drift.PATH] = {
        "post": {
            "operationId": "drift_detect",
            "tags": ["ledger"],
            "summary": "Drift of rows that are sent, 1 to 10,000, or of the recent predictions on record",
            "requestBody": {
                "description": _GZIP,
                "required": True,
                "content": {
                    "application/json": {
                        "schema": {"anyOf": [_reference(drift.request_of(dataset)) for dataset in datasets]},
                        "example": {"model": first.name, "rows": [first.example] * 2},
                    }
                },
            },
            "responses": {
                "200": {"description": (Drift.__doc__ or "").strip(), "content": _content(Drift)},
                **{
                    status: _error(status, Error, _DRIFT_ERRORS, detail=[])
                    for status in ("400", "404", "413", "415", "429", "503", "504")
                },
            },
        }
    }
    bodies += [Drift, *map(drift.request_of, datasets)]
    paths |= _retrain_paths(first)
    bodies += [retrain.RetrainRequest]
    lenient_bodies += retrain.ANSWERS
    for path, protocol_route in PROTOCOL_ROUTES.items():
        paths[path] = _protocol_item(path, protocol_route)
        lenient_bodies += [body for body in (protocol_route.takes, protocol_route.gives) if body]
    _add_access(paths)
    _, schemas = models_json_schema(
        [
            *((body, "serialization") for body in dict.fromkeys(bodies)),
            # Fields with a default may be left out, in answers too.
            *((body, "validation") for body in dict.fromkeys(lenient_bodies)),
        ],
        ref_template="#/components/schemas/{model}",
    )
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version, "description": description},
        # Relative to this document: a proxy may serve it under a path of its own.
        "servers": [{"url": "./"}],
        "tags": [
            {"name": name} for name in ("predictions", "ledger", "Open Inference Protocol", "operations", "admin")
        ],
        "paths": paths,
        # No key is needed if the service has none: the document is the same.
        "security": [{BEARER: []}, {}],
        "components": {"schemas": schemas["$defs"], "securitySchemes": {BEARER: _SCHEME}},
    }


def _retrain_paths(first: Dataset) -> dict[str, Any]:
    def errors(*statuses: str) -> dict[str, Any]:
        return {status: _error(status, Error, _RETRAIN_ERRORS, detail=[]) for status in statuses}

    def post(name: str, summary: str, status: str, body: type[BaseModel], example: Any, gives: type[BaseModel]) -> Any:
        refused = ("400", "404", *(["409"] if status == "202" else []), "413", "415", "503", "504")
        return {
            "operationId": name,
            "tags": ["admin"],
            "security": [{BEARER: []}],
            "summary": summary,
            "requestBody": {"description": _GZIP, "required": True, "content": _content(body, example)},
            "responses": {
                status: {"description": (gives.__doc__ or "").strip(), "content": _content(gives)},
                **errors(*refused),
            },
        }

    alert = {"alerts": [{"status": "firing", "labels": {"alertname": "FeatureDrift", "model": first.name}}]}
    identifier = {"description": "The number of the job.", "schema": {"type": "integer", "minimum": 1}}
    told = {"description": (retrain.JobStatus.__doc__ or "").strip(), "content": _content(retrain.JobStatus)}
    return {
        retrain.PATH: {
            "post": post(
                "retrain",
                "Ask for a retraining (admin key): a job, which the worker of the loop runs",
                "202",
                retrain.RetrainRequest,
                {"model": first.name},
                retrain.Taken,
            )
        },
        retrain.ALERT: {
            "post": post(
                "retrain_alert",
                "Alertmanager's webhook (admin key): retrain the models of firing alerts",
                "200",
                retrain.AlertRequest,
                alert,
                retrain.AlertAnswer,
            )
        },
        retrain.STATUS: {
            "get": {
                "operationId": "retrain_status",
                "tags": ["ledger"],
                "summary": "A retraining job: stage, progress, the end of its log, and why it ended as it did",
                "parameters": [{"name": "id", "in": "path", "required": True, **identifier}],
                "responses": {"200": told, **errors("404", "503")},
            }
        },
    }


def _reload_item(
    name: str, summary: str, errors: tuple[str, ...], body: dict[str, Any] | None = None
) -> dict[str, Any]:
    operation: dict[str, Any] = {"operationId": name, "tags": ["admin"], "summary": summary}
    operation["security"] = [{BEARER: []}]
    if body is not None:
        operation["requestBody"] = body
    operation["responses"] = {
        "200": {"description": (ServedVersions.__doc__ or "").strip(), "content": _content(ServedVersions)},
        **{status: _error(status, Error, _RELOAD_ERRORS, detail=[]) for status in errors},
    }
    return {"post": operation}


def _query_parameters(query: type[BaseModel]) -> list[dict[str, Any]]:
    """The fields of a query, as parameters."""
    parameters = []
    for name, schema in query.model_json_schema()["properties"].items():
        # An optional parameter is left out of an address; there is no null.
        kinds = [kind for kind in schema.get("anyOf", [schema]) if kind.get("type") != "null"]
        kept = {key: value for key, value in schema.items() if key not in ("anyOf", "title", "description", "default")}
        default = {} if schema.get("default") is None else {"default": schema["default"]}
        shape = {**{key: value for key, value in kinds[0].items() if key not in ("title", "description")}, **kept}
        parameters.append(
            {"name": name, "in": "query", "description": schema["description"], "schema": {**shape, **default}}
        )
    return parameters


def _protocol_item(path: str, route: ProtocolRoute) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, **parameter}
        for name, parameter in PATH_PARAMETERS.items()
        if f"{{{name}}}" in path
    ]
    gives = _content(route.gives)
    operation: dict[str, Any] = {
        "operationId": path.strip("/").replace("/", "_").replace("{", "").replace("}", ""),
        "tags": ["Open Inference Protocol"],
        "summary": route.summary,
        "parameters": parameters,
        "responses": {
            "200": {"description": (route.gives.__doc__ or "").strip(), "content": gives},
            **{status: _error(status, ProtocolError) for status in route.errors},
        },
    }
    if route.takes is None:
        return {"get": operation}
    takes = _content(route.takes, route.example)
    if path.endswith("/infer"):
        parameters.append(JSON_LENGTH_PARAMETER)
        takes[BINARY_TYPE] = gives[BINARY_TYPE] = {}
    operation["requestBody"] = {"description": _GZIP, "required": path.endswith("/infer"), "content": takes}
    return {"post": operation}


def _error(
    status: str, body: type[BaseModel], errors: Mapping[str, tuple[str, str]] = _ERRORS, **fields: object
) -> dict[str, Any]:
    description, sentence = errors[status]
    answer: dict[str, Any] = {
        "description": description,
        "content": _content(body, {"error": sentence, **fields}),
    }
    if status in _HEADERS:
        answer["headers"] = _HEADERS[status]
    elif "Retry-After" in description:
        answer["headers"] = _RETRY
    return answer


def _add_access(paths: dict[str, Any]) -> None:
    """Say of each operation whether it takes a key, and how it refuses those without one."""
    for path, item in paths.items():
        for operation in item.values():
            if path in PUBLIC:
                operation["security"] = []
                continue
            body: type[BaseModel] = ProtocolError if path.startswith("/v2") else Error
            fields: dict[str, object] = {} if body is ProtocolError else {"detail": []}
            refused = {status: _error(status, body, _ERRORS, **fields) for status in ("401", "403")}
            operation["responses"] = {**operation["responses"], **refused}
