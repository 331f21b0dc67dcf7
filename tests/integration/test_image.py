"""The image that ``make image`` builds: what is in it, how it runs, how it stops, how one version follows another."""

import json
import logging
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bentoml
import grpc
import httpx
import numpy as np
import pytest
from open_inference.grpc import protocol as pb
from open_inference.grpc.service import GRPCInferenceServiceStub

from contract import DATASETS
from contract.dataset import Dataset
from contract.datasets.iris import IRIS
from deploy import sbom
from local_service import PROJECT, free_port
from serving.models import LoadedModel, load
from tests.integration.callers import Callers
from tests.integration.conftest import Newcomer
from tests.integration.containers import (
    BASE,
    CONFIGURATION,
    MEMORY,
    VARIABLE,
    Container,
    is_ready,
    load_balancer,
    podman,
    running,
)
from tests.serving.running import PATIENT
from tests.waiting import wait_until

logger = logging.getLogger(__name__)

NAME = "localhost/ml-prediction-bundle-test"
LARGEST = 360_000_000
"""Bytes, uncompressed, base and all."""
TRAINING = {
    "scikit-learn",
    "pandas",
    "mlflow",
    "mlflow-skinny",
    "dvc",
    "onnx",
    "skl2onnx",
    "skops",
    "pyarrow",
    "matplotlib",
}
KINDS = ("row", "batch", "call")
PROGRAMS = """
import os
folders = ["/bin", "/sbin", "/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin", "/app/.venv/bin"]
print(*{name for folder in folders if os.path.isdir(folder) for name in os.listdir(folder)})
"""
OWNED = """
import os
for top, folders, files in os.walk("/"):
    if top == "/":
        folders[:] = set(folders) - {"proc", "sys", "dev", "tmp", "state"}
    for path in [top, *(os.path.join(top, name) for name in files)]:
        told = os.lstat(path)
        if told.st_uid == os.getuid() or told.st_mode & 0o002 and not os.path.islink(path):
            print(path)
"""
SHARED = {"/var/tmp"}  # noqa: S108 - as in any Debian


@dataclass(frozen=True)
class Image:
    """A version of the image, and the tag of its Bento."""

    name: str
    bento: str


def build(newcomer: Newcomer, command: str, name: str) -> Image:
    newcomer.run(f"{VARIABLE}={CONFIGURATION} BENTOML_DO_NOT_TRACK=True {command}", timeout=900)
    bento = json.loads(newcomer.run("bentoml get ml_prediction_bundle:latest --output json").stdout)
    return Image(name, bento["version"])


@pytest.fixture(scope="session")
def image(served_once: Newcomer) -> Iterator[Image]:
    """The README's command, on a base that this machine makes itself: it can pull none."""
    served_once.run(f"{VARIABLE}={CONFIGURATION} deploy/local_base.sh {BASE}")
    command = f'make image IMAGE={NAME} BASE_IMAGE={BASE} IMAGE_OPTIONS="--opt network=host"'
    yield build(served_once, command, f"{NAME}:latest")
    podman("rmi", "--force", f"{NAME}:latest", f"{NAME}:{project_version()}", check=False)


@pytest.fixture(scope="session")
def next_image(served_once: Newcomer, image: Image) -> Iterator[Image]:
    """The next version: another Bento, built on the layers of the first."""
    command = (
        f"bentoml build && python -m deploy.image --image {NAME} --tag next --base-image {BASE} --opt network=host"
    )
    first = podman("image", "inspect", "--format={{.Id}}", image.name)
    built = build(served_once, command, f"{NAME}:next")
    assert built.bento != image.bento
    podman("tag", first, image.name)  # of which it took the tag
    yield built
    podman("rmi", "--force", built.name, check=False)


@pytest.fixture(scope="session")
def container(image: Image) -> Iterator[Container]:
    with running(image.name, WORKERS="2", **PATIENT) as started:
        began = time.monotonic()
        started.wait_until_ready()
        logger.info("ready %.1f s after it was started", time.monotonic() - began)
        yield started


def project_version() -> str:
    found = re.search(r'^version = "(.*)"$', (PROJECT / "pyproject.toml").read_text(), re.MULTILINE)
    assert found
    return found[1]


