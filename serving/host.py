"""The only module that names BentoML's private API.

BentoML starts the workers, runs the lifespan of the service and answers the probes. Our application is the outermost:
BentoML 1.4 answers a refused body with a title instead of the field, writes a stack trace for each, starts a timer for
every request that outlives it, and has the raw path as a label of its metrics.
"""

import atexit
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import bentoml.serving
import click
from _bentoml_impl.server.app import ContextMiddleware
from _bentoml_sdk import Service
from bentoml import server_context
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.server.http.traffic import TimeoutMiddleware
from bentoml._internal.utils import circus
from bentoml.exceptions import BentoMLException
from bentoml.models import BentoModel
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from contract.dataset import Dataset
from contract.errors import StartupError
from ledger import log_output
from serving import workers
from serving.errors import startup_errors
from serving.http import guard, tls
from serving.http.app import BENTOML_ROUTES, HttpApp
from serving.http.errors import http_exception_response
from serving.http.openapi import document
from serving.http.security import allow_origins
from serving.settings import Settings
from serving.startup import ready_line
from serving.telemetry import directory, tracing
from serving.tls import Tls

logger = logging.getLogger(__name__)

NO_BENTO = "not available"
"""The version that BentoML gives to a service served from its source."""


def service_options(
    settings: Settings, certificate: Tls | None, models: Mapping[Dataset, BentoModel]
) -> dict[str, Any]:
    """The arguments of ``@bentoml.service``, for a server that speaks HTTP by our ``Guard``.

    The server that starts the workers gets our arbiter, and a metrics directory that nobody empties. Once all workers
    have started, it logs where to go, and which ``models`` it serves.
    """
    guard.install(settings)
    if certificate is not None:
        tls.install(certificate)
    # BentoML imports both names when it starts a server, after it has imported the service.
    circus.create_standalone_arbiter = partial(_arbiter, settings, certificate, models)
    bentoml.serving.ensure_prometheus_dir = lambda *_, **__: _claim_metrics_directory()
    return {
        "service_class": BundleService,
        "workers": settings.WORKERS or "cpu_count",
        "http": {"host": settings.API_HOST, "port": settings.API_PORT},
        "ssl": tls.options(certificate),
        # One line per request halves the throughput. Metrics count requests, and errors are logged.
        "logging": {"access": {"enabled": False}},
        # Our metrics have the same names and bounded labels.
        "metrics": {"enabled": False},
        "tracing": tracing.configuration(settings),
    }


def check_tls_options(certificate: Tls | None) -> None:
    """Check that BentoML's own TLS options are not set: they would leave gRPC in plain text.

    Raises:
        StartupError: ``bentoml serve --ssl-…`` was called, or BentoML's configuration has ``ssl``.
    """
    context = click.get_current_context(silent=True)
    given = [name for name, text in (context.params if context else {}).items() if name.startswith("ssl_") and text]
    ours = tls.options(certificate)
    configured = BentoMLContainer.ssl.get()
    if given:
        said = ", ".join(f"--{name.replace('_', '-')}" for name in given)
    elif any(configured.get(name) != text for name, text in ours.items()):
        said = "ssl in BentoML's configuration"
    else:
        return
    raise StartupError(
        f"{said} would hold for HTTP alone, and leave gRPC in plain text. Leave it out, and set TLS_CERT_FILE and "
        "TLS_KEY_FILE, and TLS_CLIENT_CA_FILE to ask clients for certificates: they hold for both."
    )


def take_metrics_directory() -> None:
    """Give this server a fresh metrics directory, which its workers find in their environment.

    BentoML's is in its home, where running servers would share it. Call this before the server starts. A directory that
    the user has set is used as it is.
    """
    taken = os.environ.get(directory.VARIABLE)
    with startup_errors():
        BentoMLContainer.prometheus_multiproc_dir.set(directory.temporary() if taken is None else taken)


