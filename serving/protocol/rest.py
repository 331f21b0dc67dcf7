"""The Open Inference Protocol over HTTP, under ``/v2``.

https://github.com/open-inference/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

from contract.errors import BundleError, InvalidInput, cut
from serving.access import Access
from serving.errors import UnsupportedMediaType, sentence
from serving.http.app import JSON, Handler, HttpRequest, HttpResponse, Route, json_response, not_found
from serving.http.body import content_length, header, media_type, read_body
from serving.protocol.body import read_object, read_request, write_response
from serving.protocol.inference import Inference
from serving.settings import Settings
from serving.telemetry import UNKNOWN
from serving.telemetry.call import Endpoint, http_counter

PREFIX = "/v2"
BINARY = "application/octet-stream"
JSON_LENGTH = "Inference-Header-Content-Length"


class RestProtocol:
    """The protocol's routes.

    Args:
        inference: the models of this worker.
        settings: the limits of size and time.
    """

    def __init__(self, inference: Inference, settings: Settings) -> None:
        self._inference = inference
        self._settings = settings
        self._unknown = Endpoint(UNKNOWN, "v2", counter=http_counter(UNKNOWN))
        self.routes = {route.endpoint.name: route for route in self._all()}
        """By path, without versions: those that are asked most are found at once."""

    def find(self, path: str) -> Route | None:
        """The route of a path that has a version, a slash too many, or the name of a model that is not served."""
        if path != PREFIX and not path.startswith(f"{PREFIX}/"):
            return None
        parts = path.removeprefix(PREFIX).strip("/").split("/")
        version = ""
        if len(parts) > 3 and parts[2] == "versions" and parts[3]:
            version = parts[3]
            del parts[2:4]
        known = self.routes.get("/".join([PREFIX, *parts]).rstrip("/"))
        if known is not None and not version:
            return known
        match parts:
            case ["models", model, *rest] if rest in ([], ["ready"], ["infer"]):
                endpoint = known.endpoint if known is not None else self._unknown
                return self._of_model(endpoint, model, version, "/".join(rest))
        return self._route(self._unknown, not_found, None)

    def _all(self) -> Iterator[Route]:
        yield self._route(_counted(PREFIX), self._server)
        yield self._route(_quiet(f"{PREFIX}/health/live"), self._live, access=Access.PUBLIC)
        yield self._route(_quiet(f"{PREFIX}/health/ready"), self._ready, access=Access.PUBLIC)
        yield self._route(_counted(f"{PREFIX}/repository/index"), self._index, "POST")
        for model, predictor in self._inference.bundle.predictors.items():
            path = f"{PREFIX}/models/{model}"
            counted = {
                "": Endpoint(path, "v2", predictor.dataset, http_counter(path)),
                "ready": Endpoint(f"{path}/ready", "v2", predictor.dataset),
                "infer": Endpoint(f"{path}/infer", "v2", predictor.dataset, http_counter(f"{path}/infer")),
            }
            for what, endpoint in counted.items():
                yield self._of_model(endpoint, model, "", what)

    def _of_model(self, endpoint: Endpoint, model: str, version: str, what: str) -> Route:
        handler, method = {
            "": (self._model, "GET"),
            "ready": (self._model_ready, "GET"),
            "infer": (self._infer, "POST"),
        }[what]
        return self._route(endpoint, partial(handler, model=model, version=version), method)

    def _route(
        self, endpoint: Endpoint, handler: Handler, method: str | None = "GET", access: Access = Access.API
    ) -> Route:
        return Route(endpoint, handler, method, _error_body, access)

    async def _infer(self, request: HttpRequest, *, model: str, version: str) -> HttpResponse:
        inference, call = self._inference, request.call
        predictor = inference.predictor(model, version)
        call.version = predictor.version
        predictor.check_turn(content_length(request.scope))
        body = await self._body(request)
        async with predictor.turn(len(body)):
            length = header(request.scope, b"inference-header-content-length")
            asked = read_request(body, length, predictor.dataset)
            prediction, outputs = await inference.infer(predictor, asked, call, version)
            answer: dict[str, Any] = {"model_name": model, "model_version": prediction.version}
            if asked.id is not None:
                answer["id"] = asked.id
            answer["parameters"] = {"prediction_id": prediction.id}
            content, json_length = write_response(answer, outputs, asked)
        if json_length == len(content):
            return HttpResponse(content)
        return HttpResponse(content, BINARY, {JSON_LENGTH: str(json_length)})

    async def _server(self, _: HttpRequest) -> HttpResponse:
        return json_response(self._inference.server_metadata())

    async def _live(self, _: HttpRequest) -> HttpResponse:
        return json_response({"live": True})

    async def _ready(self, _: HttpRequest) -> HttpResponse:
        self._inference.check_ready()
        return json_response({"ready": True})

    async def _model(self, _: HttpRequest, *, model: str, version: str) -> HttpResponse:
        return json_response(self._inference.model_metadata(self._inference.predictor(model, version)))

    async def _model_ready(self, _: HttpRequest, *, model: str, version: str) -> HttpResponse:
        self._inference.predictor(model, version)
        self._inference.check_ready()
        return json_response({"name": model, "ready": True})

    async def _index(self, request: HttpRequest) -> HttpResponse:
        body = await self._body(request)
        only_ready = read_object(body).get("ready") if body.strip() else None
        if not isinstance(only_ready, bool | None):
            raise InvalidInput("ready must be true or false.")
        models = self._inference.index()
        return json_response([model for model in models if model["state"] == "READY"] if only_ready else models)

    async def _body(self, request: HttpRequest) -> bytes:
        scope, settings = request.scope, self._settings
        kind = media_type(scope) or JSON
        if kind not in {JSON, BINARY}:
            raise UnsupportedMediaType(f"The body must be {JSON} or {BINARY}, not {cut(kind)}.")
        return await read_body(scope, request.receive, settings.MAX_BODY_BYTES, settings.TIMEOUT_SECONDS)


def _counted(path: str) -> Endpoint:
    return Endpoint(path, "v2", counter=http_counter(path))


def _quiet(path: str) -> Endpoint:
    return Endpoint(path, "v2")


def _error_body(error: BundleError) -> dict[str, str]:
    """``{"error": "one sentence"}``."""
    return {"error": sentence(error)}
