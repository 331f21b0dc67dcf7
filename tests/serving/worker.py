"""A worker in this process: the real application and gRPC server on an event loop in a thread, without BentoML.

Tests reach into it, which they cannot with ``bentoml serve``.
"""

import asyncio
import threading
from collections.abc import Collection, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import uvicorn
from starlette.applications import Starlette

from contract import DATASETS
from contract.dataset import Dataset
from serving.access import Gate
from serving.bundle import Bundle
from serving.http.app import HttpApp
from serving.http.guard import Guard
from serving.http.openapi import document
from serving.http.routes import http_app
from serving.http.tls import LiveContext
from serving.models import LoadedModel
from serving.protocol.grpc import GrpcServer
from serving.protocol.inference import Inference
from serving.receiving import ReceiveBudget
from serving.reload import Reloader
from serving.settings import Settings
from serving.tls import Tls

T = TypeVar("T")


class LocalWorker:
    """``url`` is where it speaks HTTP, ``target`` where it speaks gRPC.

    With a ``server``, the directory of a server, it follows what is deployed.
    """

    def __init__(
        self,
        models: Mapping[str, LoadedModel],
        settings: Settings,
        server: Path | None = None,
        datasets: Collection[Dataset] = tuple(DATASETS.values()),
    ) -> None:
        self.bundle = Bundle(models, settings)
        self.document = document("test", "1", "A test.", datasets)
        inference = Inference(self.bundle, "test", "1")
        self.gate = Gate(settings.keys())
        self.reloader = Reloader(self.bundle, settings, server)
        self.budget = ReceiveBudget(settings.MAX_RECEIVING_BYTES)
        self.app: HttpApp = http_app(
            inference, settings, lambda: self.document, Starlette(), self.gate, self.reloader, self.budget
        )
        self.tls = tls = Tls.of(settings)
        self.grpc = GrpcServer(inference, settings, self.gate, tls)
        # gRPC counts the calls of all servers of a process together. A service has a process for each worker; the
        # tests have several workers in one, which would take each other's calls for dropped ones.
        self.grpc._waiting._started = lambda: 0
        config = uvicorn.Config(
            self.app,
            host="127.0.0.1",
            port=settings.API_PORT,
            http=Guard,
            log_config=None,
            forwarded_allow_ips=settings.FORWARDED_ALLOW_IPS,
            ssl_context_factory=None if tls is None else lambda *_: LiveContext(tls),
        )
        self._server = uvicorn.Server(config)
        self.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{settings.API_PORT}"
        self.target = f"127.0.0.1:{settings.GRPC_PORT}"
        self._follows = server is not None
        self.loop = asyncio.new_event_loop()

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run something on the event loop of the worker."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(timeout=60)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Serve, for as long as the block lasts."""
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            self.call(self._until_started())
            yield
        finally:
            self._server.should_exit = True
            thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(self._serve())
        self.loop.close()

    async def _serve(self) -> None:
        self.bundle.warm_up()
        if self.tls is not None:
            self.tls.start()
        self.bundle.open()
        await self.grpc.start()
        if self._follows:
            self.reloader.start()
        await self._server.serve()
        await self.reloader.stop()
        if self.tls is not None:
            await self.tls.stop()
        await self.grpc.stop(1)
        await self.bundle.close()

    async def _until_started(self) -> None:
        async with asyncio.timeout(30):
            while not self._server.started:
                await asyncio.sleep(0.01)
