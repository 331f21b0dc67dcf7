"""Workers that hang or lose their models, a parent that is killed, and who listens."""

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import psutil
import pytest
from circus.client import CircusClient
from circus.exc import CallError
from open_inference.grpc import protocol as pb

from contract.datasets.iris import IRIS
from tests.processes import arguments
from tests.resilience.trees import counted, parent_of, tree_of, until_workers_started, workers_of
from tests.serving.running import Running, running
from tests.serving.test_startup import refusal
from tests.waiting import wait_until

pytestmark = pytest.mark.integration


@pytest.fixture
def service(pinned: Path, tmp_path: Path) -> Iterator[Running]:
    """A service with two workers and the ledger, for tests that kill some of it."""
    with running(pinned, tmp_path / "log", WORKERS="2", LEDGER="on") as made:
        yield made


@pytest.fixture(scope="module")
def shared(pinned: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The same, for tests that leave its processes as they are."""
    with running(pinned, tmp_path_factory.mktemp("shared") / "log", WORKERS="2", LEDGER="on") as made:
        yield made


def parent(service: Running) -> psutil.Process:
    return parent_of(int(service.client.base_url.port or 0))


def predicts(service: Running) -> bool:
    return httpx.post(f"{service.url}/predict/iris", json=IRIS.example, timeout=60).is_success


def test_a_service_of_the_tests_has_all_its_workers_when_it_is_given_out(pinned: Path, tmp_path: Path) -> None:
    with running(pinned, tmp_path / "log", WORKERS="3") as service:
        assert counted(service.client, "ml_worker_starts_total") == 3


def test_nobody_listens_beside_http_and_grpc(shared: Running) -> None:
    """Neither the controller nor the event socket of the arbiter, over TCP or with a name in the file system."""
    tree = tree_of(parent(shared))
    listening = {
        (one.laddr.port, one.type)
        for process in tree
        for one in process.net_connections("inet")
        if one.status == psutil.CONN_LISTEN or one.type == socket.SOCK_DGRAM
    }
    ports = {int(shared.client.base_url.port or 0), shared.grpc_port}
    assert listening == {(port, socket.SOCK_STREAM) for port in ports}
    named = {str(one.laddr) for process in tree for one in process.net_connections("unix")} - {""}
    streams = [name for name in named if not Path(name).name.startswith("flush_")]
    assert not streams
    for name in named:
        assert Path(name).parent.stat().st_mode & 0o077 == 0, "only its user reaches the workers' own sockets"


def test_a_client_of_the_arbiter_gets_no_answer(shared: Running, tmp_path: Path) -> None:
    """The attack of issue 13: whoever reaches the controller runs a command as the service's user."""
    mark = tmp_path / "mark"
    command = {"name": "attack", "cmd": f"/usr/bin/touch {mark}", "start": True, "waiting": True}
    listening = [one for one in parent(shared).net_connections("inet") if one.status == psutil.CONN_LISTEN]
    ports = {one.laddr.port for one in listening}
    for endpoint in ["inproc://control", *(f"tcp://127.0.0.1:{port}" for port in ports)]:
        client = CircusClient(endpoint=endpoint, timeout=1)
        try:
            with pytest.raises(CallError):
                client.send_message("add", **command)
        finally:
            client.stop()
    assert not mark.exists()
    assert predicts(shared)


@pytest.mark.parametrize("stop", [signal.SIGSTOP, signal.SIGKILL], ids=["hangs", "dies"])
def test_a_lost_worker_is_replaced(service: Running, stop: signal.Signals) -> None:
    reason = {signal.SIGSTOP: "hung", signal.SIGKILL: "died"}[stop]
    lost, other = workers_of(parent(service))
    os.kill(lost.pid, stop)
    begun = time.monotonic()
    wait_until(lambda: lost.pid not in {one.pid for one in workers_of(parent(service))}, "it is gone", 30)
    wait_until(lambda: len(workers_of(parent(service))) == 2, "another one is started", 30)
    # Measured on an idle machine: 5.6 s until it is killed, 2.5 s until the next one serves.
    assert time.monotonic() - begun < 30
    until_workers_started(service.client, 3)
    assert other.pid in {one.pid for one in workers_of(parent(service))}
    assert counted(service.client, f'ml_worker_exits_total{{reason="{reason}"}}') == 1
    assert all(predicts(service) for _ in range(20))
    with grpc.insecure_channel(f"127.0.0.1:{service.grpc_port}") as channel:
        ready: grpc.UnaryUnaryMultiCallable[bytes, pb.ServerReadyResponse] = channel.unary_unary(
            "/inference.GRPCInferenceService/ServerReady", response_deserializer=pb.ServerReadyResponse.FromString
        )
        assert all(ready(b"", timeout=10).ready for _ in range(20))


def test_all_that_stop_together_go_on_together(shared: Running) -> None:
    """As with a laptop that sleeps, or a container that is paused."""
    tree = tree_of(parent(shared))
    for process in tree:
        process.suspend()
    time.sleep(8)
    for process in reversed(tree):
        process.resume()
    time.sleep(3)
    assert {one.pid for one in workers_of(parent(shared))} <= {one.pid for one in tree}
    assert predicts(shared)
    assert counted(shared.client, 'ml_worker_exits_total{reason="hung"}') == 0


def test_a_debugger_may_hold_the_parent(shared: Running) -> None:
    """The workers go on without it, and are not replaced when it goes on."""
    held = parent(shared)
    before = {one.pid for one in workers_of(held)}
    held.suspend()
    time.sleep(7)
    assert predicts(shared)
    held.resume()
    time.sleep(2)
    assert {one.pid for one in workers_of(held)} == before


def test_workers_end_when_their_parent_is_gone(service: Running) -> None:
    whole = tree_of(parent(service))
    wait_until(lambda: any("ledger.drainer" in arguments(one) for one in tree_of(parent(service))), "it drains")
    whole = tree_of(parent(service))
    assert predicts(service)
    whole[0].kill()
    _, left = psutil.wait_procs(whole[1:], timeout=60)
    assert not left, "workers and the ledger's drainer end"
    said = service.log.read_text()
    assert "parent process is gone" in said
    assert "Traceback" not in said
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{service.url}/readyz", timeout=5)


def test_where_no_worker_can_start_the_server_ends(pinned: Path, tmp_path: Path) -> None:
    """With a status that is not 0, so that whoever runs it notices; it used to start workers for ever."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nif '_bentoml_impl.worker.service' in sys.orig_argv: os._exit(1)\n"
    )
    said = refusal({"MODELS_DIR": str(pinned), "WORKERS": "2", "PYTHONPATH": str(tmp_path)})
    assert "No worker could start" in said


def test_a_worker_that_cannot_load_its_model_again_is_counted(pinned: Path, tmp_path: Path) -> None:
    import bentoml

    from model.card import ONNX_FILE
    from serving.models import ARTIFACT_FOLDER, deployed_model

    with running(pinned, tmp_path / "log", WORKERS="2") as service:
        stored = bentoml.models.get(deployed_model("iris", pinned).tag)
        onnx = Path(stored.path_of(ARTIFACT_FOLDER)) / ONNX_FILE
        content = onnx.read_bytes()
        onnx.write_bytes(content + b"\0")
        try:
            workers_of(parent(service))[0].kill()
            wait_until(
                lambda: counted(service.client, 'ml_worker_exits_total{reason="start_failed"}') >= 2, "it fails twice"
            )
            assert predicts(service), "the other worker serves"
        finally:
            onnx.write_bytes(content)
        until_workers_started(service.client, 3)
        lines = service.log.read_text()
        assert "this worker cannot start: The stored model" in lines
        assert "Traceback" not in lines
