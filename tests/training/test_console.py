import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.errors import DataError
from local_service import PROJECT
from training import console


@pytest.fixture(autouse=True)
def _signal_handler() -> Iterator[None]:
    former = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, former)


def test_step_says_what_and_how_long(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "training"), console.step("iris: count petals"):
        pass
    assert [record.message for record in caplog.records] == [
        "iris: count petals …",
        "iris: count petals: done in 0.0 s",
    ]


def test_success_is_status_0() -> None:
    assert console.run(lambda: None) == 0


def test_error_of_ours_is_a_sentence_and_status_1(caplog: pytest.LogCaptureFixture) -> None:
    def stage() -> None:
        raise DataError("MedInc, row 3: the value is missing.")

    assert console.run(stage) == 1
    (record,) = caplog.records
    assert record.message == "MedInc, row 3: the value is missing."
    assert record.exc_info is None


def test_bug_keeps_its_traceback() -> None:
    def stage() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        console.run(stage)


def test_termination_unwinds_the_stage() -> None:
    undone = []

    def stage() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        finally:
            undone.append(True)

    with pytest.raises(SystemExit) as stopped:
        console.run(stage)
    assert stopped.value.code == 128 + signal.SIGTERM
    assert undone


@pytest.mark.parametrize("stage", [None, "train_iris"])
@pytest.mark.parametrize("where", ["sklearn", "yaml"])
def test_ctrl_c_ends_in_one_line_also_while_modules_are_imported(tmp_path: Path, where: str, stage: str | None) -> None:
    """Under DVC, which tells of it itself, in none."""
    (tmp_path / f"{where}.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nsignal.pause()\n")
    environment = {name: text for name, text in os.environ.items() if name != "DVC_STAGE"}
    ended = subprocess.run(
        [sys.executable, "-m", "training.train", "iris"],
        cwd=PROJECT,
        env={**environment, "PYTHONPATH": str(tmp_path), **({"DVC_STAGE": stage} if stage else {})},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == -signal.SIGINT
    assert ended.stdout + ended.stderr == ("" if stage else "Stopped. Nothing of this stage was kept; run it again.\n")


def test_an_experiment_in_a_copy_has_the_registry_of_its_project_and_a_store_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, copy = tmp_path / "project", tmp_path / "project" / ".dvc" / "tmp" / "exps" / "copy"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    monkeypatch.setenv("DVC_ROOT", str(project))
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "shared"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for _ in range(2):  # a stage, and the next
        assert console.run(lambda: Path("mlflow.db").write_text("runs")) == 0
    assert (project / "mlflow.db").read_text() == "runs"
    assert Path("mlruns").resolve() == project / "mlruns"
    assert os.environ["BENTOML_HOME"] == str(copy / ".bentoml")


def test_a_run_in_the_project_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("BENTOML_HOME", "shared")
    assert console.run(lambda: None) == 0
    assert not list(tmp_path.iterdir())
    assert os.environ["BENTOML_HOME"] == "shared"
