"""Real services for tests that need settings of their own."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import grpc
import httpx
from open_inference.grpc.service import GRPCInferenceServiceStub

from local_service import free_port, running_service

SLOW = {"WORKERS": "1", "MAX_BATCH_SIZE": "1"}
"""With the slow Housing model, every row of a request takes some milliseconds."""

PATIENT = {"MAX_LATENCY_MS": "60000"}
"""Nobody is shed because the machine does other work: for tests that show that nobody is lost."""


class Running(NamedTuple):
    """A service, and clients that are connected to it."""

    client: httpx.Client
    channel: grpc.Channel
    grpc_port: int
    log: Path
    """What the service prints."""

    @property
    def url(self) -> str:
        return str(self.client.base_url)

    @property
    def stub(self) -> GRPCInferenceServiceStub:
        return GRPCInferenceServiceStub(self.channel)


@contextmanager
def running(models: Path, log: Path, **settings: str) -> Iterator[Running]:
    """Start a service with the models of a ``MODELS_DIR``; stop it when the block ends."""
    port = free_port()
    environment = {"MODELS_DIR": str(models), "GRPC_PORT": str(port), **settings}
    with (
        running_service(environment=environment, log=log) as url,
        httpx.Client(base_url=url, timeout=60) as client,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        yield Running(client, channel, port, log)
