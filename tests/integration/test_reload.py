"""Models are reloaded in a real service with two workers, under the load of every protocol.

The models are tiny, so that 200 reloads take minutes.
"""

import logging
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import bentoml
import grpc
import httpx
import numpy as np
import psutil
import pytest
from open_inference.grpc import protocol as pb
from open_inference.grpc.service import GRPCInferenceServiceStub
from sklearn.linear_model import LogisticRegression

from contract import DATASETS
from contract.datasets.iris import IRIS
from local_service import free_port, running_service
from model.card import ONNX_FILE
from model.deployed import Deployment
from serving.keys import Ring
from serving.models import ARTIFACT_FOLDER, LoadedModel, load
from tests.resilience.trees import LONG
from tests.serving import tiny_models
from tests.serving.locked import HASHES, KEYS
from tests.serving.protocol.wire import message, tensor
from tests.serving.running import PATIENT
from tests.serving.series import scrape
from tests.waiting import wait_until

pytestmark = pytest.mark.integration
logger = logging.getLogger(__name__)
ADMIN = {"authorization": f"Bearer {KEYS[Ring.ADMIN]}"}
RELOADS = 200 if LONG else 40
BATCH = 520
"""Rows: more than run at once."""
ROWS = tiny_models.table(IRIS).features[:20]
Ask = Callable[[np.ndarray], tuple[str, list[float]]]
"""Asks for one row in one form: the version that is said to have answered, and the probabilities."""


