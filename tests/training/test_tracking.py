import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from local_service import PROJECT
from tests.mlflow_store import empty_store
from training import tracking
from training.errors import PipelineError
from training.tracking import RegisteredModel

pytestmark = [  # of MLflow 3.17's own code: its tables
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
    pytest.mark.filterwarnings("ignore:Operation with range is deprecated"),
]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", empty_store(tmp_path))
    return tmp_path


def test_unknown_version_says_what_to_do(store: Path) -> None:
    with pytest.raises(PipelineError) as refusal:
        tracking.get("iris", "7")
    for part in (str(store), "version 7 of iris", "dvc repro -f train_iris"):
        assert part in str(refusal.value)


def test_lost_artifacts_say_what_to_do(store: Path) -> None:
    client = MlflowClient()
    client.create_registered_model("iris")
    version = client.create_model_version("iris", (store / "gone").as_uri())
    model = RegisteredModel("iris", str(version.version), "run", "models:/iris/1")
    with pytest.raises(PipelineError, match=r"models:/iris/1 cannot be read.*dvc repro -f train_iris"):
        tracking.download(model, store / "model")
    assert not (store / "model").exists()


def test_champion_is_what_was_promoted_last(store: Path) -> None:
    assert tracking.champion("iris") is None
    client = MlflowClient()
    client.create_registered_model("iris")
    assert tracking.champion("iris") is None
    for _ in range(2):
        client.create_model_version("iris", store.as_uri())
    for version in ("1", "2", "1"):
        model = tracking.get("iris", version)
        tracking.promote(model)
        assert tracking.champion("iris") == model
    # Promoting the champion again leaves the one before it as it was.
    tracking.promote(model)
    assert tracking.by_alias("iris", tracking.PREVIOUS) == tracking.get("iris", "2")


def test_run_ends_as_failed_with_its_children(store: Path) -> None:
    ids = []

    def fail() -> None:
        with tracking.run("iris", "parent", {}) as parent:
            ids.append(parent.run_id)
            with parent.child("child", {}) as child:
                ids.append(child.run_id)
                raise KeyboardInterrupt

    assert store.exists()
    with pytest.raises(KeyboardInterrupt):
        fail()
    assert [MlflowClient().get_run(run).info.status for run in ids] == ["FAILED", "FAILED"]


def test_an_experiment_keeps_its_own_artifact_location(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    shared = store / "team" / "mlruns" / "7"
    client = MlflowClient()
    client.create_experiment("iris", artifact_location=str(shared))
    runs = []
    for experiment in ("iris", "housing"):
        with tracking.run(experiment, "test", {}) as run:
            client.log_text(run.run_id, "text", "note.txt")
        runs.append(run.run_id)
    tracking.champion("iris")
    assert [path.name for path in shared.rglob("*.txt")] == ["note.txt"]
    assert [path.name for path in (store / "mlruns").rglob("*.txt")] == ["note.txt"]
    assert client.get_run(runs[1]).info.artifact_uri.startswith("mlruns/")
    for run_id in runs:
        assert [file.path for file in client.list_artifacts(run_id)] == ["note.txt"]


@pytest.mark.integration  # processes of their own, and MLflow's tables made anew: 8 s
def test_processes_may_start_on_a_fresh_store_at_once(store: Path) -> None:
    """Without the lock one of them fails, as its tables are there already when it makes them."""
    (store / "mlflow.db").unlink()
    code = "from training import tracking\nwith tracking.run('iris', 'both', {}): pass"
    starts = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=store,
            env={**os.environ, "PYTHONPATH": str(PROJECT)},
            stderr=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    for start in starts:
        _, said = start.communicate(timeout=120)
        assert start.returncode == 0, said.decode()
        assert said == b""
    client = MlflowClient()
    experiment = client.get_experiment_by_name("iris")
    assert experiment is not None
    assert [run.info.status for run in client.search_runs([experiment.experiment_id])] == ["FINISHED", "FINISHED"]
