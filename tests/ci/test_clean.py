"""``make clean`` and ``make clean-all``, in a folder that looks like a project after its pipeline."""

import shutil
import subprocess
from pathlib import Path

import pytest

from local_service import PROJECT

MADE_AGAIN = (
    "data/features/iris/train.parquet",
    "reports/evaluation.html",
    "htmlcov/index.html",
    "serving/__pycache__/a.pyc",
)
KEPT = ("data/raw/iris.csv", "serving/a.py", "state/ledger.db")
LOST_FOR_GOOD = (
    "mlflow.db",
    "mlruns/1/artifacts/model.skops",
    "models/deployed.json",
    ".dvc/cache/files/md5/00/1",
)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    shutil.copyfile(PROJECT / "Makefile", tmp_path / "Makefile")
    for name in (*MADE_AGAIN, *KEPT, *LOST_FOR_GOOD, "reports/champions.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def make(project: Path, target: str, answer: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", target], cwd=project, input=answer, capture_output=True, text=True, check=False)


def left(project: Path, *names: str) -> list[str]:
    return [name for name in names if (project / name).exists()]


def test_clean_keeps_the_registry_and_what_is_deployed(project: Path) -> None:
    for _ in range(2):  # with nothing left to remove, too
        assert make(project, "clean").returncode == 0
    assert left(project, *MADE_AGAIN) == []
    kept = (*KEPT, *LOST_FOR_GOOD, "reports/champions.json")
    assert left(project, *kept) == list(kept)


@pytest.mark.parametrize("answer", ["", "\n", "no\n", "y\n"])
def test_clean_all_deletes_nothing_without_a_yes(project: Path, answer: str) -> None:
    ended = make(project, "clean-all", answer)
    assert ended.returncode != 0
    assert "Nothing was deleted." in ended.stdout
    assert left(project, *MADE_AGAIN, *LOST_FOR_GOOD) == [*MADE_AGAIN, *LOST_FOR_GOOD]


def test_clean_all_deletes_what_the_pipeline_made(project: Path) -> None:
    assert make(project, "clean-all", "yes\n").returncode == 0
    assert left(project, *MADE_AGAIN, *LOST_FOR_GOOD, "reports") == []
    assert left(project, *KEPT) == list(KEPT)
