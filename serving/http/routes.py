"""Every HTTP route of the service: predictions, the protocol, operations and pages."""

from collections.abc import Callable
from typing import Any

from starlette.types import ASGIApp

from serving.access import Access, Gate
from serving.actions import ActionLog
from serving.bundle import for_outsiders
from serving.http.app import (
    HttpApp,
    HttpRequest,
    HttpResponse,
    Route,
    is_outsider,
    json_response,
    quiet_route,
)
from serving.http.docs import DocsApp
from serving.http.door import Door
from serving.http.drift import DriftApp
from serving.http.feedback import FeedbackApp
from serving.http.logs import LogsApp
from serving.http.logs_page import LogsPage
from serving.http.models import ModelsApp
from serving.http.pages import file_routes
from serving.http.predictions import PredictionApp, prediction_apis
from serving.http.retrain import RetrainApp
from serving.http.try_page import TryPage
from serving.ledger_database import LedgerDatabase, LiveQuality
from serving.protocol.inference import Inference
from serving.protocol.rest import RestProtocol
from serving.receiving import ReceiveBudget
from serving.reload import Reloader
from serving.settings import Settings
from serving.telemetry import scrape
from serving.telemetry.call import Endpoint, http_counter
from serving.telemetry.request_log import RequestLog


def http_app(
    inference: Inference,
    settings: Settings,
    document: Callable[[], dict[str, Any]],
    behind: ASGIApp,
    gate: Gate,
    reloader: Reloader,
    budget: ReceiveBudget,
) -> HttpApp:
    """The HTTP application of a worker.

    Args:
        inference: its models.
        settings: the limits of size and time.
        document: makes the OpenAPI document.
        behind: BentoML's application.
        gate: decides who may call what.
        reloader: follows what is deployed.
        budget: for the bytes of unfinished bodies.
    """
    bundle = inference.bundle
    predictions = [
        PredictionApp(api, bundle[api.dataset.name], settings).route for api in prediction_apis(bundle.datasets)
    ]
    protocol = RestProtocol(inference, settings)
    ledger = LedgerDatabase(settings)
    actions = ActionLog(ledger if settings.LEDGER == "on" else None)
    retraining = RetrainApp(ledger, settings, gate)
    # With admin keys alone, callers without a key read the document.
    outside = gate.needs_key(Access.LEDGER) and not gate.needs_key(Access.API)
    quality = LiveQuality(ledger, settings.LEDGER_MIN_LABELS)

    async def metrics(_: HttpRequest) -> HttpResponse:
        return HttpResponse(await scrape.latest(), scrape.CONTENT_TYPE)

    async def models_info(request: HttpRequest) -> HttpResponse:
        models = bundle.models_info()
        if is_outsider(gate, request):
            return json_response({"models": {name: for_outsiders(info) for name, info in models.items()}})
        live = await quality.of({name: info["version"] for name, info in models.items()})
        return json_response({"models": {name: {**info, "live_quality": live[name]} for name, info in models.items()}})

    async def health(_: HttpRequest) -> HttpResponse:
        summary = bundle.health()
        return json_response(summary, 200 if summary["status"] == "ok" else 503)

    routes = [
        *predictions,
        *protocol.routes.values(),
        FeedbackApp(ledger, settings).route,
        DriftApp(bundle, ledger, settings).route,
        *retraining.routes,
        *LogsApp(ledger).routes,
        LogsPage(ledger, settings.LEDGER_MIN_LABELS).route,
        Route(Endpoint("/models/info", "http", counter=http_counter("/models/info")), models_info),
        *ModelsApp(reloader, settings).routes,
        quiet_route("/health", health, Access.PUBLIC),
        quiet_route("/metrics", metrics, Access.METRICS),
        quiet_route("/metrics/prometheus", metrics, Access.METRICS),
        TryPage(bundle, settings, gate).route,
        *DocsApp(document, inference, outside=outside).routes,
        *file_routes(),
    ]
    log = RequestLog(settings.SLOW_REQUEST_MS / 1000)

    def find(path: str) -> Route | None:
        return retraining.find(path) or protocol.find(path)

    by_path = {route.endpoint.name: route for route in routes}
    return HttpApp(by_path, find, behind, log, gate, actions, Door(settings, budget))
