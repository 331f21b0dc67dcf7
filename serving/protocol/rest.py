"""The Open Inference Protocol over HTTP, under ``/v2``.

https://github.com/open-inference/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
"""

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from pydantic_core import to_json
from starlette.types import Receive, Scope

from contract.errors import BundleError, InvalidInput, NotFound, UnsupportedMediaType
from serving.errors import sentence
from serving.http.body import check_method, header, media_type, read_body
from serving.http.json_app import JSON, Answer, JsonApp
from serving.protocol.body import read_object, read_request, write_response
from serving.protocol.inference import Inference
from serving.settings import Settings

PREFIX = "/v2"
BINARY = "application/octet-stream"
JSON_LENGTH = "Inference-Header-Content-Length"


class Request(NamedTuple):
    """A request, and the model and version in its path, empty where there is none."""

    scope: Scope
    receive: Receive
    model: str
    version: str


Handler = Callable[[Request], Awaitable[Any]]
"""Answers a request: with plain data for JSON, or with an ``Answer``."""


class RestApp(JsonApp):
    """The protocol's routes.

    Args:
        inference: gives what is asked for, once the worker has started.
        settings: have the limits of size and time.
    """

    def __init__(self, inference: Callable[[], Inference], settings: Settings) -> None:
        self._inference = inference
        self._settings = settings

    async def answer(self, scope: Scope, receive: Receive) -> Answer:
        """The answer of the path's handler."""
        allowed, handler, model, version = self._route(scope["path"])
        check_method(scope, allowed)
        answer = await handler(Request(scope, receive, model, version))
        return answer if isinstance(answer, Answer) else Answer(to_json(answer))

    def error_body(self, error: BundleError) -> dict[str, str]:
        """``{"error": "one sentence"}``."""
        return {"error": sentence(error)}

    def _route(self, path: str) -> tuple[str, Handler, str, str]:
        """Method and handler of a path, the model and the version in it."""
        parts = path.partition(PREFIX)[2].strip("/").split("/")
        version = ""
        if len(parts) > 3 and parts[2] == "versions" and parts[3]:
            version = parts[3]
            del parts[2:4]
        match parts:
            case ["models", model, "infer"]:
                return "POST", self._infer, model, version
            case ["models", model]:
                return "GET", self._model, model, version
            case ["models", model, "ready"]:
                return "GET", self._model_ready, model, version
            case ["repository", "index"]:
                return "POST", self._index, "", ""
            case [""]:
                return "GET", self._server, "", ""
            case ["health", "live"]:
                return "GET", self._live, "", ""
            case ["health", "ready"]:
                return "GET", self._ready, "", ""
        raise NotFound(f"There is no {path[:200]}; GET /docs lists the routes.")

    async def _infer(self, request: Request) -> Answer:
        inference = self._inference()
        inference.check_started()
        predictor = inference.predictor(request.model, request.version)
        body = await self._body(request)
        asked = read_request(body, header(request.scope, b"inference-header-content-length"))
        outputs = await inference.infer(predictor, asked.inputs, asked.outputs)
        answer: dict[str, Any] = {"model_name": request.model, "model_version": predictor.model.version}
        if asked.id is not None:
            answer["id"] = asked.id
        content, json_length = write_response(answer, outputs, asked)
        if json_length == len(content):
            return Answer(content)
        return Answer(content, BINARY, {JSON_LENGTH: str(json_length)})

    async def _server(self, _: Request) -> Any:
        return self._inference().server_metadata()

    async def _live(self, _: Request) -> Any:
        return {"live": True}

    async def _ready(self, _: Request) -> Any:
        self._inference().check_ready()
        return {"ready": True}

    async def _model(self, request: Request) -> Any:
        inference = self._inference()
        return inference.model_metadata(inference.predictor(request.model, request.version))

    async def _model_ready(self, request: Request) -> Any:
        inference = self._inference()
        inference.predictor(request.model, request.version)
        inference.check_ready()
        return {"name": request.model, "ready": True}

    async def _index(self, request: Request) -> Any:
        body = await self._body(request)
        only_ready = read_object(body).get("ready") if body.strip() else None
        if not isinstance(only_ready, bool | None):
            raise InvalidInput("ready must be true or false.")
        models = self._inference().index()
        return [model for model in models if model["state"] == "READY"] if only_ready else models

    async def _body(self, request: Request) -> bytes:
        scope = request.scope
        kind = media_type(scope) or JSON
        if kind not in {JSON, BINARY}:
            raise UnsupportedMediaType(f"The body must be {JSON} or {BINARY}, not {kind[:60]}.")
        return await read_body(scope, request.receive, self._settings.MAX_BODY_BYTES, self._settings.TIMEOUT_SECONDS)
