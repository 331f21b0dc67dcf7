"""The Open Inference Protocol over HTTP, under ``/v2``: an ASGI application with no more in the way than it needs.

https://github.com/open-inference/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

from pydantic_core import to_json
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from contract.errors import BundleError, InvalidInput, MethodNotAllowed, NotFound, UnsupportedMediaType
from serving.errors import ERROR, INTERNAL_ERROR, error_headers, sentence
from serving.http_body import CLIENT_CLOSED_REQUEST, header, read_body
from serving.protocol.body import read_object, read_request, write_response
from serving.protocol.inference import Inference
from serving.settings import Settings

PREFIX = "/v2"
JSON = "application/json"
BINARY = "application/octet-stream"
JSON_LENGTH = "Inference-Header-Content-Length"


class Request(NamedTuple):
    """A request, and the model and version in its path, empty where there is none."""

    scope: Scope
    receive: Receive
    model: str
    version: str


Answer = tuple[Any, Mapping[str, str]]
"""The body, as bytes or as plain data, and the headers beside the usual ones."""
Handler = Callable[[Request], Awaitable[Answer]]


class RestApp:
    """The protocol's routes.

    Args:
        inference: gives what is asked for, once the worker has started.
        settings: have the limits of size and time.
    """

    def __init__(self, inference: Callable[[], Inference], settings: Settings) -> None:
        self._inference = inference
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; an error is ``{"error": "one sentence"}``."""
        allowed = ""
        headers: Mapping[str, str]
        try:
            allowed, answer, model, version = self._route(scope["path"])
            _check_method(scope, allowed)
            body, headers = await answer(Request(scope, receive, model, version))
            status = 200
        except BundleError as error:
            scope[ERROR] = error
            status, body, headers = error.status, {"error": sentence(error)}, error_headers(error)
            if isinstance(error, MethodNotAllowed):
                headers = {"Allow": allowed}
        except ClientDisconnect:
            status, body, headers = CLIENT_CLOSED_REQUEST, b"", {}  # nobody is there to read it; metrics count it
        except Exception as error:  # noqa: BLE001 - our bug: logged with its stack, answered in the usual form
            scope[ERROR] = error
            status, body, headers = 500, {"error": INTERNAL_ERROR}, {}
        content = body if isinstance(body, bytes) else to_json(body)
        headers = {"Content-Type": JSON, "Content-Length": str(len(content)), **headers}
        raw_headers = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw_headers})
        await send({"type": "http.response.body", "body": content})

    def _route(self, path: str) -> tuple[str, Handler, str, str]:
        """Method and handler of a path, the model and the version in it."""
        parts = path.partition(PREFIX)[2].strip("/").split("/")
        version = ""
        if len(parts) > 3 and parts[2] == "versions":
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
            return content, {}
        return content, {"Content-Type": BINARY, JSON_LENGTH: str(json_length)}

    async def _server(self, _: Request) -> Answer:
        return self._inference().server_metadata(), {}

    async def _live(self, _: Request) -> Answer:
        return {"live": True}, {}

    async def _ready(self, _: Request) -> Answer:
        self._inference().check_ready()
        return {"ready": True}, {}

    async def _model(self, request: Request) -> Answer:
        inference = self._inference()
        return inference.model_metadata(inference.predictor(request.model, request.version)), {}

    async def _model_ready(self, request: Request) -> Answer:
        inference = self._inference()
        inference.predictor(request.model, request.version)
        inference.check_ready()
        return {"name": request.model, "ready": True}, {}

    async def _index(self, request: Request) -> Answer:
        body = await self._body(request)
        only_ready = read_object(body).get("ready") if body.strip() else None
        if not isinstance(only_ready, bool | None):
            raise InvalidInput("ready must be true or false.")
        models = self._inference().index()
        return [model for model in models if model["state"] == "READY"] if only_ready else models, {}

    async def _body(self, request: Request) -> bytes:
        scope = request.scope
        media_type = (header(scope, b"content-type") or JSON).partition(";")[0].strip().lower()
        if media_type not in {JSON, BINARY}:
            raise UnsupportedMediaType(f"The body must be {JSON} or {BINARY}, not {media_type[:60]}.")
        encoding = header(scope, b"content-encoding") or "identity"
        if encoding != "identity":
            raise UnsupportedMediaType(f"The body must not be compressed, and it is {encoding[:60]}.")
        return await read_body(scope, request.receive, self._settings.MAX_BODY_BYTES, self._settings.TIMEOUT_SECONDS)


def _check_method(scope: Scope, allowed: str) -> None:
    if scope["method"] != allowed and (scope["method"], allowed) != ("HEAD", "GET"):
        raise MethodNotAllowed(f"{scope['path'][:200]} takes {allowed}, not {scope['method']}.")
