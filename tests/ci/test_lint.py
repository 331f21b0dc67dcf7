"""``make lint`` and the hooks of pre-commit run the same commands, on all files that are meant."""

import re
import subprocess
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import yaml

from local_service import PROJECT

CONFIGURATION = PROJECT / ".pre-commit-config.yaml"
BIN = ".venv/bin/"


def output(*command: str, cwd: Path = PROJECT) -> str:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True).stdout


def lint_commands() -> list[str]:
    """What ``make lint`` runs once everything is installed."""
    steps = re.findall(r'"==> Check [^"]*"; started=\$SECONDS; (.*) && echo', output("make", "--dry-run", "lint"))
    return [command for step in steps for command in step.split(" && ")]


def hooks() -> list[dict[str, Any]]:
    configuration: dict[str, Any] = yaml.safe_load(CONFIGURATION.read_text())
    assert [repository["repo"] for repository in configuration["repos"]] == ["local"]
    found: list[dict[str, Any]] = configuration["repos"][0]["hooks"]
    return found


def test_the_hooks_run_what_make_lint_runs_and_the_hygiene() -> None:
    # pre-commit appends the files itself.
    lint = [re.sub(r" \$\(git ls-files [^)]*\)$", "", command) for command in lint_commands()]
    entries = [hook["entry"].removeprefix(BIN) for hook in hooks()]
    assert len(lint) >= 6
    assert entries[: len(lint)] == lint
    hygiene = {
        script.name for script in entry_points(group="console_scripts") if script.module.startswith("pre_commit_hooks")
    }
    assert {entry.partition(" ")[0] for entry in entries[len(lint) :]} <= hygiene


def test_every_shell_script_is_checked() -> None:
    (command,) = [command for command in lint_commands() if command.startswith("shellcheck ")]
    checked = output("bash", "-c", command.replace("shellcheck $(", "").removesuffix(")")).splitlines()
    scripts = [
        name
        for name in output("git", "ls-files").splitlines()
        if (PROJECT / name).is_file() and re.match(rb"#!.*\b(ba|da|k|)sh\b", (PROJECT / name).read_bytes())
    ]
    assert checked == scripts
    assert {".ci/run", ".ci/install", "examples/curl.sh"} <= set(checked)
