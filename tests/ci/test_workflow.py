"""The workflow calls what exists, on the versions of Python that the project takes."""

import re
import subprocess
import tomllib

import pytest

from local_service import PROJECT
from tests.ci.workflow import jobs, scripts

COMMANDS = "\n".join(script for _, _, script in scripts())


def test_the_matrix_is_what_the_project_requires() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    bounds = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", project["requires-python"])
    assert bounds
    wanted = [f"3.{minor}" for minor in range(int(bounds[1]), int(bounds[2]))]
    assert jobs()["test"]["strategy"]["matrix"]["python"] == wanted


TARGETS = sorted(set(re.findall(r"\bmake ([\w./-]+)", COMMANDS)))
FILES = sorted(set(re.findall(r"(?<![\w./-])((?:\.ci|deploy|examples)/[\w.]+)", COMMANDS)))


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_it_makes_exists(target: str) -> None:
    known = subprocess.run(["make", "--dry-run", target], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert known.returncode == 0, known.stderr


@pytest.mark.parametrize("name", FILES)
def test_every_file_it_names_exists(name: str) -> None:
    assert (PROJECT / name).is_file()


def test_the_deployment_knows_its_options() -> None:
    script = (PROJECT / "deploy/deploy_local.sh").read_text()
    options = set(re.findall(r"(?:deploy_local\.sh |options=\(|options\+=\()(--[a-z-]+)", COMMANDS))
    assert {"--no-build", "--full", "--status", "--stop"} <= options
    for option in ("--no-build", "--full", "--status", "--stop"):
        assert option in script
    for variable in ("GRAFANA_ADMIN_PASSWORD", "POSTGRES_PASSWORD", "DEPLOY_MONITORING"):
        assert variable in COMMANDS
        assert variable in script
