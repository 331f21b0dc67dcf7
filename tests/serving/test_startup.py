"""Starting and stopping the real service."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from contract.errors import PipelineError
from contract.housing import HOUSING
from contract.iris import IRIS
from local_service import METRICS_DIRECTORY, free_port, running_service
from tests.serving import tiny_models

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def pinned(tmp_path: Path, stored: dict[str, str]) -> Path:
    tiny_models.pin(tmp_path / "pinned", stored)
    return tmp_path / "pinned"


def refusal(environment: dict[str, str], *arguments: str) -> str:
    """What `bentoml serve` says when it refuses to start: its last line."""
    ended = subprocess.run(
        [sys.executable, "-m", "bentoml", "serve", *arguments],
        cwd=PROJECT,
        env={
            **{name: text for name, text in os.environ.items() if name != METRICS_DIRECTORY},
            "API_HOST": "127.0.0.1",
            "API_PORT": str(free_port()),
            "GRPC_PORT": str(free_port()),
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode != 0
    assert "Traceback" not in ended.stderr + ended.stdout
    return ended.stderr.strip().splitlines()[-1]


@pytest.fixture
def occupied() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_an_unparsable_variable_stops_the_start(pinned: Path) -> None:
    said = refusal({"MODELS_DIR": str(pinned), "WORKERS": "several"})
    assert "WORKERS='several'" in said


def test_a_missing_model_stops_the_start(tmp_path: Path) -> None:
    tiny_models.pin(tmp_path, {"housing": "gone", "iris": "gone"})
    assert "The model housing:gone is not in the BentoML store" in refusal({"MODELS_DIR": str(tmp_path)})


def test_an_artifact_of_another_contract_stops_the_start(tmp_path: Path, stored: dict[str, str]) -> None:
    _, card = tiny_models.artifact(IRIS)
    other = tiny_models.store(IRIS, card=card.model_copy(update={"contract_version": "0123456789ab"}))
    tiny_models.pin(tmp_path, {**stored, "iris": str(other.tag.version)})
    said = refusal({"MODELS_DIR": str(tmp_path)})
    assert "trained under contract 0123456789ab" in said
    assert "make train" in said


def test_a_damaged_artifact_stops_the_start(tmp_path: Path, stored: dict[str, str]) -> None:
    onnx, _ = tiny_models.artifact(HOUSING)
    damaged = tiny_models.store(HOUSING, onnx=onnx[:-1])
    tiny_models.pin(tmp_path, {**stored, "housing": str(damaged.tag.version)})
    assert "is damaged" in refusal({"MODELS_DIR": str(tmp_path)})


@pytest.mark.parametrize("variable", ["API_PORT", "GRPC_PORT"])
def test_a_port_in_use_stops_the_start(pinned: Path, occupied: int, variable: str) -> None:
    said = refusal({"MODELS_DIR": str(pinned), variable: str(occupied)})
    assert f"Port {occupied} is in use" in said
    assert f"set {variable} to" in said


def test_the_grpc_port_of_another_service_stops_the_start(pinned: Path) -> None:
    """Its workers share the port among them, but with nobody else."""
    port = str(free_port())
    with running_service(environment={"MODELS_DIR": str(pinned), "GRPC_PORT": port}):
        assert f"Port {port} is in use" in refusal({"MODELS_DIR": str(pinned), "GRPC_PORT": port})


@pytest.mark.parametrize("by_option", [True, False])
def test_one_port_for_both_protocols_stops_the_start(pinned: Path, by_option: bool) -> None:
    port = str(free_port())
    environment = {"MODELS_DIR": str(pinned), "GRPC_PORT": port} | ({} if by_option else {"API_PORT": port})
    said = refusal(environment, *(["--port", port] if by_option else []))
    assert f"cannot share port {port}" in said


def test_a_start_that_fails_leaves_the_metrics_of_who_runs(pinned: Path) -> None:
    with running_service(environment={"MODELS_DIR": str(pinned)}) as url:
        httpx.post(f"{url}/predict/iris", json=IRIS.example).raise_for_status()
        refusal({"MODELS_DIR": str(pinned), "API_PORT": url.rpartition(":")[2]})
        assert 'endpoint="/predict/iris"' in httpx.get(f"{url}/metrics").text


def test_a_port_in_use_by_option_stops_the_start(pinned: Path, occupied: int) -> None:
    assert f"Port {occupied} is in use" in refusal({"MODELS_DIR": str(pinned)}, "--port", str(occupied))


def test_an_address_of_another_machine_stops_the_start(pinned: Path) -> None:
    said = refusal({"MODELS_DIR": str(pinned), "API_HOST": "192.0.2.1"})
    assert "Cannot listen on 192.0.2.1" in said


def test_a_start_that_fails_is_told_to_who_waits_for_it(tmp_path: Path) -> None:
    tiny_models.pin(tmp_path, {"housing": "gone", "iris": "gone"})
    with (
        pytest.raises(
            PipelineError, match=r"The service stopped while starting.*housing:gone is not in the BentoML store"
        ),
        running_service(environment={"MODELS_DIR": str(tmp_path)}),
    ):
        pytest.fail("it started")


def slow_requests(count: int) -> dict[str, list[dict[str, float]]]:
    return {"rows": [HOUSING.example] * count}


# One row a batch makes a tiny model slow: 10,000 rows take some 100 ms of turns of the event loop.
SLOW = {"WORKERS": "1", "MAX_BATCH_SIZE": "1"}


def test_the_first_request_after_ready_is_answered(pinned: Path) -> None:
    with running_service(environment={"MODELS_DIR": str(pinned), "WORKERS": "2"}) as url:
        statuses = [httpx.post(f"{url}/predict/iris", json=IRIS.example).status_code for _ in range(20)]
    assert statuses == [200] * 20


def test_what_would_wait_too_long_is_refused_at_once(pinned: Path) -> None:
    environment = {**SLOW, "MODELS_DIR": str(pinned), "MAX_LATENCY_MS": "1"}
    with running_service(environment=environment) as url, httpx.Client(base_url=url, timeout=30) as client:

        def call(_: int) -> httpx.Response:
            return client.post("/predict/housing/batch", json=slow_requests(5_000))

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(call, range(8)))
        refused = [answer for answer in answers if answer.status_code == 429]
        assert refused
        assert {answer.status_code for answer in answers} == {200, 429}
        for answer in refused:
            assert int(answer.headers["retry-after"]) >= 1
            assert "housing is overloaded" in answer.json()["error"]
        assert client.post("/predict/housing", json=HOUSING.example).status_code == 200


def test_what_takes_too_long_is_given_up(pinned: Path) -> None:
    environment = {**SLOW, "MODELS_DIR": str(pinned), "TIMEOUT_SECONDS": "0.02"}
    with running_service(environment=environment) as url, httpx.Client(base_url=url, timeout=30) as client:
        answer = client.post("/predict/housing/batch", json=slow_requests(10_000))
        assert (answer.status_code, answer.json()["error"]) == (504, "There was no prediction within 0.02 seconds.")
        assert client.post("/predict/housing", json=HOUSING.example).status_code == 200


def test_a_body_that_does_not_arrive_is_given_up(pinned: Path) -> None:
    environment = {"MODELS_DIR": str(pinned), "WORKERS": "1", "TIMEOUT_SECONDS": "0.2"}
    with running_service(environment=environment) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=20) as stalled:
            stalled.sendall(b"POST /predict/iris HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
            assert b" 504 " in stalled.recv(4096)


def test_stopping_finishes_what_was_taken(pinned: Path) -> None:
    environment = {**SLOW, "MODELS_DIR": str(pinned), "MAX_LATENCY_MS": "600000"}
    with running_service(environment=environment) as url, httpx.Client(base_url=url, timeout=30) as client:
        worker = client.get("/health").json()["worker"]

        def call(_: int) -> httpx.Response:
            return client.post("/predict/housing/batch", json=slow_requests(10_000))

        with ThreadPoolExecutor(4) as pool:
            calls = pool.map(call, range(4))
            # The worker reports its requests in progress: all four have been taken.
            deadline = time.monotonic() + 30
            while in_progress(client) < 4:
                assert time.monotonic() < deadline
            os.kill(worker, signal.SIGTERM)
            assert [answer.status_code for answer in calls] == [200] * 4


def in_progress(client: httpx.Client) -> float:
    lines = client.get("/metrics").text.splitlines()
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in lines
        if line.startswith("bentoml_service_request_in_progress{") and 'endpoint="/predict/housing/batch"' in line
    )