def test_the_image_is_small_and_says_what_it_is(image: Image, served_once: Newcomer) -> None:
    (told,) = json.loads(podman("image", "inspect", image.name))
    logger.info("%.0f MB", told["Size"] / 1e6)
    assert told["Size"] < LARGEST
    assert told["User"] == "1034:1034"
    assert set(told["Config"]["ExposedPorts"]) == {"8000/tcp", "8001/tcp"}
    assert "healthcheck.py" in str(told["HealthCheck" if "HealthCheck" in told else "Healthcheck"])
    labels = told["Labels"]
    deployed = json.loads((served_once.clone / "models" / "deployed.json").read_text())
    assert labels["org.opencontainers.image.title"] == "ml-prediction-bundle"
    assert labels["org.opencontainers.image.version"] == project_version()
    assert labels["org.opencontainers.image.revision"] == served_once.run("git rev-parse HEAD").stdout.strip()
    assert set(labels["ml-prediction-bundle.models"].split(",")) == set(deployed.values())
    assert f"{NAME}:{project_version()}" in told["RepoTags"]


def test_it_holds_what_serving_needs_and_no_more(image: Image, served_once: Newcomer) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(CONFIGURATION))
        told = sbom.inventory("podman", image.name)
    libraries = {f"{one['name']}=={one['version']}" for one in told["libraries"]}
    locked = set(re.findall(r"^([a-z0-9][^\s;]*==[^\s;]+)", (PROJECT / "requirements/serving.txt").read_text(), re.M))
    assert libraries <= locked
    # What is locked for other systems only has a condition behind it.
    everywhere = set(
        re.findall(r"^([a-z0-9][^\s;]*==\S+) \\", (PROJECT / "requirements/serving.txt").read_text(), re.M)
    )
    assert everywhere <= libraries
    assert not {one["name"] for one in told["libraries"]} & TRAINING
    deployed = json.loads((served_once.clone / "models" / "deployed.json").read_text())
    assert {f"{one['name']}:{one['version']}" for one in told["models"]} == set(deployed.values())
    # The packages of which there is something: the C library, but neither the shell nor the package manager.
    packages = {one["name"] for one in told["packages"]}
    assert {"libc6", "libssl3"} <= packages
    assert not packages & {"bash", "dash", "coreutils", "apt", "dpkg", "perl", "perl-base", "tar", "util-linux"}


def test_its_bill_of_materials_is_valid(image: Image, tmp_path: Path) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    output = tmp_path / "sbom.cdx.json"
    command = [sys.executable, "-m", "deploy.sbom", image.name, "--output", str(output), "--engine", "podman"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(CONFIGURATION))
        subprocess.run(command, cwd=PROJECT, check=True)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(output.read_text()) is None
    kinds = {one["name"]: one["type"] for one in json.loads(output.read_text())["components"]}
    assert kinds["onnxruntime"] == kinds["libc6"] == "library"
    assert kinds["housing"] == kinds["iris"] == "machine-learning-model"


def test_it_runs_with_nothing_that_it_does_not_need(container: Container) -> None:
    told = container.inspect()
    assert told["HostConfig"]["ReadonlyRootfs"]
    assert told["HostConfig"]["Memory"] == MEMORY
    status = dict(
        re.findall(r"^(\w+):\s+(.*)$", container.python("print(open('/proc/1/status').read())"), re.MULTILINE)
    )
    assert status["Uid"].split()[0] == "1034"
    assert {int(status[name], 16) for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb")} == {0}
    assert status["NoNewPrivs"] == "1"
    assert set(container.python(PROGRAMS).split()) <= {"bentoml", "python", "python3", "python3.11"}
    # Not only because the root is read-only: nothing but the volume is the user's, or everybody's.
    assert set(container.python(OWNED).split()) <= SHARED
    podman("healthcheck", "run", container.name)


@pytest.fixture(scope="session")
def stored(served_once: Newcomer) -> dict[str, LoadedModel]:
    """The models of the newcomer's store, as the service loads them."""
    exported = served_once.clone / "models" / "store"
    return {
        name: load(dataset, bentoml.models.import_model(str(exported / f"{name}.bentomodel")))
        for name, dataset in DATASETS.items()
    }


def over_http(container: Container, dataset: Dataset, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    named = [dict(zip(dataset.feature_names, row, strict=True)) for row in rows.tolist()]
    answer = httpx.post(f"{container.url}/predict/{dataset.name}/batch", json={"rows": named}, timeout=60).json()
    key = "probabilities" if dataset.target.classes else "prediction"
    values = [one[key] for one in answer["predictions"]]
    return np.array(
        [[one[label] for label in dataset.target.classes] if dataset.target.classes else [one] for one in values]
    )


def over_grpc(container: Container, dataset: Dataset, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    request = pb.ModelInferRequest(model_name=dataset.name, raw_input_contents=[rows.astype("<f8").tobytes()])
    request.inputs.add(name="input", datatype="FP64", shape=rows.shape)
    name = "probabilities" if dataset.target.classes else "predict"
    request.outputs.add(name=name)
    with grpc.insecure_channel(container.grpc_address) as channel:
        answer = GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=60)
    return np.frombuffer(answer.raw_output_contents[0], dtype="<f8").reshape(len(rows), -1)


@pytest.mark.parametrize("ask", [over_http, over_grpc])
@pytest.mark.parametrize("name", DATASETS)
def test_it_predicts_what_the_store_does(
    container: Container, stored: dict[str, LoadedModel], name: str, ask: Any
) -> None:
    model = stored[name]
    answers = ask(container, DATASETS[name], model.artifact.golden_rows(model.dataset))
    np.testing.assert_array_equal(answers, model.artifact.outputs(model.artifact.golden_rows(model.dataset)))


def workers(container: Container) -> set[int]:
    return {httpx.get(f"{container.url}/health", timeout=30).json()["worker"] for _ in range(20)}


def test_a_worker_that_dies_is_replaced(container: Container) -> None:
    wait_until(lambda: len(workers(container)) == 2, "one of two workers never answers")
    lost = min(workers(container))
    container.python(f"import os; os.kill({lost}, 9)")

    def replaced() -> bool:
        try:
            now = workers(container)
        except httpx.TransportError:
            return False  # a connection that the dead worker had taken
        return len(now) == 2 and lost not in now

    wait_until(replaced, lambda: f"{lost} is not replaced: {container.logs()}")


def finish_late(container: Container, half_sent: threading.Event) -> str:
    """The status line of a request whose second half is sent when the service no longer listens."""
    body = json.dumps(IRIS.example).encode()
    head = f"POST /predict/iris HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", container.http_port), timeout=60) as connection:
        connection.sendall(head.encode() + body[:10])
        half_sent.set()
        wait_until(lambda: not listens(container), "it never stops to listen")
        connection.sendall(body[10:])
        return connection.recv(4096).decode().partition("\r\n")[0]


