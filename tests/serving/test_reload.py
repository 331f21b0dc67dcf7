"""Another model is deployed while a worker serves: it follows, or refuses and says why."""

import hashlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import bentoml
import httpx
import pytest
from sklearn.linear_model import LogisticRegression

from contract.datasets.iris import IRIS
from contract.errors import StartupError
from ledger import locks
from model.card import CARD_FILE, ONNX_FILE, TrainingRun
from model.deployed import IMPORTED_MARK, PREVIOUS_FILE, Deployment
from serving import reload
from serving.bundle import load_bundle
from serving.imported import changing, store
from serving.keys import Ring
from serving.models import ARTIFACT_FOLDER, LoadedModel, deployed_model, load
from serving.settings import Settings
from serving.telemetry import directory
from tests.serving import tiny_models
from tests.serving.http.test_openapi import check
from tests.serving.locked import KEYS, settings_with_keys
from tests.serving.series import scrape
from tests.serving.worker import LocalWorker
from tests.waiting import wait_until

ADMIN = {"authorization": f"Bearer {KEYS[Ring.ADMIN]}"}


class Scene(NamedTuple):
    """A worker that follows a ``MODELS_DIR``."""

    worker: LocalWorker
    models: Path
    server: Path
    client: httpx.Client

    @property
    def served(self) -> str:
        return self.worker.bundle["iris"].version

    def deploy(self, version: str) -> None:
        Deployment(self.models).write({**Deployment(self.models).tags(), "iris": f"iris:{version}"})

    def post(self, path: str, body: object = None) -> httpx.Response:
        """The answer, which is as the OpenAPI document says."""
        answer = self.client.post(path, json=body, headers=ADMIN)
        document = self.worker.document
        declared = document["paths"][path]["post"]["responses"][str(answer.status_code)]
        check(document, declared["content"]["application/json"]["schema"], answer.json())
        return answer

    def reload(self) -> httpx.Response:
        return self.post("/models/reload")


