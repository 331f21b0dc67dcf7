"""The log of the real service, with two workers."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from open_inference.grpc import protocol as pb
from open_inference.grpc.service import GRPCInferenceServiceStub

from contract.datasets.housing import HOUSING
from contract.datasets.iris import IRIS
from local_service import PROJECT, free_port, running_service
from serving.telemetry.logs import file_of_process
from tests.serving import failing_model, tiny_models
from tests.waiting import wait_until

Event = dict[str, Any]
MADE = re.compile("[0-9a-f]{32}")


@dataclass
class Logged:
    """A service, and what it has printed so far."""

    client: httpx.Client
    grpc_port: int
    output: Path
    file: Path

    def events(self) -> list[Event]:
        """Each line: all are JSON, whoever wrote them."""
        return [json.loads(line) for line in self.output.read_text().splitlines()]

    def event(self, identifier: str) -> Event:
        """The one line of a request's outcome."""
        (found,) = self.until(partial(_is_of, identifier))
        return found

    def told(self, ask: Callable[[], str]) -> tuple[str, Event]:
        """Ask until the answer's identifier leads to a line: those of refusals are limited, by the second."""
        for _ in range(20):
            identifier = ask()
            for event in self.until(partial(_is_of, identifier), seconds=0.3):
                event.pop("left_out", None)
                return identifier, event
        raise AssertionError("no refusal was logged")

    def until(self, wanted: Callable[[Event], bool], seconds: float = 30) -> list[Event]:
        """The lines that are wanted, once there are some: a request is logged after it was answered."""
        deadline = time.monotonic() + seconds
        while not (found := [event for event in self.events() if wanted(event)]) and time.monotonic() < deadline:
            time.sleep(0.02)
        return found


def _is_of(identifier: str, event: Event) -> bool:
    return bool(event.get("request_id") == identifier)


@pytest.fixture(scope="module")
def failing_iris() -> str:
    """The version of a model of Iris that fails on large batches."""
    onnx, card = failing_model.artifact()
    return str(tiny_models.store(IRIS, onnx=onnx, card=card).tag.version)


@pytest.fixture(scope="module")
def logged(stored: dict[str, str], failing_iris: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Logged]:
    directory = tmp_path_factory.mktemp("logged")
    tiny_models.pin(directory / "models", {**stored, "iris": failing_iris})
    port = free_port()
    environment = {
        "MODELS_DIR": str(directory / "models"),
        "WORKERS": "2",
        "GRPC_PORT": str(port),
        "MAX_BATCH_SIZE": "2000",
        "LOG_FILE": str(directory / "service.log"),
    }
    output = directory / "output.log"
    with (
        running_service(environment=environment, log=output) as url,
        httpx.Client(base_url=url, timeout=30) as client,
    ):
        yield Logged(client, port, output, directory / "service.log")


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/predict/iris", IRIS.example, 200),
        ("POST", "/predict/iris", {}, 400),
        ("GET", "/nowhere", None, 404),
        ("GET", "/predict/iris", None, 405),
        ("GET", "/v2", None, 200),
        ("POST", "/v2/models/iris/infer", {}, 400),
        ("GET", "/v2/models/tulips", None, 404),
        ("DELETE", "/v2", None, 405),
        ("GET", "/readyz", None, 200),
        ("GET", "/health", None, 200),
        ("GET", "/metrics", None, 200),
        ("GET", "/docs", None, 200),
    ],
)
def test_every_answer_has_the_identifier(logged: Logged, method: str, path: str, body: object, status: int) -> None:
    asked = logged.client.request(method, path, json=body, headers={"X-Request-ID": "order-7"})
    assert (asked.status_code, asked.headers.get_list("x-request-id")) == (status, ["order-7"])
    made = logged.client.request(method, path, json=body)
    assert MADE.fullmatch(made.headers["x-request-id"])
    odd = logged.client.request(method, path, json=body, headers={"X-Request-ID": "two words"})
    assert MADE.fullmatch(odd.headers["x-request-id"]) is not None


def test_an_identifier_leads_to_the_line_of_a_refusal_without_its_value(logged: Logged, stored: dict[str, str]) -> None:
    def ask() -> str:
        answer = logged.client.post("/predict/housing", json={**HOUSING.example, "AveRooms": -6543.21, "secret-9": 1})
        assert "-6543.21" in answer.json()["error"]
        return str(answer.headers["x-request-id"])

    identifier, event = logged.told(ask)
    assert event.pop("duration_ms") > 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+\+00:00", event.pop("timestamp"))
    assert event == {
        "level": "INFO",
        "logger": "serving.telemetry.request_log",
        "message": "request refused",
        "request_id": identifier,
        "route": "/predict/housing",
        "model": "housing",
        "version": stored["housing"],
        "method": "POST",
        "status": 400,
        "refused": [
            {"feature": "AveRooms", "reason": "out_of_range", "rows": 1},
            {"feature": "other", "reason": "unknown_field", "rows": 1},
        ],
    }
    assert "6543" not in logged.output.read_text()
    assert "secret-9" not in logged.output.read_text()


