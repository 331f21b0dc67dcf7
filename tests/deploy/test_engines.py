from pathlib import Path

import pytest

from deploy import engines
from deploy.errors import DeployError


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        ({"docker", "podman", "buildah"}, "docker"),
        ({"podman", "buildah"}, "podman"),
        ({"buildah"}, "buildah"),
    ],
)
def test_the_first_that_answers_is_taken(there: set[str], expected: str) -> None:
    assert engines.found(answers=there.__contains__) == expected


def test_the_wanted_one_is_taken() -> None:
    assert engines.found("buildah", answers={"docker", "buildah"}.__contains__) == "buildah"


@pytest.mark.parametrize(("wanted", "named"), [(None, "docker, podman, buildah"), ("podman", "(podman)")])
def test_none_is_told(wanted: str | None, named: str) -> None:
    with pytest.raises(DeployError, match="No container engine answers") as told:
        engines.found(wanted, answers=set[str]().__contains__)
    assert named in str(told.value)


def test_a_client_without_its_daemon_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, code in (("docker", 1), ("podman", 0)):
        (tmp_path / name).write_text(f"#!/bin/sh\nexit {code}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert engines.found() == "podman"
