"""The Bento. Start it with ``bentoml serve``."""

# ruff: noqa: E402  # The garbage collector is off before the imports, which it would slow down.
import gc

# The imports make hundreds of thousands of objects that stay. The collector would walk them again and again, which
# takes a fifth of a start's CPU: it is off until they are made, and leaves them out afterwards. Higher thresholds do
# not help.
gc.disable()

import asyncio
import os
from collections.abc import Callable
from typing import Any

import bentoml
from starlette.types import ASGIApp

from contract import DATASETS
from serving import host
from serving.access import Gate
from serving.bundle import load_bundle
from serving.draining import DRAINING
from serving.errors import startup_errors
from serving.http.app import HttpApp
from serving.http.bento_api import with_prediction_methods
from serving.http.routes import http_app
from serving.models import deployed_model
from serving.protocol.grpc import GrpcServer
from serving.protocol.inference import Inference
from serving.pulse import Pulse
from serving.receiving import ReceiveBudget
from serving.recording import Recorder
from serving.reload import Reloader, served_by_others
from serving.settings import Settings
from serving.startup import check_deployment
from serving.telemetry import logs, scrape, series
from serving.tls import Tls

host.take_metrics_directory()

NAME = "ml_prediction_bundle"
with startup_errors():
    SETTINGS = Settings.from_environment(os.environ)
    logs.configure(SETTINGS)
    TLS = Tls.of(SETTINGS)
    MODELS = {
        dataset: deployed_model(dataset.name, SETTINGS.MODELS_DIR, served_by_others) for dataset in DATASETS.values()
    }


@bentoml.service(name=NAME, **host.service_options(SETTINGS, TLS, MODELS))  # type: ignore[operator]  # mypy takes the function for the module of that name
@with_prediction_methods
class PredictionService:
    """Predictions of house values in California and of iris species, batched together across requests."""

    settings = SETTINGS
    models = MODELS

    def __init__(self) -> None:
        with startup_errors():
            self.gate = Gate(SETTINGS.keys())
            self.bundle = load_bundle(MODELS, SETTINGS, served_by_others)
        self.budget = ReceiveBudget(SETTINGS.MAX_RECEIVING_BYTES)
        self.inference = Inference(self.bundle, NAME, host.bento_version())
        self.grpc = GrpcServer(self.inference, SETTINGS, self.gate, TLS)
        self.reloader = Reloader(self.bundle, SETTINGS)
        self.pulse = Pulse(SETTINGS, os.environ)
        self.recorder = Recorder(SETTINGS) if SETTINGS.LEDGER == "on" else None

    def http_app(self, document: Callable[[], dict[str, Any]], behind: ASGIApp) -> HttpApp:
        """The HTTP application of this worker: it shows ``document``, and BentoML's is ``behind`` it."""
        return http_app(self.inference, SETTINGS, document, behind, self.gate, self.reloader, self.budget)

    @bentoml.on_deployment
    @staticmethod
    def check() -> None:
        """Stop before the workers start if a model, a port or the ledger's directory cannot be used."""
        with startup_errors():
            host.check_tls_options(TLS)
            check_deployment(MODELS, SETTINGS)
            if TLS is not None:
                TLS.say()

    @bentoml.on_startup
    async def start(self) -> None:
        """Warm up, then be ready and bind the gRPC port. The server accepts HTTP afterwards."""
        scrape.join()
        self.bundle.warm_up()
        if TLS is not None:
            TLS.start()
        if self.recorder is not None:
            self.recorder.start(self.bundle.observers)
        self.bundle.open()
        # Calls arrive as soon as it listens: other workers have the same port, and their clients connect anew.
        with startup_errors():
            await self.grpc.start()
        self.reloader.start()
        DRAINING.on_sigterm(self.drain, SETTINGS.DRAIN_SECONDS)
        self.pulse.start()
        series.WORKER_STARTS.inc()

    def drain(self) -> None:
        """Stop being ready, over both protocols. Requests that still arrive are answered."""
        self.bundle.drain()
        self.grpc.drain()

    @bentoml.on_shutdown
    async def stop(self) -> None:
        """Finish accepted requests, and wait until the ledger has them."""
        self.pulse.stop()
        await self.reloader.stop()
        if TLS is not None:
            await TLS.stop()
        self.bundle.drain()
        await self.grpc.stop(SETTINGS.TIMEOUT_SECONDS)
        await self.bundle.close()
        if self.recorder is not None:
            await asyncio.to_thread(self.recorder.stop)

    async def __is_ready__(self) -> bool:
        """For ``/readyz``."""
        return self.bundle.ready


gc.freeze()
gc.enable()
