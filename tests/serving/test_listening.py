"""Where the service listens, and where it puts its metrics: what the environment says, or a sentence."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import grpc
import httpx
import pytest
from click.core import ParameterSource
from open_inference.grpc import protocol as pb
from open_inference.grpc.service import GRPCInferenceServiceStub

from contract.datasets.iris import IRIS
from contract.errors import StartupError
from local_service import PROJECT, free_port
from serving import healthcheck
from serving.settings import Settings
from serving.startup import check_deployment
from serving.telemetry import directory
from tests.serving import tiny_models
from tests.waiting import wait_until


@contextmanager
def started(environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """``bentoml serve`` with exactly these settings."""
    with subprocess.Popen(
        [sys.executable, "-m", "bentoml", "serve"],
        cwd=PROJECT,
        env={**os.environ, "WORKERS": "1", **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


@pytest.mark.parametrize(
    ("host", "address"),
    [
        pytest.param("::", "[::1]", id="any"),
        # A service each: 4 s.
        pytest.param("::1", "[::1]", id="IPv6", marks=pytest.mark.integration),
        pytest.param("localhost", "127.0.0.1", id="name", marks=pytest.mark.integration),
    ],
)
def test_both_protocols_listen_on_the_host(tmp_path: Path, stored: dict[str, str], host: str, address: str) -> None:
    tiny_models.pin(tmp_path / "models", stored)
    port, grpc_port = free_port(), free_port()
    environment = {
        "MODELS_DIR": str(tmp_path / "models"),
        "API_HOST": host,
        "API_PORT": str(port),
        "GRPC_PORT": str(grpc_port),
        directory.VARIABLE: str(tmp_path / "not" / "yet"),
    }
    with started(environment) as service, httpx.Client(base_url=f"http://{address}:{port}") as client:
        wait_until(lambda: service.poll() is not None or not healthcheck.problem(environment), "ready")
        assert service.poll() is None
        client.post("/predict/iris", json=IRIS.example).raise_for_status()
        assert 'endpoint="/predict/iris"' in client.get("/metrics").text
        with grpc.insecure_channel(f"{address}:{grpc_port}") as channel:
            assert GRPCInferenceServiceStub(channel).ServerReady(pb.ServerReadyRequest(), timeout=20).ready
    assert list((tmp_path / "not" / "yet").glob("*.db"))


def test_a_metrics_directory_that_is_none_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with started({directory.VARIABLE: str(tmp_path / "file")}) as service:
        _, told = service.communicate(timeout=60)
    assert service.returncode == 1
    assert "Traceback" not in told
    assert f"{directory.VARIABLE}={tmp_path}/file must be a directory that can be written to" in told.splitlines()[-1]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("file", "can be written to"),
        ("file/below", "can be written to"),
        ("/proc/nowhere", "can be written to"),
    ],
)
def test_what_cannot_be_a_metrics_directory_is_told(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "file").touch()
    path = str(tmp_path / name)
    with pytest.raises(StartupError, match=f"{directory.VARIABLE}={path} must .*{reason}"):
        directory.prepare({directory.VARIABLE: path})


@pytest.mark.parametrize("environment", [{}, {directory.VARIABLE: ""}])
def test_no_metrics_directory_is_never_the_working_directory(environment: dict[str, str]) -> None:
    directory.prepare(environment)
    assert environment.get(directory.VARIABLE) != ""
    assert not environment or Path(environment[directory.VARIABLE]).is_dir()


def test_the_metrics_of_an_earlier_start_are_no_obstacle(tmp_path: Path) -> None:
    for name in ("counter_17.db", "flush_17.sock"):
        (tmp_path / name).touch()
    directory.prepare({directory.VARIABLE: str(tmp_path)})


@pytest.fixture
def options(monkeypatch: pytest.MonkeyPatch) -> Iterator[click.Context]:
    """The options of a ``bentoml serve``."""
    for variable in ("API_HOST", "HTTP_KEEP_ALIVE_SECONDS"):
        monkeypatch.delenv(variable, raising=False)
    with click.Context(click.Command("serve")) as context:
        yield context
    for variable in ("API_HOST", "HTTP_KEEP_ALIVE_SECONDS"):
        os.environ.pop(variable, None)


def settings() -> Settings:
    return Settings.model_validate({"API_PORT": free_port(), "GRPC_PORT": free_port()})


def test_an_option_that_is_no_address_stops_the_start(options: click.Context) -> None:
    options.params["host"] = "localhost"
    with pytest.raises(StartupError, match=r"--host takes an IP address, not 'localhost'\. API_HOST takes a name"):
        check_deployment({}, settings())


def test_options_come_before_the_environment(options: click.Context) -> None:
    options.params |= {"host": "127.0.0.1", "timeout_keep_alive": 7}
    options.set_parameter_source("timeout_keep_alive", ParameterSource.COMMANDLINE)
    check_deployment({}, settings())
    assert (os.environ["API_HOST"], os.environ["HTTP_KEEP_ALIVE_SECONDS"]) == ("127.0.0.1", "7")


def test_without_options_the_environment_decides(options: click.Context) -> None:
    options.params |= {"host": None, "timeout_keep_alive": None}
    check_deployment({}, settings())
    assert "HTTP_KEEP_ALIVE_SECONDS" not in os.environ