def test_what_nobody_asked_for_is_logged_with_its_path(logged: Logged) -> None:
    _, event = logged.told(lambda: str(logged.client.get("/odd%0A%7B%7D").headers["x-request-id"]))
    assert (event["route"], event["path"], event["status"]) == ("unknown", "/odd\n{}", 404)


def test_a_failure_has_its_stack_once(logged: Logged, failing_iris: str) -> None:
    rows = {"rows": [IRIS.example] * (failing_model.PLACES + 100)}
    answer = logged.client.post("/predict/iris/batch", json=rows)
    assert answer.status_code == 500
    identifier = answer.headers["x-request-id"]
    event = logged.event(identifier)
    assert (event["level"], event["status"], event["version"]) == ("ERROR", 500, failing_iris)
    assert "failed on a batch of" in event["error"]
    assert "stack" not in event
    (batch,) = logged.until(lambda event: identifier in event.get("request_ids", ()))
    assert (batch["level"], batch["message"], batch["model"]) == ("ERROR", "batch failed", "iris")
    assert "Traceback" in batch["stack"]
    assert "request_id" not in batch
    assert sum("Traceback" in line for line in logged.output.read_text().splitlines()) == 1


def test_grpc_has_the_identifier_too(logged: Logged) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{logged.grpc_port}") as channel:
        stub = GRPCInferenceServiceStub(channel)
        _, call = stub.ServerLive.with_call(pb.ServerLiveRequest(), metadata=[("x-request-id", "order-8")])
        assert dict(call.trailing_metadata())["x-request-id"] == "order-8"

        def ask() -> str:
            with pytest.raises(grpc.RpcError) as failure:
                stub.ModelInfer(pb.ModelInferRequest(model_name="housing", model_version="none"))
            assert isinstance(failure.value, grpc.Call)
            return str(dict(failure.value.trailing_metadata() or ())["x-request-id"])

        identifier, event = logged.told(ask)
    assert MADE.fullmatch(identifier)
    assert (event["route"], event["status"]) == ("/inference.GRPCInferenceService/ModelInfer", "NOT_FOUND")
    assert (event["model"], event["level"]) == ("housing", "INFO")


def test_every_worker_has_a_file_of_its_own(logged: Logged) -> None:
    identifiers = set()
    workers = set()
    for _ in range(40):
        # A connection each, so that both workers have some.
        with httpx.Client(base_url=logged.client.base_url) as client:
            workers.add(client.get("/health").json()["worker"])
            identifiers.add(client.get("/nowhere").headers["x-request-id"])
    assert len(workers) == 2
    files = [file_of_process(logged.file, worker) for worker in (1, 2)]
    assert [file.name for file in files] == ["service.1.log", "service.2.log"]

    def written() -> list[list[Event]]:
        return [[json.loads(line) for line in file.read_text().splitlines()] for file in files]

    def found() -> set[Any]:
        return {event.get("request_id") for events in written() for event in events} & identifiers

    assert all(any(event["message"] == "model loaded" for event in events) for events in written())
    # Each line that is printed is in a file: what is left out of one is left out of the other. A thread writes each.
    wait_until(
        lambda: found() == {event.get("request_id") for event in logged.events()} & identifiers,
        "what is printed is in the files",
    )
    assert found()
    # The process that starts the workers has its own lines.
    assert "Starting production HTTP BentoServer" in logged.file.read_text()


def test_the_last_line_of_the_start_says_where_to_go(logged: Logged, stored: dict[str, str], failing_iris: str) -> None:
    ready = logged.until(lambda event: event["message"].startswith("ready:"))
    port = logged.client.base_url.port
    models = " · ".join(f"{name} {version}" for name, version in sorted((stored | {"iris": failing_iris}).items()))
    assert [event["message"] for event in ready] == [
        f"ready: http://127.0.0.1:{port} (docs /docs) · gRPC {logged.grpc_port} · {models}"
    ]
    start = [event["message"] for event in logged.events() if not event["logger"].endswith(".request_log")]
    assert start.index(ready[0]["message"]) > max(place for place, said in enumerate(start) if said == "model loaded")


def test_a_log_file_that_cannot_be_written_stops_the_start(tmp_path: Path) -> None:
    code = "import service"
    environment = {**os.environ, "LOG_FILE": str(tmp_path / "missing" / "service.log")}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode
    assert f"The log file {tmp_path}/missing/service.log cannot be written" in result.stderr
    assert "Set LOG_FILE" in result.stderr
