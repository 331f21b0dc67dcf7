"""The HTTP application of a worker, the outermost layer: it finds the route of a request and answers it.

It does so itself, not with Starlette's middlewares, routes and response classes, which take a quarter of a small
prediction's time. BentoML's application is behind it, and gets only the requests of the routes in ``BENTOML_ROUTES``.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from pydantic_core import to_json
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from contract.errors import BundleError, cut
from serving import receiving
from serving.access import HEADER, Access, Gate
from serving.actions import ActionLog
from serving.draining import DRAINING
from serving.errors import INTERNAL_ERROR, NotFound, Unauthenticated, error_headers
from serving.http.body import check_method, header
from serving.http.door import LEFT, STATE, Door
from serving.http.errors import flat_error
from serving.telemetry import UNKNOWN, request_id
from serving.telemetry.call import ARRIVED, CLIENT_CLOSED_REQUEST, Call, Endpoint, http_counter
from serving.telemetry.request_log import RequestLog

JSON = "application/json"
BENTOML_ROUTES = ("/livez", "/healthz", "/readyz", "/schema.json")
"""Routes that BentoML's application answers: the probes, and the schema that its clients read."""
PROBES = ("/livez", "/healthz", "/readyz")
_REQUEST_ID = request_id.HEADER.encode()
_NO_STATE: Mapping[str, Any] = MappingProxyType({})
_AUTHORIZATION = HEADER.encode()
_BASIC_CHALLENGE = (b"www-authenticate", b'Basic realm="any name, and a key as the password", charset="UTF-8"')
"""Makes a browser ask for a password. It is a separate header, because browsers do not split a list of challenges."""


class HttpRequest(NamedTuple):
    """A request as ASGI has it, and its call."""

    scope: Scope
    receive: Receive
    call: Call


class HttpResponse(NamedTuple):
    """The answer to a request; ``headers`` are those beside its type and length."""

    content: bytes
    media_type: str = JSON
    headers: Mapping[str, str] = MappingProxyType({})
    status: int = 200


def json_response(content: Any, status: int = 200) -> HttpResponse:
    """Plain data as JSON."""
    return HttpResponse(to_json(content), status=status)


Handler = Callable[[HttpRequest], Awaitable[HttpResponse]]
"""Answers a request, or raises a ``BundleError``, which carries the status of the answer."""


@dataclass(frozen=True, eq=False, slots=True)
class Route:
    """What answers the requests of a path.

    Args:
        endpoint: its name in metrics and logs.
        handler: answers; None where BentoML's application does.
        method: the only method it takes; a route that takes GET takes HEAD too. None for any.
        error_body: what a client is told of an error, as plain data.
        access: which keys open it.
        page: people open it in a browser, which asks them for a key.
    """

    endpoint: Endpoint
    handler: Handler | None
    method: str | None = "GET"
    error_body: Callable[[BundleError], Any] = flat_error
    access: Access = Access.API
    page: bool = False


def quiet_route(path: str, handler: Handler | None, access: Access = Access.API, *, page: bool = False) -> Route:
    """A route of probes, scrapes and pages: it is not counted, and logged only if it has a bug."""
    return Route(Endpoint(path, "http"), handler, access=access, page=page)


def _of_bentoml(path: str) -> Route:
    return quiet_route(path, None, Access.PUBLIC if path in PROBES else Access.API)


