"""``make lint`` and the hooks of pre-commit: the same commands, on all files that are meant; they find the faults."""

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import yaml

PROJECT = Path(__file__).parents[2]
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


def test_the_hooks_have_the_locked_tools_and_fetch_nothing() -> None:
    for hook in hooks():
        assert hook["language"] == "system"
        assert hook["entry"].startswith(BIN)


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


WORKFLOW = """name: Example
on: push
permissions: {}
concurrency: {group: example, cancel-in-progress: true}
jobs:
  one:
    name: One
    runs-on: ubuntu-24.04
    steps:
      - name: Look
        run: ls
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with our configuration, our tools, and a workflow without a fault."""
    shutil.copy(CONFIGURATION, tmp_path)
    shutil.copytree(PROJECT / ".github", tmp_path / ".github", ignore=shutil.ignore_patterns("workflows"))
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / ".gitignore").write_text(".venv\n.home\n")
    (tmp_path / ".github/workflows").mkdir()
    (tmp_path / ".github/workflows/example.yml").write_text(WORKFLOW)
    output("git", "init", "--quiet", cwd=tmp_path)
    return tmp_path


def run_hook(repository: Path, hook: str) -> subprocess.CompletedProcess[str]:
    output("git", "add", "--all", cwd=repository)
    return subprocess.run(
        [f"{repository}/.venv/bin/pre-commit", "run", "--all-files", hook],
        cwd=repository,
        env={
            **{name: text for name, text in os.environ.items() if not name.startswith("GIT_")},
            "PRE_COMMIT_HOME": str(repository / ".home"),
            # A commit is made without the environment of `make`, where the tools are on PATH.
            "PATH": "/usr/local/bin:/usr/bin:/bin",
        },
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("hook", "name", "good", "bad", "says"),
    [
        ("ruff", "one.py", "import os\n\nos.getpid()\n", "import os\n", "F401"),
        ("ruff-format", "one.py", "one = 1\n", "one  =  1\n", "1 file would be reformatted"),
        ("shellcheck", "one.sh", '#!/bin/sh\nrm "$1"\n', "#!/bin/sh\nrm $1\n", "SC2086"),
        ("actionlint", ".github/workflows/example.yml", WORKFLOW, WORKFLOW.replace("ls", "rm $HOME/$A"), "SC2086"),
        ("actionlint", ".github/workflows/example.yml", WORKFLOW, WORKFLOW.replace("push", "pusch"), "pusch"),
        (
            "zizmor",
            ".github/workflows/example.yml",
            WORKFLOW,
            WORKFLOW.replace("run: ls", "uses: actions/cache@v5"),
            "unpinned-uses",
        ),
        (
            "zizmor",
            ".github/workflows/example.yml",
            WORKFLOW,
            WORKFLOW.replace("run: ls", "run: echo ${{ github.head_ref }}"),
            "template-injection",
        ),
        ("trailing-whitespace", "one.md", "one\n", "one \n", "Fixing one.md"),
        ("yaml", "one.yml", "one: 1\n---\none: 2\n", "one: [1\n", "one.yml"),
        ("executable", "one.sh", "echo\n", "#!/bin/sh\necho\n", "chmod +x"),
    ],
)
def test_a_hook_finds_a_fault_and_passes_what_has_none(
    repository: Path, hook: str, name: str, good: str, bad: str, says: str
) -> None:
    (repository / name).write_text(good)
    passed = run_hook(repository, hook)
    assert passed.returncode == 0, passed.stdout + passed.stderr
    assert "Passed" in passed.stdout
    (repository / name).write_text(bad)
    failed = run_hook(repository, hook)
    assert failed.returncode == 1, failed.stdout + failed.stderr
    assert says in failed.stdout
