"""``make demo``, told once, by a project with small models."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from local_service import free_port
from tests.integration.small_project import DEPLOYED, SmallProject

UNTOUCHED = ("dvc.lock", DEPLOYED, "mlflow.db", "params.yaml", "models/housing/card.json", "reports/champions.json")


@pytest.fixture
def project(small_project: SmallProject, tmp_path: Path) -> SmallProject:
    with small_project.copied(tmp_path) as copy:
        return copy


@pytest.mark.weekly
def test_the_demo_tells_the_story_and_leaves_the_project_alone(project: SmallProject) -> None:
    before = [(project.folder / name).read_bytes() for name in UNTOUCHED]
    listed = subprocess.run(["git", "status", "--short"], cwd=project.folder, capture_output=True, check=True).stdout
    told = subprocess.run(
        [sys.executable, "-m", "load_tests.demo", "--once", "--seconds", "5"],
        cwd=project.folder,
        env=project.environment | {"API_PORT": str(free_port()), "GRPC_PORT": str(free_port()), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert told.returncode == 0, told.stdout + told.stderr
    assert "DRIFT of" in told.stdout
    assert "trigger: drift" in told.stdout
    assert "The challenger becomes the champion" in told.stdout
    assert "Failed requests: 0." in told.stdout
    figures = re.search(r"RMSE: (\S+) in the normal hour, (\S+) for the new client by \S+, (\S+) by sha-", told.stdout)
    assert figures, told.stdout
    normal, shifted, recovered = map(float, figures.groups())
    assert shifted > 1.1 * normal
    assert recovered < 0.7 * shifted
    assert [(project.folder / name).read_bytes() for name in UNTOUCHED] == before
    after = subprocess.run(["git", "status", "--short"], cwd=project.folder, capture_output=True, check=True).stdout
    assert after == listed
    assert not list((project.folder / "data/feedback").glob("*.parquet"))
    # The copy is gone.
    copy = re.search(r"in a copy of the project, (\S+):", told.stdout)
    assert copy
    assert not Path(copy[1]).exists()