class HttpApp:
    """The application.

    Args:
        routes: by path; only exactly this path is answered.
        find_route: finds the route of a path that is not in ``routes``, or None.
        behind: BentoML's application.
        log: writes a line for each request that is worth one.
        gate: decides who may call what.
        actions: records who called admin routes.
        door: has refused some requests before they came here; they are counted here.
    """

    def __init__(
        self,
        routes: Mapping[str, Route],
        find_route: Callable[[str], Route | None],
        behind: ASGIApp,
        log: RequestLog,
        gate: Gate,
        actions: ActionLog,
        door: Door,
    ) -> None:
        self.routes = {**routes, **{path: _of_bentoml(path) for path in BENTOML_ROUTES}}
        self._find_route = find_route
        self._behind = behind
        self._log = log
        self._gate = gate
        self._actions = actions
        self.door = door
        door.exempt = frozenset(
            path.encode() for path, route in self.routes.items() if route.access in {Access.PUBLIC, Access.METRICS}
        )
        door.listener = self._count_refused
        self._unknown = Route(Endpoint(UNKNOWN, "http", counter=http_counter(UNKNOWN)), not_found, None)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; everything that is not HTTP goes to BentoML's application."""
        if scope["type"] != "http":
            self.join(scope)
            await self._behind(scope, receive, send)
            return
        route = self.route(scope["path"])
        arrived = scope.get("state", _NO_STATE).get(ARRIVED)
        with Call(route.endpoint, header(scope, _REQUEST_ID), self._log, arrived) as call:
            call.scope = scope
            # Check the key first: without one, a caller learns neither which paths nor which methods exist.
            if self._gate.needs_key(route.access) and (refused := self._refused(route, call, scope)):
                extra = (_BASIC_CHALLENGE,) if route.page and refused.status == Unauthenticated.status else ()
                await _send(send, refused, call, extra)
            elif route.handler is None:
                await self._pass_on(scope, receive, send, call)
            else:
                request = HttpRequest(scope, receive, call)
                answer = _answer if route.access is not Access.ADMIN else self._answer_recorded
                await _send(send, await answer(route, route.handler, request), call)

    def _refused(self, route: Route, call: Call, scope: Scope) -> HttpResponse | None:
        """The answer to a caller who may not pass; None for others."""
        reads = scope["method"] in {"GET", "HEAD"}
        refusal = self._gate.refusal(route.access, authorization(scope), reads=reads)
        if refusal is None:
            return None
        error = self._gate.count(refusal, client_of(scope), route.endpoint.protocol)
        return _error(error, call, route.error_body)

    async def _answer_recorded(self, route: Route, handler: Handler, request: HttpRequest) -> HttpResponse:
        """Answer on an admin route, and put on record who called it."""
        scope = request.scope
        # Look the key up now: its file may lose it during the request.
        holder = self._gate.holder(authorization(scope) or b"")
        if holder is None:
            raise RuntimeError("an admin route was reached without a key")
        try:
            return await _answer(route, handler, request)
        finally:
            await self._actions.record(request.call, holder.key, client_of(scope))

    def join(self, lifespan: Scope) -> None:
        """Pass this application's door to the connections of a server, in the scope of its lifespan."""
        lifespan["state"].update({STATE: self.door, receiving.STATE: self.door.receiving})

    def _count_refused(self, refused: Mapping[tuple[str, int], int]) -> None:
        """Count and log requests that the door has refused, by path and status."""
        by_route = Counter[tuple[Endpoint, int]]()
        for (path, status), requests in refused.items():
            by_route[self.route(path).endpoint, status] += requests
        for (endpoint, status), requests in by_route.items():
            endpoint.count_refused(status, requests)
            fields = {"route": endpoint.name, "status": status, "requests": requests}
            if self._log.wants(status, 0):
                self._log.write(status, 0, None, fields)

    def route(self, path: str) -> Route:
        """The route of a path; all paths that are not served have one."""
        return self.routes.get(path) or self._find_route(path) or self._unknown

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send, call: Call) -> None:
        """Let BentoML's application answer."""

        async def send_identified(message: Message) -> None:
            if message["type"] == "http.response.start":
                call.status = message["status"]
                message["headers"] = [*message.get("headers", ()), *_call_headers(call)]
            await send(message)

        try:
            await self._behind(scope, receive, send_identified)
        except Exception as error:  # noqa: BLE001 - a bug: logged with its stack, answered in the usual form
            answered = call.status != CLIENT_CLOSED_REQUEST
            response = _internal_error(error, call, flat_error)
            if not answered:
                await _send(send, response, call)


async def _answer(route: Route, handler: Handler, request: HttpRequest) -> HttpResponse:
    call = request.call
    try:
        if route.method is not None:
            check_method(request.scope, route.method)
        response = await handler(request)
    except BundleError as error:
        return _error(error, call, route.error_body)
    except ClientDisconnect:
        # Nobody is there to read the answer.
        response = HttpResponse(b"", status=CLIENT_CLOSED_REQUEST)
    except Exception as error:  # noqa: BLE001 - our bug: logged with its stack, answered in the usual form
        return _internal_error(error, call, route.error_body)
    call.status = response.status
    return response


async def _send(send: Send, response: HttpResponse, call: Call, extra: Sequence[tuple[bytes, bytes]] = ()) -> None:
    content = response.content
    headers = [(b"content-type", response.media_type.encode()), (b"content-length", b"%d" % len(content))]
    headers += [(name.lower().encode(), value.encode()) for name, value in response.headers.items()]
    headers += [*extra, *_call_headers(call)]
    if LEFT in (call.scope or {}).get("state", _NO_STATE):
        call.status = CLIENT_CLOSED_REQUEST
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


def _call_headers(call: Call) -> list[tuple[bytes, bytes]]:
    """The headers of every answer."""
    identifier = (_REQUEST_ID, call.request_id.encode())
    # While draining, a client that keeps its connection would lose it in the middle of a later request.
    return [identifier, (b"connection", b"close")] if DRAINING.begun else [identifier]


def _error(error: BundleError, call: Call, body: Callable[[BundleError], Any]) -> HttpResponse:
    # Drop the traceback: its frames refer to the call, which refers to the error. That cycle would wait for the garbage
    # collector.
    call.error = error.with_traceback(None)
    call.status = error.status
    return HttpResponse(to_json(body(error)), headers=error_headers(error), status=error.status)


def _internal_error(error: Exception, call: Call, body: Callable[[BundleError], Any]) -> HttpResponse:
    call.error = error
    call.status = BundleError.status
    return HttpResponse(to_json(body(BundleError(INTERNAL_ERROR))), status=BundleError.status)


def client_of(scope: Scope) -> str:
    """The client's address; uvicorn has applied ``FORWARDED_ALLOW_IPS``. "" if it is not known."""
    client = scope.get("client")
    return client[0] if client else ""


def authorization(scope: Scope) -> bytes | None:
    """The ``Authorization`` of a request; None if it has none."""
    for name, value in scope["headers"]:
        if name == _AUTHORIZATION:
            found: bytes = value
            return found
    return None


def is_outsider(gate: Gate, request: HttpRequest) -> bool:
    """Whether a caller may not read what is on record: such a caller is told less of a model."""
    return gate.refusal(Access.LEDGER, authorization(request.scope), reads=True) is not None


async def not_found(request: HttpRequest) -> HttpResponse:
    """Refuse a path that is not served."""
    raise NotFound(f"There is no {cut(request.scope['path'])}; GET /docs lists the routes.")
