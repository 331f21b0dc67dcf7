"""Starts of the real service: what stops one, and how that is told."""

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import click
import httpx
import pytest

from contract import DATASETS
from contract.datasets.housing import HOUSING
from contract.datasets.iris import IRIS
from contract.errors import StartupError
from local_service import METRICS_DIRECTORY, PROJECT, ServiceNotStarted, free_port, running_service
from serving.keys import digest, new_key
from serving.models import deployed_model
from serving.settings import Settings
from serving.startup import check_deployment, ready_line
from tests.serving import tiny_models
from tests.serving.conftest import Started


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
        timeout=120,
        check=False,
    )
    assert ended.returncode != 0
    assert "Traceback" not in ended.stderr + ended.stdout
    return ended.stderr.strip().splitlines()[-1]


def check(models: Path, **settings: object) -> None:
    """Make the checks of a start in this process, which is quicker."""
    defaults = {"API_HOST": "127.0.0.1", "API_PORT": free_port(), "GRPC_PORT": free_port(), "MODELS_DIR": models}
    defaults["LEDGER"] = "off"
    references = {dataset: deployed_model(dataset.name, models) for dataset in DATASETS.values()}
    check_deployment(references, Settings.model_validate({**defaults, **settings}))


@pytest.fixture(autouse=True)
def _host(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks leave the host in the environment, for the workers."""
    monkeypatch.setenv("API_HOST", "127.0.0.1")


@pytest.fixture
def occupied() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_deployment_without_fault_passes(pinned: Path) -> None:
    check(pinned)


def test_a_store_without_a_deployment_stops_the_start(stored: dict[str, str], tmp_path: Path) -> None:
    assert stored
    told = refusal({"MODELS_DIR": str(tmp_path)})
    assert (
        f"No model of {next(iter(DATASETS))} is deployed: {tmp_path}/deployed.json does not exist. Run `make train`"
        in told
    )
    told = refusal({"MODELS_DIR": str(tmp_path / "nowhere")})
    assert f"MODELS_DIR={str(tmp_path / 'nowhere')!r}: there is no such directory" in told


def test_an_unparsable_variable_stops_the_start(pinned: Path) -> None:
    assert "WORKERS='several'" in refusal({"MODELS_DIR": str(pinned), "WORKERS": "several"})


def test_a_key_in_the_place_of_its_hash_stops_the_start_and_is_not_repeated(pinned: Path) -> None:
    key = new_key()
    said = refusal({"MODELS_DIR": str(pinned), "API_KEYS": key})
    assert "API_KEYS: entry 1 is a key, not its hash" in said
    assert key not in said


def test_a_broken_file_of_keys_stops_the_start(pinned: Path, tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"METRICS_KEYS_FILE names .*none, which cannot be used: No such file"):
        check(pinned, METRICS_KEYS_FILE=tmp_path / "none")


def test_the_start_says_who_may_call(pinned: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        check(pinned)
        check(pinned, API_KEYS=digest(b"key").hex(), ADMIN_KEYS=digest(b"admin").hex())
    told = [
        (record.getMessage(), vars(record).get("settings")) for record in caplog.records if "keys" in record.message
    ]
    assert told == [("no keys: everybody may call", None), ("keys are asked for", ["ADMIN_KEYS", "API_KEYS"])]


def test_an_artifact_of_another_contract_stops_the_start(tmp_path: Path, stored: dict[str, str]) -> None:
    _, card = tiny_models.artifact(IRIS)
    other = tiny_models.store(IRIS, card=card.model_copy(update={"contract_version": "0123456789ab"}))
    tiny_models.pin(tmp_path, {**stored, "iris": str(other.tag.version)})
    with pytest.raises(StartupError, match=r"trained under contract 0123456789ab.*make train"):
        check(tmp_path)


def test_a_damaged_artifact_stops_the_start(tmp_path: Path, stored: dict[str, str]) -> None:
    onnx, _ = tiny_models.artifact(HOUSING)
    damaged = tiny_models.store(HOUSING, onnx=onnx[:-1])
    tiny_models.pin(tmp_path, {**stored, "housing": str(damaged.tag.version)})
    with pytest.raises(StartupError, match="is damaged"):
        check(tmp_path)


@pytest.mark.parametrize("variable", ["API_PORT", "GRPC_PORT"])
def test_a_port_in_use_stops_the_start(pinned: Path, occupied: int, variable: str) -> None:
    with pytest.raises(StartupError, match=rf"Port {occupied} is in use.*set {variable} to"):
        check(pinned, **{variable: occupied})


def test_a_port_in_use_by_option_stops_the_start(pinned: Path, occupied: int) -> None:
    said = refusal({"MODELS_DIR": str(pinned)}, "--port", str(occupied))
    assert f"Port {occupied} is in use" in said


@pytest.mark.parametrize("by_option", [True, False])
def test_one_port_for_both_protocols_stops_the_start(pinned: Path, by_option: bool) -> None:
    port = free_port()
    options = click.Context(click.Command("serve"))
    options.params["port"] = port
    ports = {"GRPC_PORT": port} | ({} if by_option else {"API_PORT": port})
    with (
        options.scope() if by_option else nullcontext(),
        pytest.raises(StartupError, match=f"cannot share port {port}"),
    ):
        check(pinned, **ports)


def test_an_address_of_another_machine_stops_the_start(pinned: Path) -> None:
    with pytest.raises(StartupError, match=r"Cannot listen on 192\.0\.2\.1"):
        check(pinned, API_HOST="192.0.2.1")


def test_another_service_on_the_grpc_port_stops_the_start_and_keeps_its_metrics(
    client: httpx.Client, grpc_port: int, pinned: Path
) -> None:
    """The workers of one service share the gRPC port; another service must not join them."""
    client.post("/predict/iris", json=IRIS.example).raise_for_status()
    assert f"Port {grpc_port} is in use" in refusal({"MODELS_DIR": str(pinned), "GRPC_PORT": str(grpc_port)})
    assert 'endpoint="/predict/iris"' in client.get("/metrics").text


def test_a_missing_model_stops_the_start_and_is_told_to_the_caller_that_waits(tmp_path: Path) -> None:
    tiny_models.pin(tmp_path, dict.fromkeys(DATASETS, "gone"))
    sentence = rf"The service stopped while starting.*{next(iter(DATASETS))}:gone is not in the BentoML store"
    with (
        pytest.raises(ServiceNotStarted, match=sentence),
        running_service(environment={"MODELS_DIR": str(tmp_path)}),
    ):
        pytest.fail("it started")


def test_the_first_requests_after_ready_are_answered(started: Started) -> None:
    assert started.first_statuses == [200] * 20


@pytest.mark.parametrize(
    ("host", "tls", "url"),
    [
        ("0.0.0.0", False, "http://127.0.0.1:8000"),  # noqa: S104
        ("192.0.2.7", True, "https://192.0.2.7:8000"),
        ("::", False, "http://[::1]:8000"),
    ],
)
def test_the_ready_line_has_an_address_that_a_browser_opens(
    stored: dict[str, str], pinned: Path, host: str, url: str, *, tls: bool
) -> None:
    models = {dataset: deployed_model(dataset.name, pinned) for dataset in (HOUSING, IRIS)}
    assert ready_line(host, 8000, 8001, models, tls=tls) == (
        f"ready: {url} (docs /docs) · gRPC 8001 · housing {stored['housing']} · iris {stored['iris']}"
    )
