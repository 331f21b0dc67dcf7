"""gRPC while the service starts, is busy, loses a worker and stops."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import httpx
import numpy as np
import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub
from open_inference.grpc import protocol as pb
from open_inference.grpc.service import GRPCInferenceServiceStub

from contract.iris import IRIS
from local_service import free_port, running_service
from serving.protocol.grpc import LISTENERS
from tests.serving import tiny_models
from tests.serving.protocol.test_protocol_grpc import series
from tests.serving.protocol.wire import message, refusal, rows_of, tensor

SLOW = {"WORKERS": "1", "MAX_BATCH_SIZE": "1", "MAX_LATENCY_MS": "600000"}
"""One row a batch makes a tiny model slow: 10,000 rows take some 100 ms of turns of the event loop; nothing is shed."""
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


class Running(NamedTuple):
    client: httpx.Client
    channel: grpc.Channel
    port: int

    @property
    def stub(self) -> GRPCInferenceServiceStub:
        return GRPCInferenceServiceStub(self.channel)


@pytest.fixture
def pinned(tmp_path: Path, stored: dict[str, str]) -> Path:
    tiny_models.pin(tmp_path / "pinned", stored)
    return tmp_path / "pinned"


@contextmanager
def running(pinned: Path, **environment: str) -> Iterator[Running]:
    port = free_port()
    with (
        running_service(environment={"MODELS_DIR": str(pinned), "GRPC_PORT": str(port), **environment}) as url,
        httpx.Client(base_url=url, timeout=30) as client,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        yield Running(client, channel, port)


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, f"not within 30 s: {what}"
        time.sleep(0.01)


def handled_one(client: httpx.Client, code: str) -> bool:
    return series(client, "grpc_server_handled_total", grpc_code=code) == 1


def values(answer: pb.ModelInferResponse) -> list[bytes]:
    """The outputs, without what differs from call to call."""
    return list(answer.raw_output_contents)


MANY = message("iris", tensor("x", np.round(rows_of(IRIS, 10_000), 1)), raw=True)
ONE = message("iris", tensor("x", rows_of(IRIS, 1)), raw=True)


def test_an_expired_or_cancelled_call_harms_nobody(pinned: Path) -> None:
    with running(pinned, **SLOW) as service:
        wanted = service.stub.ModelInfer(MANY, timeout=30)
        others = [service.stub.ModelInfer.future(MANY, timeout=30) for _ in range(2)]
        expired, _ = refusal(lambda: service.stub.ModelInfer(MANY, timeout=0.05))
        assert expired is grpc.StatusCode.DEADLINE_EXCEEDED
        leaver = service.stub.ModelInfer.future(MANY, timeout=30)
        wait_until(lambda: series(service.client, "grpc_server_in_progress", grpc_method="ModelInfer") > 0, "taken")
        leaver.cancel()
        assert [values(other.result()) for other in others] == [values(wanted)] * 2
        # The server has noticed both, and works for nobody any more.
        for code in ("DEADLINE_EXCEEDED", "CANCELLED"):
            wait_until(partial(handled_one, service.client, code), code)
        assert series(service.client, "grpc_server_in_progress") == 0
        assert values(service.stub.ModelInfer(MANY, timeout=30)) == values(wanted)


def test_what_takes_longer_than_the_settings_allow_is_given_up(pinned: Path) -> None:
    with running(pinned, **SLOW, TIMEOUT_SECONDS="0.02") as service:
        code, sentence = refusal(lambda: service.stub.ModelInfer(MANY))
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert sentence == "There was no prediction within 0.02 seconds."
        assert service.stub.ModelInfer(ONE, timeout=20).outputs


def test_shedding_is_told_with_the_time_to_come_back(pinned: Path) -> None:
    with running(pinned, **{**SLOW, "MAX_LATENCY_MS": "1"}) as service:
        calls = [service.stub.ModelInfer.future(MANY, timeout=30) for _ in range(6)]
        refused = [call for call in calls if call.exception() is not None]
        assert refused
        for call in refused:
            assert call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "iris is overloaded" in call.details()
            assert int(dict(call.trailing_metadata())["retry-after"]) >= 1
        assert service.stub.ModelInfer(ONE, timeout=20).outputs


def test_a_service_that_stops_finishes_its_calls_and_tells_its_watchers(pinned: Path) -> None:
    with running(pinned, **SLOW) as service:
        worker = service.client.get("/health").json()["worker"]
        health: Any = HealthStub(service.channel)  # the published types lack its methods
        watch = health.Watch(health_pb2.HealthCheckRequest(), timeout=60)
        assert next(watch).status == SERVING
        calls = [service.stub.ModelInfer.future(MANY, timeout=60) for _ in range(4)]
        wait_until(
            lambda: series(service.client, "grpc_server_in_progress", grpc_method="ModelInfer") == 4, "all four taken"
        )
        os.kill(worker, signal.SIGTERM)
        assert [one.status for one in watch] == [NOT_SERVING]
        assert all(len(call.result().raw_output_contents) == 3 for call in calls)


def listeners(port: int) -> int:
    """How many sockets listen on a port of this machine."""
    # gRPC takes an IPv6 socket for an IPv4 address where it can.
    tables = [Path("/proc/net/tcp"), Path("/proc/net/tcp6")]
    lines = [line.split() for table in tables if table.exists() for line in table.read_text().splitlines()[1:]]
    return sum(fields[1].endswith(f":{port:04X}") and fields[3] == "0A" for fields in lines)


def test_workers_share_the_port_and_one_that_is_lost_comes_back(pinned: Path) -> None:
    with running(pinned, WORKERS="2") as service:
        wait_until(lambda: listeners(service.port) == 2 * LISTENERS, "two workers")
        lost = service.client.get("/health").json()["worker"]
        os.kill(lost, signal.SIGKILL)
        wait_until(lambda: listeners(service.port) == LISTENERS, "one worker")
        wait_until(lambda: listeners(service.port) == 2 * LISTENERS, "two workers again")

        def call(_: int) -> bool:
            # A channel of its own each: the kernel gives them to the workers by turns.
            options = [("grpc.use_local_subchannel_pool", 1)]
            with grpc.insecure_channel(f"127.0.0.1:{service.port}", options) as channel:
                stub = GRPCInferenceServiceStub(channel)
                return len(stub.ModelInfer(ONE, timeout=20, wait_for_ready=True).outputs) == 3

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(call, range(40)))
