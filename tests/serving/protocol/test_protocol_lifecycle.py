"""Calls in flight when their caller leaves, and when the service stops."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub
from open_inference.grpc import protocol as pb

from contract.datasets.housing import HOUSING
from tests.serving.protocol.wire import message, refusal, rows_of, tensor
from tests.serving.running import SLOW, Running, running
from tests.serving.series import scrape
from tests.waiting import wait_until

ROWS = 200
"""Enough for calls that take their time: all are in progress at once when the test says so."""
MANY = message("housing", tensor("x", rows_of(HOUSING, ROWS)), raw=True)
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture(scope="module")
def slow(slow_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    log = tmp_path_factory.mktemp("patient") / "service.log"
    with running(slow_models, log, **SLOW, MAX_LATENCY_MS="600000") as service:
        yield service


@pytest.fixture
def patient(slow: Running) -> Running:
    """A slow service that refuses nobody; its worker is back if the test before has stopped it."""
    wait_until(partial(is_ready, slow.url), "ready")
    return slow


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").is_success
    except httpx.TransportError:
        return False


def in_progress(service: Running) -> float:
    page = scrape(service.client)
    http = page.value("bentoml_service_request_in_progress", endpoint="/predict/housing/batch")
    return http + page.value("grpc_server_in_progress", grpc_method="ModelInfer")


def values(answer: pb.ModelInferResponse) -> list[bytes]:
    """The outputs, without what differs from call to call."""
    return list(answer.raw_output_contents)


def test_an_expired_or_cancelled_call_harms_nobody(patient: Running) -> None:
    before = scrape(patient.client)

    def counted(code: str) -> bool:
        return scrape(patient.client).since(before).value("grpc_server_handled_total", grpc_code=code) > 0

    # On a busy machine a call may end before the service has taken it, which nobody counts: another one follows.
    def one_expires() -> bool:
        expired, _ = refusal(lambda: patient.stub.ModelInfer(MANY, timeout=0.05))
        assert expired is grpc.StatusCode.DEADLINE_EXCEEDED
        return counted(expired.name)

    def one_leaves() -> bool:
        leaver = patient.stub.ModelInfer.future(MANY, timeout=60)
        # It may be answered before anybody has seen it in progress.
        wait_until(lambda: in_progress(patient) > 0 or leaver.done(), "taken")
        leaver.cancel()
        return counted("CANCELLED")

    wanted = patient.stub.ModelInfer(MANY, timeout=60)
    others = [patient.stub.ModelInfer.future(MANY, timeout=60) for _ in range(2)]
    one_expires()
    one_leaves()
    assert [values(other.result()) for other in others] == [values(wanted)] * 2
    # The server notices both, and works for neither any more.
    wait_until(one_expires, "an expired call is counted")
    wait_until(one_leaves, "a cancelled call is counted")
    wait_until(lambda: in_progress(patient) == 0, "nobody works for them")
    assert values(patient.stub.ModelInfer(MANY, timeout=60)) == values(wanted)


def test_a_service_that_stops_finishes_its_calls_and_tells_its_watchers(patient: Running) -> None:
    worker = patient.client.get("/health").json()["worker"]
    health: Any = HealthStub(patient.channel)  # the published types lack its methods
    watch = health.Watch(health_pb2.HealthCheckRequest(), timeout=60)
    assert next(watch).status == SERVING

    def post(_: int) -> int:
        return patient.client.post("/predict/housing/batch", json={"rows": [HOUSING.example] * ROWS}).status_code

    with ThreadPoolExecutor(3) as pool:
        posted = [pool.submit(post, number) for number in range(3)]
        calls = [patient.stub.ModelInfer.future(MANY, timeout=60) for _ in range(3)]
        wait_until(lambda: in_progress(patient) == 6, "all are taken")
        os.kill(worker, signal.SIGTERM)
        assert [one.status for one in watch] == [NOT_SERVING]
        assert [one.result() for one in posted] == [200] * 3
        assert [len(call.result().outputs) for call in calls] == [1] * 3