@dataclass
class Load:
    """Callers of every protocol, without a retry of any kind. Every answer must be that of the version it names."""

    url: str
    grpc_target: str
    expected: dict[str, list[list[float]]]
    answered: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By form and version."""
    wrong: list[str] = field(default_factory=list)
    not_ready: list[str] = field(default_factory=list)

    @contextmanager
    def running(self) -> Iterator[None]:
        over = threading.Event()
        channel = grpc.insecure_channel(self.grpc_target, [("grpc.enable_retries", 0)])
        with channel, ThreadPoolExecutor(5) as pool:
            clients = [httpx.Client(base_url=self.url, timeout=60) for _ in range(4)]
            forms = {
                "flat": self.flat(clients[0]),
                "batch": self.batch(clients[1]),
                "v2": self.v2(clients[2]),
                "grpc": self.grpc(channel),
            }
            threads: list[Future[None]] = [pool.submit(self._ask, form, ask, over) for form, ask in forms.items()]
            threads.append(pool.submit(self._probe, clients[3], over))
            try:
                yield
            finally:
                over.set()
                for thread in threads:
                    thread.result()
                for client in clients:
                    client.close()

    def _ask(self, form: str, ask: Ask, over: threading.Event) -> None:
        index = 0
        while not over.wait(0.005):
            index = (index + 1) % len(ROWS)
            try:
                version, probabilities = ask(ROWS[index])
            except (httpx.HTTPError, grpc.RpcError) as error:
                self.wrong.append(f"{form}: {error!r}")
                continue
            self.answered[form, version] += 1
            if probabilities != self.expected[version][index]:
                self.wrong.append(f"{form}: row {index} has another answer than that of {version}")

    def _probe(self, client: httpx.Client, over: threading.Event) -> None:
        while not over.wait(0.02):
            answer = client.get("/readyz")
            if answer.status_code != 200:
                self.not_ready.append(answer.text)

    def flat(self, client: httpx.Client) -> Ask:
        def ask(row: np.ndarray) -> tuple[str, list[float]]:
            body = dict(zip(IRIS.feature_names, row.tolist(), strict=True))
            content = client.post("/predict/iris", json=body).raise_for_status().json()
            return content["model"]["version"], list(content["probabilities"].values())

        return ask

    def batch(self, client: httpx.Client) -> Ask:
        def ask(row: np.ndarray) -> tuple[str, list[float]]:
            body = {"rows": [dict(zip(IRIS.feature_names, row.tolist(), strict=True))] * BATCH}
            content = client.post("/predict/iris/batch", json=body).raise_for_status().json()
            # One request of two batches: both of one version.
            found = {tuple(one["probabilities"].values()) for one in content["predictions"]}
            return content["model"]["version"], [value for one in found for value in one]

        return ask

    def v2(self, client: httpx.Client) -> Ask:
        def ask(row: np.ndarray) -> tuple[str, list[float]]:
            body = {"inputs": [tensor("x", row[None])], "outputs": [{"name": "probabilities"}]}
            content = client.post("/v2/models/iris/infer", json=body).raise_for_status().json()
            return content["model_version"], content["outputs"][0]["data"]

        return ask

    def grpc(self, channel: grpc.Channel) -> Ask:
        stub = GRPCInferenceServiceStub(channel)
        wanted = [pb.ModelInferRequest.InferRequestedOutputTensor(name="probabilities")]

        def ask(row: np.ndarray) -> tuple[str, list[float]]:
            answer = stub.ModelInfer(message("iris", tensor("x", row[None]), raw=False, outputs=wanted), timeout=60)
            return answer.model_version, list(answer.outputs[0].contents.fp64_contents)

        return ask


@pytest.fixture(scope="module")
def models() -> list[LoadedModel]:
    """Three versions of Iris that answer otherwise."""
    made = []
    for regularisation in (1.0, 0.1, 0.01):
        onnx, card = tiny_models.artifact(IRIS, LogisticRegression(C=regularisation, max_iter=1000))
        made.append(load(IRIS, tiny_models.store(IRIS, onnx=onnx, card=card)))
    return made


def deploy(directory: Path, version: str) -> None:
    """As the pipeline does it."""
    deployment = Deployment(directory)
    tags = {**deployment.tags(), "iris": f"iris:{version}"}
    deployment.keep_former(tags)
    deployment.write(tags)


def test_models_come_and_go_under_load(models: list[LoadedModel], tmp_path: Path) -> None:
    first, second, third = (model.version for model in models)
    directory, port = tmp_path / "models", free_port()
    housing = str(tiny_models.store(DATASETS["housing"]).tag.version)
    tiny_models.pin(directory, {"housing": housing, "iris": first})
    # The third is on the volume alone: the workers import it.
    (directory / "store").mkdir()
    bentoml.models.export_model(f"iris:{third}", str(directory / "store" / "iris.bentomodel"))
    bentoml.models.delete(f"iris:{third}")
    onnx, card = tiny_models.artifact(IRIS)
    broken = tiny_models.store(IRIS, onnx=onnx, card=card)
    (Path(broken.path_of(ARTIFACT_FOLDER)) / ONNX_FILE).write_bytes(b"half")
    environment = {
        "MODELS_DIR": str(directory),
        "WORKERS": "2",
        **PATIENT,
        "GRPC_PORT": str(port),
        "ADMIN_KEYS": HASHES[Ring.ADMIN],
        "LEDGER": "on",
        "STATE_DIR": str(tmp_path / "state"),
    }
    log = tmp_path / "service.log"
    with ExitStack() as stack:
        url = stack.enter_context(running_service(environment=environment, log=log))

        def new_client() -> httpx.Client:
            return stack.enter_context(httpx.Client(base_url=url, timeout=180, headers=ADMIN))

        client = new_client()
        expected = {model.version: model.artifact.outputs(ROWS).tolist() for model in models}
        load_up = Load(url, f"127.0.0.1:{port}", expected)

        def answers(version: str) -> bool:
            return all(load_up.answered[form, version] >= 5 for form in ("flat", "batch", "v2", "grpc"))

        with load_up.running():
            wait_until(lambda: answers(first), "the first version answers over every protocol")
            # By itself.
            deploy(directory, second)
            wait_until(lambda: answers(second), "the second version answers over every protocol")
            # When asked, and from its export.
            deploy(directory, third)
            told = client.post("/models/reload").raise_for_status().json()
            assert [workers["iris"] for workers in told["workers"].values()] == [third, third]
            assert {client.get("/v2/models/iris").json()["versions"][0] for _ in range(10)} == {third}
            wait_until(lambda: answers(third), "the third version answers over every protocol")
            served = scrape(client).of("ml_model_info", "version", model="iris")
            assert served == {third: 1}

            # One that is damaged.
            deploy(directory, str(broken.tag.version))
            refused = client.post("/models/reload")
            assert refused.status_code == 409
            assert len(refused.json()["detail"]) == 2
            assert "The checksum of" in refused.json()["error"]
            assert {client.get("/health").json()["models"]["iris"] for _ in range(10)} == {third}
            assert scrape(client).value("ml_model_reload_refused", model="iris") == 1
            # A worker that dies meanwhile is replaced by one that serves what the other does.
            dead = next(iter(told["workers"]))
        recorded(client, load_up)
        psutil.Process(int(dead)).kill()
        client = new_client()  # the other's connection may be to the worker that is gone
        wait_until(lambda: scrape(client).value("ml_worker_starts_total") == 3, "the worker is replaced")
        assert {client.get("/health").json()["models"]["iris"] for _ in range(10)} == {third}
        # Back to what was deployed before.
        with load_up.running():
            told = client.post("/models/rollback", json={"model": "iris"}).raise_for_status().json()
            assert told["models"]["iris"] == third
            again = client.post("/models/rollback", json={"model": "iris"})
            assert (again.status_code, "already" in again.json()["error"]) == (409, True)
            assert client.post("/models/reload").status_code == 200
            many(client, directory, [first, second])
        assert load_up.wrong == []
        assert load_up.not_ready == []
        assert log.read_text().count('"model reloaded"') >= 2 * RELOADS
        recorded(client, load_up)


@pytest.mark.weekly
def test_the_store_does_not_grow_with_the_reloads(tmp_path: Path) -> None:
    """Where each model comes from an export, as in a container; two services share the store."""
    directory, home = tmp_path / "models", tmp_path / "home"
    exports, versions = tmp_path / "exports", dict[str, list[str]]()
    exports.mkdir()
    for name, count in (("iris", 8), ("housing", 1)):
        versions[name] = []
        for _ in range(count):
            stored = tiny_models.store(DATASETS[name])
            versions[name].append(str(stored.tag.version))
            bentoml.models.export_model(stored.tag, str(exports / f"{stored.tag.version}.bentomodel"))
            bentoml.models.delete(stored.tag)
    *reloaded, last = versions["iris"]

    def promote(name: str, version: str) -> None:
        deployment = Deployment(directory)
        tags = {**deployment.tags(), name: f"{name}:{version}"}
        deployment.keep_former(tags)
        shutil.copy(exports / f"{version}.bentomodel", deployment.store / f"{name}.bentomodel")
        deployment.write(tags)

    def stored_versions() -> set[str]:
        return {path.parent.name for path in (home / "models" / "iris").glob("*/model.yaml")}

    (directory / "store").mkdir(parents=True)
    promote("housing", versions["housing"][0])
    promote("iris", reloaded[0])
    environment = {
        "BENTOML_HOME": str(home),
        "MODELS_DIR": str(directory),
        "WORKERS": "2",
        "ADMIN_KEYS": HASHES[Ring.ADMIN],
        "LEDGER": "off",
    }
    with ExitStack() as stack:
        urls = [stack.enter_context(running_service(environment=environment)) for _ in range(2)]
        clients = [stack.enter_context(httpx.Client(base_url=url, timeout=180, headers=ADMIN)) for url in urls]
        for version in reloaded[1:]:
            promote("iris", version)
            for client in clients:
                told = client.post("/models/reload").raise_for_status().json()
                assert {workers["iris"] for workers in told["workers"].values()} == {version}
            # The second service may have been first to follow by itself.
            assert {*reloaded[: reloaded.index(version) + 1][-2:]} <= stored_versions()
            assert len(stored_versions()) <= 3
        # A worker that dies is replaced by one that finds its model.
        psutil.Process(int(next(iter(told["workers"])))).kill()
        client = stack.enter_context(httpx.Client(base_url=urls[1], timeout=180, headers=ADMIN))
        wait_until(lambda: scrape(client).value("ml_worker_starts_total") == 3, "the worker is replaced")
        assert client.post("/predict/iris", json=IRIS.example).raise_for_status().json()["model"]["version"] == version
        told = client.post("/models/rollback", json={"model": "iris"}).raise_for_status().json()
        assert told["models"]["iris"] == reloaded[-2]
    # What is deployed while nobody serves is found by the next start, which removes the others.
    promote("iris", last)
    with running_service(environment=environment):
        wait_until(lambda: stored_versions() == {reloaded[-2], last}, "the store has what is needed")
    assert [path for path in home.iterdir() if path.name.startswith((".import-", ".removed-"))] == []


def many(client: httpx.Client, directory: Path, versions: list[str]) -> None:
    """Reload many times: the memory of what has left is given back."""
    pids: list[int] = []
    before: dict[int, int] = {}
    started = time.monotonic()
    for number in range(RELOADS):
        version = versions[number % 2]
        deploy(directory, version)
        told = client.post("/models/reload").raise_for_status().json()
        assert {workers["iris"] for workers in told["workers"].values()} == {version}
        if number == 1:
            # Each has loaded two by then, and what Python itself needs for it.
            pids = [int(pid) for pid in told["workers"]]
            before = {pid: memory(pid) for pid in pids}
    after = {pid: memory(pid) for pid in pids}
    logger.info("%d reloads in %.0f s; bytes before %s, after %s", RELOADS, time.monotonic() - started, before, after)
    assert len(pids) == 2
    for pid in pids:
        assert after[pid] <= 1.05 * before[pid], (before, after)


def memory(pid: int) -> int:
    return int(psutil.Process(pid).memory_info().rss)


def recorded(client: httpx.Client, load_up: Load) -> None:
    """The ledger names the versions that answered."""
    counted = Counter[str]()
    for (form, version), count in load_up.answered.items():
        counted[version] += count * (BATCH if form == "batch" else 1)

    def rows() -> dict[str, int]:
        told = client.get("/logs/stats", params={"model": "iris"}).raise_for_status().json()
        return {one["version"]: one["rows"] for one in told["models"]}

    wait_until(lambda: rows() == dict(counted), lambda: f"the ledger has {rows()}, not {dict(counted)}")