def listens(container: Container) -> bool:
    """Whether a worker still listens: their parent holds the port until they have ended, but accepts nobody."""
    try:
        httpx.get(f"{container.url}/livez", timeout=1)
    except httpx.TransportError:
        return False
    return True


def test_it_stops_under_load_and_fails_no_request(image: Image) -> None:
    """Callers who do as a load balancer does: they ask as long as the readiness probe says yes.

    Counted is every request that they began, whatever became of it. Without the drain those that are sent between
    SIGTERM and the next probe would be refused. A request that was half sent by then is finished after all others.
    """
    with running(image.name, WORKERS="2", **PATIENT) as container, ThreadPoolExecutor(2) as pool:
        container.wait_until_ready()
        callers = Callers(container.http_address, container.grpc_address)
        left, half_sent = threading.Event(), threading.Event()
        with callers.asking(until=left):
            wait_until(lambda: all(callers.answered(kind) >= 5 for kind in KINDS), lambda: str(callers))
            late = pool.submit(finish_late, container, half_sent)
            assert half_sent.wait(30)
            before = callers.answers.total()
            stopped = pool.submit(container.stop)
            wait_until(lambda: not is_ready(container.url), "it stays ready")
            left.set()
        assert callers.answers.total() > before
        assert callers.failures == {}
        assert late.result() == "HTTP/1.1 200 OK"
        assert stopped.result() == 0, container.logs()


def version_of(address: str) -> str:
    return str(httpx.get(f"http://{address}/v2", timeout=30).json()["version"])


@pytest.mark.weekly
def test_one_version_follows_another_and_no_request_fails(image: Image, next_image: Image, tmp_path: Path) -> None:
    """A rolling update behind HAProxy, which tries nothing twice: what it cannot pass on counts as failed."""
    http_port, grpc_port = free_port(), free_port()
    green = (f"127.0.0.1:{http_port}", f"127.0.0.1:{grpc_port}")
    with ExitStack() as stack:
        old = stack.enter_context(running(image.name, WORKERS="1", **PATIENT))
        http, rpc = stack.enter_context(load_balancer(old, green, tmp_path / "haproxy.log"))
        assert version_of(http) == image.bento
        callers = Callers(http, rpc)
        with callers.asking():
            ports = {"API_PORT": str(http_port), "GRPC_PORT": str(grpc_port)}
            stack.enter_context(running(next_image.name, WORKERS="1", **PATIENT, **ports))
            wait_until(lambda: version_of(http) == next_image.bento, "the new version gets no request")
            assert old.stop() == 0, old.logs()
            assert {version_of(http) for _ in range(10)} == {next_image.bento}
            before = {kind: callers.answered(kind) for kind in KINDS}
            wait_until(
                lambda: all(callers.answered(kind) >= before[kind] + 20 for kind in KINDS),
                lambda: f"the new version does not answer: {callers}",
            )
    assert all(before.values()), "both versions were asked in every way"
    assert callers.failures == {}
    logger.info("%d requests: %s", callers.answers.total(), dict(callers.answers))