def _claim_metrics_directory() -> str:
    """Take the metrics directory for the server that is about to start. BentoML would empty it."""
    name = str(Path(BentoMLContainer.prometheus_multiproc_dir.get()).absolute())
    with startup_errors():
        directory.claim(Path(name))
    os.environ[directory.VARIABLE] = name
    return name


GRACE_SECONDS = 15.0
"""Extra time for a worker to stop, after its drain and its longest request. The ledger takes most of it."""


def _arbiter(
    settings: Settings,
    certificate: Tls | None,
    models: Mapping[Dataset, BentoModel],
    watchers: Sequence[Any],
    *,
    sockets: Sequence[Any],
    threaded: bool = False,
    **options: Any,
) -> Any:
    """In place of BentoML's function, which opens two TCP ports: any user of the machine could run commands by them."""
    options.pop("check_delay", None)
    made = _ThreadedArbiter if threaded else _Arbiter
    if options.get("plugins"):
        # `bentoml serve --reload` starts a process that tells the arbiter about changes, through sockets that only this
        # user can open.
        folder = tempfile.mkdtemp(prefix="bentoml-control-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        places = {"endpoint": f"ipc://{folder}/control", "pubsub_endpoint": f"ipc://{folder}/events"}
    else:
        # These sockets exist within this process only: nobody else can connect.
        places = {"endpoint": "inproc://control", "pubsub_endpoint": "inproc://events"}
    for watcher in watchers:
        # By default BentoML waits a day before it kills a worker that does not stop.
        watcher.graceful_timeout = settings.DRAIN_SECONDS + settings.TIMEOUT_SECONDS + GRACE_SECONDS
    (listener,) = sockets
    ready = ready_line(listener.host, listener.port, settings.GRPC_PORT, models, tls=certificate is not None)
    return made(watchers, ready=ready, sockets=sockets, check_delay=workers.LOOK_SECONDS, **places, **options)


class _Arbiter(circus.Arbiter):
    """BentoML's arbiter, which also looks after its workers: see ``serving.workers``.

    Args:
        watchers: what starts the workers.
        ready: the line to log once all workers have started.
        options: of BentoML's arbiter.
    """

    def __init__(self, watchers: Sequence[Any], *, ready: str, **options: Any) -> None:
        self._served = list(watchers)  # without the plugins, which the arbiter adds
        super().__init__(watchers, **options)
        self._keeper = workers.Keeper(sum(watcher.numprocesses for watcher in self._served))
        for watcher in self._served:
            self._keeper.introduce(watcher.env)
            watcher.hooks |= {"after_spawn": self._after_spawn, "before_signal": self._before_signal}
        self._told_to_stop = False
        self._ready: str | None = ready

    async def manage_watchers(self) -> None:
        """Look after the workers, and start those that are missing. Called twice a second."""
        if self._stopping or self._exclusive_running_command is not None:
            return
        self.reap_processes()
        self._look()
        if self._keeper.hopeless:
            self._exception = BentoMLException("No worker could start: the lines above say why.")
            self.stop()
        elif self._keeper.may_start:
            await super().manage_watchers()

    def stop(self) -> Any:
        """Stop the workers, also while one is being started: the arbiter would drop the request then."""
        if self._exclusive_running_command is not None and not self._stopping:
            self.loop.call_later(0.05, self.stop)
            return None
        if not self._told_to_stop:
            self._told_to_stop = True
            self._look_to_the_end()
        return super().stop()

    def _look_to_the_end(self) -> None:
        """Keep looking for workers that hang: one would keep the server from ending."""
        self._look()
        self.loop.call_later(workers.LOOK_SECONDS, self._look_to_the_end)

    def _look(self) -> None:
        self._keeper.look([process.pid for watcher in self._served for process in watcher.processes.values()])
        if self._ready is not None and self._keeper.all_started:
            logger.info(self._ready)
            self._ready = None

    def _after_spawn(self, *, pid: int, **_: Any) -> bool:
        """Whether a worker that was just started may go on. It may end before anybody looks."""
        self._keeper.expect(pid)
        return True

    def _before_signal(self, *, pid: int, **_: Any) -> bool:
        """Whether the arbiter may signal a worker; it does so to stop it."""
        self._keeper.dismiss(pid)
        return True


class _ThreadedArbiter(_Arbiter, circus.ThreadedArbiter):
    """The same for a server in a thread of its own."""


def bento_version() -> str:
    """The version of the Bento that this worker serves; ``development`` for a checkout."""
    version = server_context.bento_version
    return "development" if version in {"", NO_BENTO} else version


@attrs.define(eq=False)  # equal and hashed as BentoML has it
class BundleService(Service[Any]):
    """BentoML's service, with our application outermost.

    The class it decorates has ``settings`` and ``models`` (a stored model for each dataset) in its class scope, and
    ``http_app(document, behind)``, which makes the application of a worker.
    """

    instance: Any = attrs.field(init=False, default=None)
    """Instance of the decorated class; None until the worker starts."""

    def __attrs_post_init__(self) -> None:
        """Declare the models, so that a built Bento carries them at the version they have now."""
        super().__attrs_post_init__()
        models: Mapping[Any, Any] = self.inner.models
        self.models += models.values()

    def __call__(self) -> Any:
        """Make the instance of a worker."""
        self.instance = super().__call__()
        return self.instance

    @property
    def openapi_spec(self) -> dict[str, Any]:  # type: ignore[override]  # BentoML only writes it out
        """The OpenAPI document, which ``bentoml build`` also puts into the Bento."""
        version = self.bento.tag.version if self.bento else None
        return document(self.name, version or "development", (self.inner.__doc__ or "").strip())

    def to_asgi(self, is_main: bool = True) -> ASGIApp:
        """The application of a worker."""
        theirs = super().to_asgi(is_main=is_main)
        if not isinstance(theirs, Starlette):
            raise TypeError(f"BentoML's application is {type(theirs)}, not Starlette: adapt serving/host.py.")
        return _Application(self, theirs)


class _Application:
    """Our application, once the worker has started, and BentoML's behind it for the lifespan and the probes."""

    def __init__(self, service: BundleService, theirs: Starlette) -> None:
        self._service = service
        self._theirs = theirs
        # BentoML's time-out leaves a timer behind for every request; our runner has its own. Its context takes 6 % of a
        # request, and none of our API methods uses it. Spans take a third of a request, even if nobody collects them.
        replaced: list[object] = [TimeoutMiddleware, ContextMiddleware]
        if service.inner.settings.OTEL_EXPORTER_OTLP_ENDPOINT is None:
            replaced.append(OpenTelemetryMiddleware)
        self.middlewares = [middleware for middleware in theirs.user_middleware if middleware.cls not in replaced]
        theirs.user_middleware = []
        # BentoML's API routes have none of our limits.
        kept = [route for route in theirs.router.routes if getattr(route, "path", "") in BENTOML_ROUTES]
        theirs.router.routes[:] = kept
        theirs.add_exception_handler(HTTPException, http_exception_response)
        self._ours: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or run the lifespan."""
        if self._ours is not None and scope["type"] != "lifespan":
            await self._ours(scope, receive, send)
            return

        async def send_when_made(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                self._ours = self._make(scope)
            elif message["type"] == "lifespan.startup.failed" and message["message"].rstrip().endswith("SystemExit: 1"):
                message = {"type": message["type"]}  # `startup_errors` has logged the sentence; this is a stack.
            elif message["type"] == "lifespan.shutdown.complete":
                log_output.flush()  # uvicorn ends the process by the signal that has stopped it.
            await send(message)

        await self._theirs(scope, receive, send_when_made)

    def _make(self, lifespan: Scope) -> ASGIApp:
        ours: HttpApp = self._service.instance.http_app(lambda: self._service.openapi_spec, self._theirs)
        ours.join(lifespan)
        app = allow_origins(ours, self._service.inner.settings.CORS_ORIGINS or ())
        # Middlewares that a user has configured for BentoML, such as CORS, wrap our application.
        for middleware in reversed(self.middlewares):
            app = middleware.cls(app, *middleware.args, **middleware.kwargs)
        return app
