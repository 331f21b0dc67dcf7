"""The outermost layer of the HTTP application: what is counted, logged and told of every request."""

from collections.abc import Iterable, Mapping
from time import perf_counter
from typing import Any

from _bentoml_sdk import Service
from bentoml._internal.server.http.instruments import RunnerTrafficMetricsMiddleware
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from contract import DATASETS
from contract.errors import BundleError, InvalidInput
from serving.draining import DRAINING
from serving.errors import ERROR, internal_error_response
from serving.http.body import CLIENT_CLOSED_REQUEST, header
from serving.http.endpoints import UNKNOWN_ENDPOINT, Endpoint, Endpoints
from serving.http.openapi import dataset_of
from serving.settings import Settings
from serving.telemetry import request_id, tracing
from serving.telemetry.http import http_calls
from serving.telemetry.model import count_refused
from serving.telemetry.request_log import RequestLog

INTERNAL = BundleError.status
_HEADER = request_id.HEADER.encode()


class HttpTraffic(RunnerTrafficMetricsMiddleware):
    """In the place of BentoML's middleware of metrics, whose series it keeps, with bounded labels.

    Args:
        app: the application.
        endpoints: finds the endpoint of a path.
        versions: the version of each model.
        log: says what is worth a line.
        options: of BentoML's middleware.
    """

    def __init__(
        self, app: ASGIApp, *, endpoints: Endpoints, versions: Mapping[str, str], log: RequestLog, **options: Any
    ) -> None:
        super().__init__(app, **options)
        self._endpoints = endpoints
        self._log = log
        self._fields = {endpoint: _fields(endpoint, versions) for endpoint in endpoints.all}
        self._setup()  # declares the series, and begins those of the predictions at 0
        self._calls = {endpoint: http_calls(self, endpoint.route) for endpoint in endpoints.all if endpoint.traffic}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, with its identifier; count it if it is traffic; log it if it is worth a line."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = perf_counter()
        endpoint = self._endpoints.find(scope["path"])
        calls = self._calls.get(endpoint)
        identifier = request_id.begin(header(scope, _HEADER)).encode()
        status = CLIENT_CLOSED_REQUEST

        async def send_identified(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (_HEADER, identifier)]
                if DRAINING.begun:
                    # A caller who keeps its connection would meet its end in the middle of a request.
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        if calls is not None:
            calls.begin()
        try:
            await self.app(scope, receive, send_identified)
        except Exception as error:  # noqa: BLE001 - our bug: logged with its stack, answered in the usual form
            scope[ERROR] = error
            if status == CLIENT_CLOSED_REQUEST:
                answer = internal_error_response(Request(scope), error)
                await answer(scope, receive, send_identified)
            status = INTERNAL
        finally:
            seconds = perf_counter() - started
            if calls is not None:
                calls.end(status, seconds)
            self._tell(scope, endpoint, status, seconds)

    def _tell(self, scope: Scope, endpoint: Endpoint, status: int, seconds: float) -> None:
        error = scope.get(ERROR)
        if isinstance(error, InvalidInput) and endpoint.model:
            count_refused(DATASETS[endpoint.model], error.refused)
        # What probes and pages are told is no event, but for a bug.
        if (endpoint.traffic or status == INTERNAL) and self._log.wants(status, seconds):
            fields = {**self._fields[endpoint], "method": scope["method"][:20], "status": status}
            if endpoint is UNKNOWN_ENDPOINT:
                fields["path"] = scope["path"][:200]
            self._log.write(status, seconds, error, fields)


def observed(middlewares: Iterable[Middleware], service: Service[Any], settings: Settings) -> list[Middleware]:
    """BentoML's middlewares, with ours in the place of the one that counts, and without spans that nobody collects."""
    options: dict[str, Any] = {
        "endpoints": Endpoints(
            {method.route: dataset_of(method.input_spec).name for method in service.apis.values()}, DATASETS
        ),
        "versions": {dataset.name: str(model.tag.version) for dataset, model in service.inner.models.items()},
        "log": RequestLog(settings.SLOW_REQUEST_MS / 1000),
    }
    if settings.OTEL_EXPORTER_OTLP_ENDPOINT is None:
        middlewares = tracing.without_spans(middlewares)
    # Starlette's types know no class whose instances are the application.
    theirs: Any = RunnerTrafficMetricsMiddleware
    ours: Any = HttpTraffic
    return [Middleware(ours, **{**one.kwargs, **options}) if one.cls is theirs else one for one in middlewares]


def _fields(endpoint: Endpoint, versions: Mapping[str, str]) -> dict[str, Any]:
    fields: dict[str, Any] = {"route": endpoint.route}
    if endpoint.model:
        fields |= {"model": endpoint.model, "version": versions[endpoint.model]}
    return fields
