"""The workflow, read."""

from functools import cache
from typing import Any

import yaml

from local_service import PROJECT

WORKFLOW = PROJECT / ".github/workflows/ci-cd.yml"


@cache
def workflow() -> dict[Any, Any]:
    """The whole of it; YAML 1.1 takes the key ``on`` for true."""
    read: dict[Any, Any] = yaml.safe_load(WORKFLOW.read_text())
    return read


def jobs() -> dict[str, dict[str, Any]]:
    """The jobs by name."""
    found: dict[str, dict[str, Any]] = workflow()["jobs"]
    return found


def steps(job: str) -> list[dict[str, Any]]:
    """The steps of a job."""
    found: list[dict[str, Any]] = jobs()[job]["steps"]
    return found


def scripts() -> list[tuple[str, str, str]]:
    """Job, name of the step, and script of every step that runs one."""
    return [(job, step["name"], step["run"]) for job in jobs() for step in steps(job) if "run" in step]
