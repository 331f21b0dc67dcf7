"""Unfinished requests beyond what a worker receives at a time: they are refused, and counted as shed."""

import socket
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import grpc
import httpx
import pytest

from local_service import free_port
from serving.models import LoadedModel
from serving.protocol.receiving import RECEIVING_BYTES
from serving.settings import Settings
from tests.serving.series import scrape
from tests.serving.worker import LocalWorker
from tests.waiting import wait_until

METHOD = "/inference.GRPCInferenceService/ModelInfer"
LIMIT = 65_536
HALF = 50_000


class Scene(NamedTuple):
    """A worker with room for one unfinished request over each protocol."""

    worker: LocalWorker
    client: httpx.Client

    def shed(self) -> dict[str, float]:
        """How many requests were shed so far, by model."""
        return scrape(self.client).of("ml_shed_requests_total", "model")

    def half(self, path: str) -> socket.socket:
        """Send the first half of a request."""
        sender = socket.create_connection(("127.0.0.1", self.client.base_url.port or 0), timeout=30)
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 60000\r\n\r\n"
        sender.sendall(head.encode() + b" " * HALF)
        return sender


@pytest.fixture(scope="module")
def scene(loaded: dict[str, LoadedModel]) -> Iterator[Scene]:
    settings = Settings(
        API_HOST="127.0.0.1",
        API_PORT=free_port(),
        GRPC_PORT=free_port(),
        MAX_RECEIVING_BYTES=LIMIT,
        MAX_BODY_BYTES=LIMIT,
        GRPC_MAX_MESSAGE_BYTES=RECEIVING_BYTES,
        LEDGER="off",
    )
    worker = LocalWorker(loaded, settings)
    with worker.running(), httpx.Client(base_url=worker.url, timeout=30) as client:
        yield Scene(worker, client)


@pytest.mark.parametrize(
    ("path", "model"),
    [("/predict/iris/batch", "iris"), ("/v2/models/housing/infer", "housing"), ("/drift/detect", "unknown")],
)
def test_a_body_that_is_not_received_is_counted_as_shed(scene: Scene, path: str, model: str) -> None:
    before = scene.shed()
    with scene.half(path):
        wait_until(lambda: scene.worker.budget.taken == HALF, "the first half is received")
        with scene.half(path) as second:
            answer = second.recv(4096)
    assert answer.startswith(b"HTTP/1.1 429 "), answer
    assert b"retry-after: 1\r\n" in answer.lower()
    wait_until(lambda: not scene.worker.budget.taken, "the budget is free again")
    after = scene.shed()
    assert {name: after[name] - before.get(name, 0) for name in after} == {**dict.fromkeys(after, 0), model: 1}


def test_a_message_that_is_not_received_is_counted_as_shed(scene: Scene) -> None:
    before = scene.shed()
    assert before["unknown"] >= 0, "the series exists before the first call is shed"
    ended = threading.Event()

    def no_message() -> Iterator[bytes]:
        ended.wait(30)
        yield from ()

    with grpc.insecure_channel(scene.worker.target) as channel:
        method: Any = channel.stream_unary(METHOD)
        calls = [method.future(no_message(), timeout=30) for _ in range(2)]
        try:
            wait_until(lambda: any(call.done() for call in calls), "the late message is given up")
            given_up = [call.exception() for call in calls if call.done()]
        finally:
            ended.set()
            for call in calls:
                call.cancel()
    assert [error.code() for error in given_up] == [grpc.StatusCode.RESOURCE_EXHAUSTED]
    assert scene.shed()["unknown"] - before["unknown"] == 1


def test_whole_requests_are_not_shed(scene: Scene) -> None:
    before = scene.shed()
    with scene.half("/predict/iris/batch"):
        wait_until(lambda: scene.worker.budget.taken == HALF, "the first half is received")
        row = {"sepal_length": 5.1, "sepal_width": 3.5, "petal_length": 1.4, "petal_width": 0.2}
        assert scene.client.post("/predict/iris", json=row).status_code == 200
    assert scene.shed() == before
