"""The scripts of the workflow's steps, run as its runner runs them.

Where a step calls docker, gh or compose, which need a daemon or GitHub, a recorder stands in for that program alone.
"""

import json
import os
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from local_service import PROJECT
from tests.ci.workflow import scripts

VERSION = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]
DIGEST = f"sha256:{'ab' * 32}"
RECORDER = """#!/usr/bin/env python3
import json, os, sys
sys.stdin.buffer.read()  # who writes into a pipe is heard to its end
with open(os.environ["RECORD"], "a") as record:
    print(json.dumps([os.path.basename(sys.argv[0]), *sys.argv[1:]]), file=record)
print(os.environ.get("SAYS", ""))
"""


class Runner:
    """A clean folder, and what the steps in it have called."""

    def __init__(self, directory: Path) -> None:
        self.workspace = directory / "workspace"
        self.temporary = directory / "temporary"
        self.bin = directory / "bin"
        for made in (self.workspace, self.temporary, self.bin):
            made.mkdir()
        self.record = directory / "record"
        self.output = directory / "output"

    def replace(self, *programs: str) -> None:
        """Record the calls of these, in the place of making them."""
        for program in programs:
            path = self.workspace / program if "/" in program else self.bin / program
            path.parent.mkdir(exist_ok=True)
            path.write_text(RECORDER)
            path.chmod(0o755)

    def __call__(self, job: str, step: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a step, by the command that GitHub documents for ``shell: bash``."""
        (script,) = [script for where, name, script in scripts() if (where, name) == (job, step)]
        file = self.temporary / "script.sh"
        file.write_text(script)
        return subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(file)],
            cwd=self.workspace,
            env={
                "PATH": f"{self.bin}:{os.environ['PATH']}",
                "RECORD": str(self.record),
                "RUNNER_TEMP": str(self.temporary),
                "GITHUB_OUTPUT": str(self.output),
                **variables,
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    @property
    def calls(self) -> list[list[str]]:
        return [json.loads(line) for line in self.record.read_text().splitlines()]


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    return Runner(tmp_path)


@pytest.fixture
def released(runner: Runner) -> Runner:
    """The project as it is when it can be released: the changelog has the version."""
    (runner.workspace / "deploy").mkdir()
    shutil.copy(PROJECT / "deploy/release.py", runner.workspace / "deploy")
    shutil.copy(PROJECT / "pyproject.toml", runner.workspace)
    (runner.workspace / "CHANGELOG.md").write_text(f"# Changelog\n\n## {VERSION} - 2026-11-24\n- A thing.\n")
    return runner


@pytest.mark.parametrize(("tag", "status"), [(f"v{VERSION}", 0), ("v0.0.0", 1), (VERSION, 1), (f"v{VERSION}; ls", 1)])
def test_the_first_job_stops_a_tag_that_is_not_the_version(released: Runner, tag: str, status: int) -> None:
    ended = released("lint", "Check that the tag is the version and has its changelog", GITHUB_REF_NAME=tag)
    assert ended.returncode == status
    assert ended.stdout == ("- A thing.\n" if status == 0 else "")


def test_the_notes_of_the_release_are_the_changelogs(released: Runner) -> None:
    assert released("release", "Write the notes", GITHUB_REF_NAME=f"v{VERSION}").returncode == 0
    assert (released.temporary / "notes.md").read_text() == "- A thing.\n"


@pytest.mark.parametrize(("monitoring", "options"), [("false", ["--no-build"]), ("true", ["--no-build", "--full"])])
def test_the_monitoring_is_deployed_if_it_is_wanted(runner: Runner, monitoring: str, options: list[str]) -> None:
    runner.replace("deploy/deploy_local.sh")
    assert runner("deploy", "Deploy", DEPLOY_MONITORING=monitoring).returncode == 0
    assert runner.calls == [["deploy_local.sh", *options]]


def test_the_passwords_are_new_and_masked(runner: Runner) -> None:
    ended = runner("deploy", "Make up passwords")
    assert ended.returncode == 0, ended.stderr
    made = dict(line.split("=") for line in (runner.workspace / ".env").read_text().splitlines())
    assert made.keys() == {"GRAFANA_ADMIN_PASSWORD", "POSTGRES_PASSWORD"}
    assert len(set(made.values())) == 2
    assert all(len(password) == 48 for password in made.values())
    assert ended.stdout.splitlines() == [f"::add-mask::{password}" for password in made.values()]


def push(runner: Runner, tag: str, says: str) -> subprocess.CompletedProcess[str]:
    runner.replace("docker", "zstd")
    return runner(
        "release",
        "Push the image",
        GITHUB_REF_NAME=tag,
        GITHUB_REPOSITORY="Somebody/ML-Bundle",
        GITHUB_ACTOR="somebody",
        GH_TOKEN="token",  # noqa: S106 - of no use to anybody
        BUNDLE="ml-prediction-bundle:latest",
        SAYS=says,
    )


@pytest.mark.parametrize(
    ("tag", "pushed"),
    [("v1.2.0", ["1.2.0", "latest"]), ("v1.2.0rc1", ["1.2.0rc1"]), ("v2.0.0.dev3", ["2.0.0.dev3"])],
)
def test_the_image_is_pushed_and_latest_only_if_it_is_no_candidate(runner: Runner, tag: str, pushed: list[str]) -> None:
    name = "ghcr.io/somebody/ml-bundle"
    ended = push(runner, tag, f"example.org/other@sha256:{'cd' * 32}\n{name}@{DIGEST}\n")
    assert ended.returncode == 0, ended.stderr
    assert [call[2] for call in runner.calls if call[:2] == ["docker", "push"]] == [f"{name}:{one}" for one in pushed]
    assert runner.output.read_text() == f"name={name}\ndigest={DIGEST}\n"
    assert "token" not in runner.record.read_text()


def test_an_image_without_a_digest_is_not_attested(runner: Runner) -> None:
    assert push(runner, "v1.2.0", "").returncode != 0
    assert not runner.output.exists()


@pytest.mark.parametrize(("tag", "candidate"), [("v1.2.0", False), ("v1.2.0rc1", True)])
def test_the_release_has_the_notes_and_the_files(runner: Runner, tag: str, candidate: bool) -> None:
    runner.replace("gh")
    (runner.workspace / "dist").mkdir()
    for name in ("one.bento", "sbom.cdx.json"):
        (runner.workspace / "dist" / name).touch()
    assert runner("release", "Release", GITHUB_REF_NAME=tag).returncode == 0
    (call,) = runner.calls
    assert call[:4] == ["gh", "release", "create", tag]
    assert call[-2:] == ["dist/one.bento", "dist/sbom.cdx.json"]
    assert call[call.index("--notes-file") + 1] == f"{runner.temporary}/notes.md"
    assert ("--prerelease" in call) is candidate
    assert "--verify-tag" in call
