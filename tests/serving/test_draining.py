"""SIGTERM: first the readiness goes, then what listens."""

import asyncio
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from contract.datasets.iris import IRIS
from serving.draining import Draining
from tests.serving.protocol.wire import message, rows_of, tensor
from tests.serving.running import running
from tests.waiting import wait_until

FOR_EVER = "600"
"""Seconds that no test waits for: what it looks at during the drain cannot be overtaken by its end."""
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def sigterm() -> Iterator[list[tuple[str, float]]]:
    """What happened at SIGTERM, and when; the process itself is spared."""
    happened: list[tuple[str, float]] = []
    former = signal.signal(signal.SIGTERM, lambda *_: happened.append(("stop", time.monotonic())))
    yield happened
    signal.signal(signal.SIGTERM, former)


def test_the_server_is_told_after_the_drain_and_once(sigterm: list[tuple[str, float]]) -> None:
    seconds = 0.2

    async def story() -> None:
        draining = Draining()
        draining.on_sigterm(lambda: sigterm.append(("begin", time.monotonic())), seconds)
        assert not draining.begun
        signal.raise_signal(signal.SIGTERM)
        await asyncio.sleep(0)
        assert draining.begun
        signal.raise_signal(signal.SIGTERM)
        await asyncio.sleep(0)  # it is heeded, or not
        over = asyncio.Event()
        # Comes after the first stop, and after a second one if that was scheduled.
        asyncio.get_running_loop().call_later(seconds, over.set)
        await over.wait()

    asyncio.run(story())
    assert [what for what, _ in sigterm] == ["begin", "stop"]
    assert sigterm[1][1] - sigterm[0][1] >= seconds - 0.01


def test_without_a_drain_the_server_is_told_at_once(sigterm: list[tuple[str, float]]) -> None:
    async def story() -> None:
        Draining().on_sigterm(lambda: sigterm.append(("begin", time.monotonic())), 0)
        signal.raise_signal(signal.SIGTERM)

    asyncio.run(story())
    assert [what for what, _ in sigterm] == ["stop"]


def test_a_draining_service_is_not_ready_and_answers_all_the_same(pinned: Path, tmp_path: Path) -> None:
    with running(pinned, tmp_path / "service.log", WORKERS="1", DRAIN_SECONDS=FOR_EVER) as service:
        client, channel = service.client, service.channel
        worker = psutil.Process(client.get("/health").json()["worker"])
        health: Any = HealthStub(channel)  # the published types lack its methods
        watch = health.Watch(health_pb2.HealthCheckRequest(), timeout=60)
        assert next(watch).status == SERVING
        before = client.post("/predict/iris", json=IRIS.example)
        assert "connection" not in before.headers

        server = worker.parent()
        assert server is not None
        server.terminate()

        wait_until(lambda: client.get("/readyz").status_code == 503, "not ready")
        assert next(watch).status == NOT_SERVING
        assert client.get("/health").json()["status"] == "draining"
        after = client.post("/predict/iris", json=IRIS.example)
        assert after.json()["probabilities"] == before.json()["probabilities"]
        # The caller opens its next connection elsewhere.
        assert after.headers["connection"] == "close"
        one = message("iris", tensor("x", rows_of(IRIS, 1)), raw=True)
        assert len(service.stub.ModelInfer(one, timeout=20).outputs) == 3
        assert server.is_running()

        # A person who does not want to wait.
        worker.send_signal(signal.SIGINT)
        assert list(watch) in ([], [health_pb2.HealthCheckResponse(status=NOT_SERVING)])
        server.wait(timeout=30)
