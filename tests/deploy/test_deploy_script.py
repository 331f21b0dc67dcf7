"""``deploy_local.sh`` as far as it goes without an engine; ``tests/integration/test_deploy_local.py`` has the rest."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from local_service import PROJECT

SCRIPT = PROJECT / "deploy" / "deploy_local.sh"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The script in a project of its own, on a machine whose engines do not answer."""
    (tmp_path / "deploy").mkdir()
    shutil.copy(SCRIPT, tmp_path / "deploy")
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("bash", "cat", "dirname", "env", "head", "ln", "rm", "readlink", "sed", "tail", "tr"):
        (programs / name).symlink_to(shutil.which(name) or name)
    for name in ("docker", "podman"):
        (programs / name).write_text("#!/bin/bash\nexit 1\n")
        (programs / name).chmod(0o755)
    return tmp_path


def run(clone: Path, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [clone / "deploy" / "deploy_local.sh", *options],
        env={"PATH": str(clone / "programs"), **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def engine(clone: Path, name: str, script: str) -> None:
    (clone / "programs" / name).write_text(f"#!/bin/bash\n{script}\n")
    (clone / "programs" / name).chmod(0o755)


def test_help_names_every_option(clone: Path) -> None:
    ended = run(clone, "--help")
    assert ended.returncode == 0
    options = set(re.findall(r"^ +(?:-h \| )?(--[a-z-]+(?: \| --[a-z-]+)*)\)", SCRIPT.read_text(), re.MULTILINE))
    named = {option for line in options for option in line.split(" | ")}
    assert named == set(re.findall(r"--[a-z-]+", ended.stdout)) >= {"--full", "--status", "--stop", "--rollback"}


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        (["--fast"], 2, "Usage:"),
        (["full"], 2, "Usage:"),
        (["--stop", "--rollback"], 1, "at a time"),
    ],
)
def test_a_wrong_command_line_changes_nothing(clone: Path, options: list[str], status: int, said: str) -> None:
    ended = run(clone, *options)
    assert ended.returncode == status
    assert said in ended.stderr


def test_a_switch_that_is_neither_true_nor_false_is_refused(clone: Path) -> None:
    ended = run(clone, DEPLOY_MONITORING="perhaps")
    assert ended.returncode == 1
    assert "DEPLOY_MONITORING=perhaps" in ended.stderr


@pytest.mark.parametrize(("wanted", "named"), [("", "docker or podman"), ("podman", "No podman")])
def test_no_engine_says_how_to_look(clone: Path, wanted: str, named: str) -> None:
    ended = run(clone, "--status", CONTAINER_ENGINE=wanted)
    assert ended.returncode == 1
    assert named in ended.stderr
    assert "podman info" in ended.stderr


def test_docker_without_compose_gives_way_to_podman(clone: Path) -> None:
    engine(clone, "docker", '[ "$1" = info ]')
    engine(clone, "podman", '[ "$1" = info ] || exit 0')
    engine(clone, "podman-compose", 'echo "podman-compose $*"')
    assert run(clone, "--stop").stdout.startswith("podman-compose --profile full --profile loop down\n")


@pytest.mark.parametrize("how", ["option", "environment", "file"])
@pytest.mark.parametrize("missing", ["GRAFANA_ADMIN_PASSWORD", "POSTGRES_PASSWORD", "LEDGER_PASSWORD"])
def test_the_full_stack_asks_for_its_passwords_first(clone: Path, how: str, missing: str) -> None:
    engine(clone, "docker", 'case "$1" in info | compose) ;; *) echo "docker $*" >&2; exit 1 ;; esac')
    passwords = {"GRAFANA_ADMIN_PASSWORD": "one", "POSTGRES_PASSWORD": "other", "LEDGER_PASSWORD": "third", missing: ""}
    lines = [f"{name}={word}" for name, word in passwords.items()]
    lines += ["DEPLOY_MONITORING='true'"] if how == "file" else []
    (clone / ".env").write_text("\n".join(lines) + "\n")
    ended = run(
        clone,
        *(["--full"] if how == "option" else []),
        **({"DEPLOY_MONITORING": "true"} if how == "environment" else {}),
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"error: {missing} is not set")
    assert not (clone / ".deploy.lock").is_symlink()


def test_a_lock_of_a_deployment_that_was_killed_does_not_hold(clone: Path) -> None:
    engine(clone, "docker", "exit 0")
    gone = subprocess.Popen(["true"])
    gone.wait()
    (clone / ".deploy.lock").symlink_to(str(gone.pid))
    assert run(clone, "--stop").returncode == 0
    assert not (clone / ".deploy.lock").is_symlink()


@pytest.mark.parametrize("options", [[], ["--rollback"], ["--status"]])
def test_a_service_that_asks_for_certificates_cannot_be_verified(clone: Path, options: list[str]) -> None:
    ended = run(clone, *options, TLS_CLIENT_CA_FILE="/etc/ml-api/tls/ca.crt")
    assert ended.returncode == 1
    assert "asks for a certificate" in ended.stderr
    assert "docs/tls.md" in ended.stderr