@pytest.fixture
def scene(loaded: dict[str, LoadedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setattr(reload, "POLL_SECONDS", 0.02)
    models, server = tmp_path / "models", tmp_path / "server"
    server.mkdir()
    tiny_models.pin(models, {name: model.version for name, model in loaded.items()})
    settings = settings_with_keys(Ring.ADMIN).model_copy(update={"MODELS_DIR": models})
    worker = LocalWorker(loaded, settings, server)
    with worker.running(), httpx.Client(base_url=worker.url, timeout=60) as client:
        yield Scene(worker, models, server, client)


def other(**changes: object) -> bentoml.Model:
    """Another version of Iris in the store, which answers otherwise."""
    onnx, card = tiny_models.artifact(IRIS, LogisticRegression(C=0.01, max_iter=1000))
    given = {"onnx": onnx, "card": card.model_copy(update=changes)}
    with changing(store().parent):  # BentoML lists the store for both, and fails if a service removes a model meanwhile
        return tiny_models.store(IRIS, **given)  # type: ignore[arg-type]


def exported(models: Path, stored: bentoml.Model) -> str:
    """Export a model to a ``MODELS_DIR``, and take it out of the store; returns its version."""
    (models / "store").mkdir(exist_ok=True)
    path = models / "store" / f"{stored.tag.name}.bentomodel"
    path.unlink(missing_ok=True)
    bentoml.models.export_model(stored.tag, str(path))
    with changing(store().parent):
        bentoml.models.delete(stored.tag)
    return str(stored.tag.version)


def test_a_worker_follows_the_pointer_by_itself(scene: Scene) -> None:
    version = str(other().tag.version)
    former = scene.served
    scene.deploy(version)
    wait_until(lambda: scene.served == version, "the worker serves what is deployed")
    answer = scene.client.post("/predict/iris", json=IRIS.example).json()
    assert answer["model"]["version"] == version != former
    assert scene.client.get("/health").status_code == 200


def test_a_volume_that_is_swapped_by_a_link_is_followed(
    loaded: dict[str, LoadedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Kubernetes updates a mounted ConfigMap."""
    monkeypatch.setattr(reload, "POLL_SECONDS", 0.02)
    versions = {name: model.version for name, model in loaded.items()}
    new = str(other().tag.version)
    tiny_models.pin(tmp_path / "first", versions)
    tiny_models.pin(tmp_path / "second", {**versions, "iris": new})
    (tmp_path / "models").symlink_to("first")
    (tmp_path / "server").mkdir()
    settings = settings_with_keys(Ring.ADMIN).model_copy(update={"MODELS_DIR": tmp_path / "models"})
    worker = LocalWorker(loaded, settings, tmp_path / "server")
    with worker.running():
        (tmp_path / "next").symlink_to("second")
        (tmp_path / "next").replace(tmp_path / "models")
        wait_until(lambda: worker.bundle["iris"].version == new, "the worker serves what is deployed")


def test_a_model_that_the_store_lacks_is_imported_from_its_export(scene: Scene) -> None:
    version = exported(scene.models, other())
    scene.deploy(version)
    answer = scene.reload()
    assert (answer.status_code, answer.json()["models"]["iris"]) == (200, version)
    assert answer.json()["workers"] == {str(os.getpid()): answer.json()["models"]}
    assert load(IRIS, bentoml.models.get(f"iris:{version}")).version == version


def imported_versions() -> set[str]:
    """The versions of Iris in the store that a service has imported."""
    return {path.parent.name for path in (store() / "iris").glob(f"*/{IMPORTED_MARK}")}


def promoted(scene: Scene) -> str:
    """Deploy another version, as the pipeline does on another machine, and reload; returns it."""
    stored = other()
    Deployment(scene.models).keep_former({"iris": str(stored.tag)})
    version = exported(scene.models, stored)
    scene.deploy(version)
    assert scene.reload().status_code == 200
    assert scene.served == version
    return version


def test_the_store_keeps_the_deployed_model_and_the_way_back(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "serving.imported")
    first, before = scene.served, imported_versions()
    versions = [promoted(scene) for _ in range(4)]
    assert imported_versions() - before == set(versions[-2:])
    bentoml.models.get(f"iris:{first}")  # It raises if it is gone: what the service has not imported stays.
    told = [vars(one)["tag"] for one in caplog.records if one.getMessage().startswith("imported model removed")]
    assert told == [f"iris:{version}" for version in versions[:2]]
    answer = scene.post("/models/rollback", {"model": "iris"})
    assert (answer.status_code, scene.served) == (200, versions[-2])
    # A way back that cannot be read might be needed: nothing is removed.
    scene.models.joinpath(PREVIOUS_FILE).write_text("{")
    left = imported_versions()
    scene.reload()
    assert imported_versions() == left
    assert any(one.getMessage().startswith("no imported models are removed") for one in caplog.records)


def test_an_export_that_comes_after_the_pointer_is_waited_for(scene: Scene, tmp_path: Path) -> None:
    """As ``cp -r models/ volume/`` does it, by name."""
    (tmp_path / "elsewhere").mkdir()
    version = exported(tmp_path / "elsewhere", other())
    scene.deploy(version)
    assert scene.reload().status_code == 409
    shutil.copytree(tmp_path / "elsewhere" / "store", scene.models / "store")
    wait_until(lambda: scene.served == version, "the worker serves what is deployed")


def test_nothing_new_is_no_reload(scene: Scene) -> None:
    before = scene.worker.bundle["iris"].model
    answer = scene.reload()
    assert (answer.status_code, answer.json()["models"]["iris"]) == (200, before.version)
    assert scene.worker.bundle["iris"].model is before


def test_without_a_pointer_the_model_stays(scene: Scene) -> None:
    served = scene.served
    (scene.models / "deployed.json").unlink()
    answer = scene.reload()
    assert answer.status_code == 409
    assert "deployed.json does not exist" in answer.json()["error"]
    assert scene.served == served


def corrupt() -> bentoml.Model:
    stored = other()
    (Path(stored.path_of(ARTIFACT_FOLDER)) / ONNX_FILE).write_bytes(b"half")
    return stored


def of_another_contract() -> bentoml.Model:
    return other(contract_version="0123456789ab")


def with_other_golden_rows() -> bentoml.Model:
    _, card = tiny_models.artifact(IRIS, LogisticRegression(C=0.01, max_iter=1000))
    return other(golden=[one.model_copy(update={"output": [0.9, 0.05, 0.05]}) for one in card.golden])


def without_a_card() -> bentoml.Model:
    stored = other()
    (Path(stored.path_of(ARTIFACT_FOLDER)) / CARD_FILE).unlink()
    return stored


def that_no_runtime_loads() -> bentoml.Model:
    _, card = tiny_models.artifact(IRIS, LogisticRegression(C=0.01, max_iter=1000))
    onnx = b"no graph"
    sha256 = hashlib.sha256(onnx).hexdigest()
    return tiny_models.store(
        IRIS, onnx=onnx, card=card.model_copy(update={"onnx": card.onnx.model_copy(update={"sha256": sha256})})
    )


def with_another_input() -> bentoml.Model:
    """Nothing of ours makes such a model."""
    onnx, card = tiny_models.artifact(IRIS, LogisticRegression(C=0.01, max_iter=1000))
    renamed = onnx.replace(b"input", b"inpux")
    sha256 = hashlib.sha256(renamed).hexdigest()
    return tiny_models.store(
        IRIS, onnx=renamed, card=card.model_copy(update={"onnx": card.onnx.model_copy(update={"sha256": sha256})})
    )


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (corrupt, "The checksum of"),
        (of_another_contract, "was trained under contract 0123456789ab"),
        (with_other_golden_rows, "golden rows are off by"),
        (without_a_card, "cannot be read"),
        (that_no_runtime_loads, "onnxruntime cannot load"),
        (with_another_input, "inpux"),
    ],
    ids=lambda one: getattr(one, "__name__", ""),
)
def test_a_model_that_cannot_be_served_is_refused(
    scene: Scene, bad: Callable[[], bentoml.Model], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    former, stored = scene.served, bad()
    before = scrape(scene.client)
    scene.deploy(str(stored.tag.version))
    answer = scene.reload()
    assert answer.status_code == 409
    assert reason in answer.json()["error"]
    (detail,) = answer.json()["detail"]
    assert (detail["loc"], detail["type"]) == ([os.getpid(), "iris"], "refused")
    assert f"serves {former}" in detail["msg"]
    # The old one goes on.
    assert scene.client.post("/predict/iris", json=IRIS.example).json()["model"]["version"] == former
    grown = scrape(scene.client).since(before)
    assert grown.value("ml_model_reloads_total", model="iris", outcome="refused") >= 1
    assert grown.value("ml_model_reload_refused", model="iris") == 1
    assert any(one.getMessage() == "model refused" and reason in vars(one)["reason"] for one in caplog.records)
    # What is mended is served.
    good = str(other().tag.version)
    scene.deploy(good)
    assert scene.reload().json()["models"]["iris"] == good
    assert scrape(scene.client).value("ml_model_reload_refused", model="iris") == 0


@pytest.mark.parametrize(
    ("content", "reason"),
    [("{", "must be a JSON object"), ('{"iris": "iris:gone"}', "iris:gone is not in the BentoML store")],
)
def test_a_pointer_to_nothing_is_refused(scene: Scene, content: str, reason: str) -> None:
    former = scene.served
    (scene.models / "deployed.json").write_text(content)
    answer = scene.reload()
    assert (answer.status_code, scene.served) == (409, former)
    assert reason in answer.text


@pytest.mark.parametrize("content", [b"", b"xx"])
def test_a_damaged_export_is_refused(scene: Scene, content: bytes) -> None:
    (scene.models / "store").mkdir()
    (scene.models / "store" / "iris.bentomodel").write_bytes(content)
    scene.deploy("gone")
    answer = scene.reload()
    assert answer.status_code == 409
    assert "cannot be imported" in answer.json()["error"]


def test_one_worker_at_a_time(scene: Scene) -> None:
    """While another worker loads, this one waits, and serves what it has."""
    former = scene.served
    lock = locks.acquire(scene.server / "reload.lock")
    assert lock is not None
    try:
        version = str(other().tag.version)
        scene.deploy(version)
        with pytest.raises(httpx.ReadTimeout):
            scene.client.post("/models/reload", headers=ADMIN, timeout=0.3)
        assert scene.client.post("/predict/iris", json=IRIS.example).json()["model"]["version"] == former
    finally:
        os.close(lock)
    wait_until(lambda: scene.served == version, "the worker serves what is deployed")


def status(server: Path, pid: int, versions: dict[str, str]) -> Path:
    path = server / f"served_{pid}.status"
    path.write_text(json.dumps({"versions": versions, "refused": {}, "heeded": 0}))
    return path


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """Some other process."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as started:
        yield started
        started.kill()


def test_a_worker_that_does_not_look_is_named(
    scene: Scene, process: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reload, "WAIT_SECONDS", 0.5)
    status(scene.server, process.pid, {"iris": "old"})
    answer = scene.reload()
    assert answer.status_code == 503
    assert answer.json()["detail"][0]["loc"] == [process.pid]
    assert f"worker {process.pid} has not looked within" in answer.json()["error"]
    # One that has died is not waited for.
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert scene.reload().status_code == 200
    assert not (scene.server / f"served_{process.pid}.status").exists()


def test_a_worker_that_replaces_another_serves_what_the_others_do(
    stored: dict[str, str],
    tmp_path: Path,
    process: subprocess.Popen[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is deployed by now cannot be served: a worker that ended with it would be started again and again."""
    monkeypatch.setenv(directory.VARIABLE, str(tmp_path))
    tiny_models.pin(tmp_path / "models", {**stored, "iris": str(corrupt().tag.version)})
    models = {IRIS: deployed_model("iris", tmp_path / "models", reload.served_by_others)}
    settings = Settings(MODELS_DIR=tmp_path / "models")
    with pytest.raises(StartupError, match="damaged"):
        load_bundle(models, settings, reload.served_by_others)
    status(tmp_path, process.pid, stored)
    assert load_bundle(models, settings, reload.served_by_others)["iris"].version == stored["iris"]
    tiny_models.pin(tmp_path / "models", {**stored, "iris": "gone"})
    assert deployed_model("iris", tmp_path / "models", reload.served_by_others).tag.version == stored["iris"]


def test_a_rollback_serves_what_was_deployed_before_once(scene: Scene) -> None:
    first, second = scene.served, str(other().tag.version)
    answer = scene.post("/models/rollback", {"model": "iris"})
    assert (answer.status_code, "this is the first" in answer.json()["error"]) == (409, True)
    Deployment(scene.models).keep_former({"iris": f"iris:{second}"})
    scene.deploy(second)
    scene.reload().raise_for_status()
    answer = scene.post("/models/rollback", {"model": "iris"})
    assert (answer.status_code, answer.json()["models"]["iris"], scene.served) == (200, first, first)
    assert Deployment(scene.models).tags()["iris"] == f"iris:{first}"
    assert json.loads((scene.models / PREVIOUS_FILE).read_text())["iris"]["left"] == f"iris:{second}"
    again = scene.post("/models/rollback", {"model": "iris"})
    assert again.status_code == 409
    assert "already" in again.json()["error"]
    assert "make promote MODEL=iris" in again.json()["error"]
    assert scene.served == first


def test_a_rollback_to_a_model_that_cannot_be_served_moves_nothing(scene: Scene) -> None:
    bad, served = str(corrupt().tag.version), scene.served
    scene.models.joinpath(PREVIOUS_FILE).write_text(json.dumps({"iris": {"tag": f"iris:{bad}"}}))
    answer = scene.post("/models/rollback", {"model": "iris"})
    assert answer.status_code == 409
    assert "iris is not rolled back. The stored model" in answer.json()["error"]
    assert Deployment(scene.models).tags()["iris"] == f"iris:{served}"


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [({}, 400, "model: the field is missing"), ({"model": 3}, 400, "model"), ({"model": "wine"}, 404, "model: there")],
)
def test_a_rollback_of_no_model_is_refused(scene: Scene, body: object, status: int, said: str) -> None:
    answer = scene.post("/models/rollback", body)
    assert (answer.status_code, said in answer.json()["error"]) == (status, True)


@pytest.mark.parametrize("path", ["/models/reload", "/models/rollback"])
def test_only_an_admin_may(scene: Scene, path: str) -> None:
    assert scene.client.post(path, json={"model": "iris"}).status_code == 401


def test_the_former_model_is_freed_at_once(scene: Scene) -> None:
    """By its last reference, not by the garbage collector, which leaves alone what is frozen."""
    predictor = scene.worker.bundle["iris"]
    version = str(other().tag.version)
    scene.deploy(version)
    scene.reload().raise_for_status()
    sessions = [weakref.ref(predictor.model.artifact)]
    scene.client.post("/predict/iris", json=IRIS.example).raise_for_status()
    scene.deploy(str(other().tag.version))
    scene.reload().raise_for_status()
    assert [one() for one in sessions] == [None]


def test_a_model_without_a_time_has_none_in_the_metrics(scene: Scene) -> None:
    name = "ml_model_trained_timestamp_seconds"
    onnx, card = tiny_models.artifact(IRIS)
    assert scrape(scene.client).value(name, model="iris") == tiny_models.RUN.trained_at.timestamp()  # type: ignore[union-attr]
    scene.deploy(str(tiny_models.store(IRIS, onnx=onnx, card=card, run=TrainingRun()).tag.version))
    scene.reload().raise_for_status()
    assert f'{name}{{model="iris"}}' not in scene.client.get("/metrics").text
