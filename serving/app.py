"""The Bento's HTTP application: BentoML's own, with our errors, limits, pages and OpenAPI document.

BentoML 1.4.39 answers a refused body with a title instead of the field, writes a stack trace for each, starts a timer
for every request that outlives it, and its page loads a tracker. ``service_class`` of ``@bentoml.service`` is the way
to a service of one's own; the version is pinned, and the tests of the real service hold what we rely on.
"""

from asyncio import to_thread
from typing import Any

import attrs
from _bentoml_impl.server.app import ServiceAppFactory
from _bentoml_sdk import Service
from bentoml import server_context
from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

from contract.dataset import Rows
from contract.errors import BundleError, UnsupportedMediaType
from serving.bundle import Bundle
from serving.errors import ERROR, error_response, http_exception_response, refusal
from serving.http_body import CLIENT_CLOSED_REQUEST, read_body
from serving.http_traffic import observed
from serving.metrics import scrape
from serving.openapi import DOCS_PAGE, document
from serving.protocol import rest
from serving.protocol.rest import RestApp
from serving.settings import Settings

MAXIMUM_ROW_BYTES = 64 * 1024
"""Largest body of a single row: pydantic lists every unknown field, so that a large one would be costly to refuse."""

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
        return BundleApp(self, self.inner.settings, is_main=is_main)()


def bento_version() -> str:
    """The version of the Bento that this worker serves; of a checkout, ``development``."""
    version = server_context.bento_version
    return "development" if version in {"", NO_BENTO} else version


class BundleApp(ServiceAppFactory):
    """BentoML's application factory with our way from a request to an API method and back."""

    def __init__(self, service: Service[Any], settings: Settings, *, is_main: bool) -> None:
        super().__init__(service, is_main=is_main)
        self._settings = settings
        # BentoML's limit leaves a pending timer behind every request; ours ends with the request.
        self.timeout = None

    def __call__(self) -> Starlette:
        """The application: BentoML's routes and ours."""
        app = super().__call__()
        protocol = RestApp(lambda: self._instance.inference, self._settings)
        # First, since every route before it costs a match.
        app.router.routes[:0] = [Route(rest.PREFIX, protocol), Mount(rest.PREFIX, protocol)]
        app.add_exception_handler(HTTPException, http_exception_response)
        # A redirect would have no body to tell anything.
        app.router.redirect_slashes = False
        app.add_route("/docs", self.index_page)
        app.add_route("/health", self.health)
        app.add_route("/models/info", self.models_info)
        app.add_route("/metrics/prometheus", self.metrics)
        return app

    @property
    def middlewares(self) -> list[Middleware]:
        """BentoML's, with ours in the place of the one that counts, and without spans that nobody collects."""
        return observed(super().middlewares, self.service, self._settings)

    async def metrics(self, _: Request) -> Response:  # type: ignore[override]  # BentoML's own is annotated so
        """The series of all workers."""
        return Response(await to_thread(scrape.latest), media_type=scrape.CONTENT_TYPE)

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
        return HTMLResponse(DOCS_PAGE)

    async def openapi_spec_view(self, _: Request) -> Response:
        """The OpenAPI document."""
        return JSONResponse(self.service.openapi_spec)

    async def api_endpoint_wrapper(self, name: str, request: Request) -> Response:
        """Answer one request to the API method ``name``."""
        try:
            return await self.api_endpoint(name, request)
        except BundleError as error:
            request.scope[ERROR] = error
            return error_response(error)
        except ClientDisconnect:
            return Response(status_code=CLIENT_CLOSED_REQUEST)  # nobody is there to read it; metrics count it

    async def api_endpoint(self, name: str, request: Request) -> Response:
        """Body to validated input to the method's answer, as JSON."""
        method = self.service.apis[name]
        body = await self._json_body(request, method.input_spec)
        try:
            # An empty body is an empty object: the error then names the first missing field.
            value = method.input_spec.model_validate_json(body or b"{}")
        except ValidationError as error:
            raise refusal(error) from None
        call = getattr(self._service_instance, name).local
        answer = await call(value)
        return Response(answer.model_dump_json(), media_type="application/json")

    async def _json_body(self, request: Request, input_spec: type[BaseModel]) -> bytes:
        media_type = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
        if media_type != "application/json":
            raise UnsupportedMediaType(f"The body must be application/json, not {media_type[:60]}.")
        limit = self._settings.MAX_BODY_BYTES
        if not issubclass(input_spec, Rows):
            limit = min(limit, MAXIMUM_ROW_BYTES)
        return await read_body(request.scope, request.receive, limit, self._settings.TIMEOUT_SECONDS)
