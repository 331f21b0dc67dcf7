"""Existing clients against the real service, from their own environment: conformance tests, and ``examples/``."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from contract import DATASETS
from contract.datasets.housing import HOUSING
from contract.datasets.iris import IRIS
from local_service import PROJECT, free_port, running_service
from tests.serving import tiny_models

BIN = PROJECT / ".venv" / "clients" / "bin"
HOUSING_ROWS = [
    HOUSING.example,
    dict(zip(HOUSING.feature_names, [2.0, 20.0, 5.0, 1.0, 900.0, 3.0, 34.0, -118.0], strict=True)),
]
IRIS_ROWS = [IRIS.example, dict(zip(IRIS.feature_names, [6.7, 3.0, 5.2, 2.3], strict=True))]
"""The rows of the examples."""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The variables of a client of the real service with tiny models, on two workers."""
    if not BIN.is_dir():
        pytest.fail("the clients of other projects are not installed: make .venv/.clients")
    models = tmp_path_factory.mktemp("models")
    tiny_models.pin(models, {name: str(tiny_models.store(dataset).tag.version) for name, dataset in DATASETS.items()})
    port = str(free_port())
    with running_service(environment={"MODELS_DIR": str(models), "WORKERS": "2", "GRPC_PORT": port}) as url:
        yield {
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "API_URL": url,
            "GRPC_ADDRESS": f"127.0.0.1:{port}",
        }


def run(command: list[str], environment: dict[str, str]) -> str:
    ended = subprocess.run(
        command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert not ended.returncode, f"{command}: exit {ended.returncode}\n{ended.stdout[-8000:]}\n{ended.stderr[-4000:]}"
    return ended.stdout


def example(name: str, environment: dict[str, str]) -> str:
    interpreter = {".py": "python", ".sh": "bash"}[Path(name).suffix]
    # Behind a proxy that must not be asked.
    return run([interpreter, f"examples/{name}"], {**environment, "http_proxy": "http://127.0.0.1:9"})


def python_lines(printed: str) -> list[Any]:
    return [ast.literal_eval(line) for line in printed.splitlines()]


def documents(printed: str) -> list[Any]:
    """JSON documents one after the other."""
    found = []
    while printed := printed.strip():
        document, end = json.JSONDecoder().raw_decode(printed)
        found.append(document)
        printed = printed[end:]
    return found


def batch(environment: dict[str, str], model: str, rows: list[dict[str, float]]) -> list[dict[str, Any]]:
    answer = httpx.post(f"{environment['API_URL']}/predict/{model}/batch", json={"rows": rows}).raise_for_status()
    predictions: list[dict[str, Any]] = answer.json()["predictions"]
    return predictions


@pytest.fixture(scope="module")
def housing(environment: dict[str, str]) -> list[float]:
    """The predictions of ``/predict/housing/batch`` for the examples' rows."""
    return [value["prediction"] for value in batch(environment, "housing", HOUSING_ROWS)]


@pytest.fixture(scope="module")
def iris(environment: dict[str, str]) -> list[dict[str, Any]]:
    """The answers of ``/predict/iris/batch`` to the examples' rows."""
    return batch(environment, "iris", IRIS_ROWS)


@pytest.mark.parametrize(
    "client",
    [
        "tritonclient_http",
        "tritonclient_grpc",
        pytest.param(
            "kserve_client",
            marks=pytest.mark.skipif(sys.version_info >= (3, 13), reason="kserve does not install on 3.13"),
        ),
        pytest.param(
            "mlserver_types",
            marks=pytest.mark.skipif(sys.version_info >= (3, 13), reason="mlserver does not install on 3.13"),
        ),
    ],
)
def test_protocol_conformance(environment: dict[str, str], client: str) -> None:
    """A process for each client: their packages register messages of the same names."""
    module = f"tests/clients/{client}.py"
    printed = run(["python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "addopts=", module], environment)
    assert " passed in " in printed


def test_protocol_example_in_python_with_requests(environment: dict[str, str], housing: list[float]) -> None:
    (poorer,) = batch(environment, "housing", [{**HOUSING.example, "MedInc": 2.0}])
    one, several, v2 = python_lines(example("python_requests.py", environment))
    assert one == housing[0]
    assert several == [housing[0], poorer["prediction"]]
    assert v2 == housing[:1]


def test_protocol_example_in_python_with_tritonclient_http(
    environment: dict[str, str], iris: list[dict[str, Any]]
) -> None:
    predict, label, probabilities = python_lines(example("python_tritonclient_http.py", environment))
    assert predict == [value["prediction"] for value in iris]
    assert label == [value["label"] for value in iris]
    assert probabilities == [list(value["probabilities"].values()) for value in iris]


def test_protocol_example_in_python_with_tritonclient_grpc(environment: dict[str, str], housing: list[float]) -> None:
    assert python_lines(example("python_tritonclient_grpc.py", environment)) == [housing]


def test_protocol_example_with_curl(environment: dict[str, str], iris: list[dict[str, Any]]) -> None:
    one, several, v2 = documents(example("curl.sh", environment))
    assert one["probabilities"] == iris[0]["probabilities"]
    assert several["predictions"] == iris[1:]
    answered = {output["name"]: output["data"] for output in v2["outputs"]}
    assert answered["label"] == [value["label"] for value in iris]
    assert answered["probabilities"] == [p for value in iris for p in value["probabilities"].values()]


@pytest.mark.skipif(
    sys.platform != "linux" or os.uname().machine != "x86_64", reason="PyPI's grpcurl is for Linux x86-64"
)
def test_protocol_example_with_grpcurl(environment: dict[str, str], housing: list[float]) -> None:
    health, answer = documents(example("grpcurl.sh", environment))
    assert health == {"status": "SERVING"}
    (output,) = answer["outputs"]
    assert output["shape"] == ["2", "1"]
    assert output["contents"] == {"fp64_contents": housing}
