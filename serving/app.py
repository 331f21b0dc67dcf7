"""The Bento's HTTP application: BentoML's own, with our errors, limits, pages and OpenAPI document.

BentoML 1.4.39 answers a refused body with a title instead of the field, writes a stack trace for each, starts a timer
for every request that outlives it, and its page loads a tracker. ``service_class`` of ``@bentoml.service`` is the way
to a service of one's own; the version is pinned, and the tests of the real service hold what we rely on.
"""

from asyncio import to_thread
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import attrs
from _bentoml_impl.server.app import ContextMiddleware, ServiceAppFactory
from _bentoml_sdk import Service
from bentoml import server_context
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import ASGIApp

from serving.bundle import Bundle
from serving.errors import http_exception_response, internal_error_response
from serving.http import docs
from serving.http.dispatch import Dispatch
from serving.http.openapi import document
from serving.http.prediction_app import PredictionApp
from serving.http.traffic import observed
from serving.protocol import rest
from serving.protocol.rest import RestApp
from serving.settings import Settings
from serving.telemetry import calls, scrape

NO_BENTO = "not available"
"""BentoML's version of a service that is served from its source."""


@attrs.define(eq=False)  # equal and hashed as BentoML has it
class BundleService(Service[Any]):
    """BentoML's service, answering through ``BundleApp``.

    The class it decorates has ``settings`` and ``models`` (a stored model for each dataset) in its class scope, and
    ``bundle`` and ``inference`` in its instances.
    """

    def __attrs_post_init__(self) -> None:
        """Declare the models, so that a built Bento carries them at the version they have now."""
        super().__attrs_post_init__()
        self.models += self.inner.models.values()

    @property
    def openapi_spec(self) -> dict[str, Any]:  # type: ignore[override]  # BentoML only writes it out
        """The OpenAPI document, which ``bentoml build`` also puts into the Bento."""
        return document(self)

    def to_asgi(self, is_main: bool = True) -> ASGIApp:
        """The application of one worker."""
        self.inject_config()
        return BundleApp(self, self.inner.settings, is_main=is_main).application()


def bento_version() -> str:
    """The version of the Bento that this worker serves; of a checkout, ``development``."""
    version = server_context.bento_version
    return "development" if version in {"", NO_BENTO} else version


class BundleApp(ServiceAppFactory):
    """BentoML's application factory with our way from a request to an API method and back."""

    def __init__(self, service: Service[Any], settings: Settings, *, is_main: bool) -> None:
        super().__init__(service, is_main=is_main)
        self._settings = settings
        # BentoML's limit leaves a pending timer behind every request; ours is the runner's.
        self.timeout = None
        self._calls: dict[str, Callable[..., Awaitable[BaseModel]]] = {}

    def application(self) -> ASGIApp:
        """BentoML's middlewares, as ``observed`` has them, around the fast ways and BentoML's application."""
        predictions = {
            method.route: PredictionApp(name, method.input_spec, self._calls, self._settings)
            for name, method in self.service.apis.items()
        }
        protocol = RestApp(lambda: self._instance.inference, self._settings)
        files = {
            f"{docs.STATIC}/{name}": Response(docs.read_file(name), media_type=media_type, headers=docs.FILE_HEADERS)
            for name, media_type in docs.FILES.items()
        }
        app: ASGIApp = Dispatch({**predictions, **files}, {rest.PREFIX: protocol}, self())
        # BentoML's context takes 6 % of a request, and no API method of ours asks for it.
        unused: list[object] = [ContextMiddleware]
        used = [middleware for middleware in super().middlewares if middleware.cls not in unused]
        for middleware in reversed(observed(used, self.service, self._settings)):
            app = middleware.cls(app, *middleware.args, **middleware.kwargs)
        return app

    def __call__(self) -> Starlette:
        """BentoML's application: its routes, and ours that are no predictions."""
        app = super().__call__()
        app.add_exception_handler(HTTPException, http_exception_response)
        app.add_exception_handler(Exception, internal_error_response)
        # A redirect would have no body to tell anything.
        app.router.redirect_slashes = False
        app.add_route("/docs", self.index_page)
        app.add_route("/docs.json", self.openapi_spec_view)
        app.add_route("/", self.index_page)
        app.add_route("/health", self.health)
        app.add_route("/models/info", self.models_info)
        app.add_route("/metrics/prometheus", self.metrics)
        return app

    @property
    def middlewares(self) -> list[Middleware]:
        """None: they are around the whole of ``application``."""
        return []

    async def metrics(self, _: Request) -> Response:  # type: ignore[override]  # BentoML's own is annotated so
        """The series of all workers."""
        calls.flush()
        return Response(await to_thread(scrape.latest), media_type=scrape.CONTENT_TYPE)

    async def create_instance(self, app: Starlette) -> None:
        """Make the instance of the service, and bind its API methods once: BentoML does at every request."""
        await super().create_instance(app)
        self._calls.update({name: partial(api.func, self._instance) for name, api in self.service.apis.items()})

    @property
    def _instance(self) -> Any:
        if self._service_instance is None:
            raise RuntimeError("a request came before the service was started")
        return self._service_instance

    @property
    def _bundle(self) -> Bundle:
        bundle: Bundle = self._instance.bundle
        return bundle

    async def health(self, _: Request) -> Response:
        """A summary for people and dashboards; 503 while not ready."""
        summary = self._bundle.health()
        return JSONResponse(summary, 200 if summary["status"] == "ok" else 503)

    async def models_info(self, _: Request) -> Response:
        """What is loaded: version, run, metrics, features with their ranges."""
        return JSONResponse({"models": self._bundle.models_info()})

    async def index_page(self, _: Request) -> Response:
        """The page that shows the OpenAPI document, from files of this server alone."""
        return HTMLResponse(docs.PAGE)

    async def openapi_spec_view(self, _: Request) -> Response:
        """The OpenAPI document."""
        return JSONResponse(self.service.openapi_spec)
