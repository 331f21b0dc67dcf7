"""The workflow: its jobs and their order, what it may do, what it trusts, and that what it calls exists."""

import re
import subprocess
import tomllib
from itertools import pairwise

import pytest
import yaml

from tests.ci.workflow import PROJECT, SETUP, WORKFLOW, jobs, needs, scripts, steps, uses, workflow

ORDER = ("lint", "test", "build", "scan", "deploy", "verify", "release")
READ = {"contents": "read"}
PERMISSIONS = {
    **dict.fromkeys(("lint", "test", "integration", "build", "deploy", "verify"), READ),
    "scan": {**READ, "actions": "read", "security-events": "write"},
    "release": {"contents": "write", "packages": "write", "id-token": "write", "attestations": "write"},
}
COMMANDS = "\n".join(script for _, _, script in scripts())


def test_the_jobs_are_in_order() -> None:
    assert needs("lint") == set()
    for before, after in pairwise(ORDER):
        assert before in needs(after)
    assert needs("release") == set(jobs()) - {"release"}


def test_a_job_may_do_what_it_must_and_no_more() -> None:
    assert workflow()["permissions"] == {}
    assert {name: job["permissions"] for name, job in jobs().items()} == PERMISSIONS


def test_only_a_pushed_tag_is_released() -> None:
    assert jobs()["release"]["if"] == "github.event_name == 'push' && github.ref_type == 'tag'"
    assert workflow()[True]["push"]["tags"] == ["v*"]
    # It has the code of the pull request, but neither its secrets nor its rights.
    assert "pull_request_target" not in workflow()[True]


def test_every_job_ends_and_a_newer_commit_of_a_pull_request_takes_over() -> None:
    assert all(0 < job["timeout-minutes"] <= 60 for job in jobs().values())
    assert "github.ref" in workflow()["concurrency"]["group"]
    assert "pull_request" in workflow()["concurrency"]["cancel-in-progress"]


def test_no_checkout_leaves_its_token_behind() -> None:
    checkouts = [inputs for job in jobs() for inputs in uses(job, "actions/checkout")]
    assert len(checkouts) == len(jobs())
    assert all(inputs["persist-credentials"] is False for inputs in checkouts)


def test_every_action_is_a_commit_with_its_version() -> None:
    text = WORKFLOW.read_text() + SETUP.read_text()
    used = [line for line in re.findall(r"\buses: (.+)", text) if line != "./.github/actions/setup"]
    versions: dict[str, str] = {}
    for line in used:
        match = re.fullmatch(r"([\w.-]+/[\w./-]+)@([0-9a-f]{40} # v\d+\.\d+\.\d+)", line)
        assert match, line
        # One version of an action throughout.
        assert versions.setdefault(match[1], match[2]) == match[2]
    assert len(versions) >= 9


def test_every_container_is_a_digest() -> None:
    containers = [job["container"]["image"] for job in jobs().values() if "container" in job]
    assert containers
    for image in containers:
        assert re.fullmatch(r"[\w./-]+@sha256:[0-9a-f]{64}", image)


def test_the_matrix_is_what_the_project_requires() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    bounds = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", project["requires-python"])
    assert bounds
    wanted = [f"3.{minor}" for minor in range(int(bounds[1]), int(bounds[2]))]
    assert jobs()["test"]["strategy"]["matrix"]["python"] == wanted


def test_what_is_released_comes_from_no_cache() -> None:
    setup = yaml.safe_load(SETUP.read_text())["runs"]["steps"]
    everywhere = [*setup, *(step for job in jobs() for step in steps(job))]
    caches = [step for step in everywhere if step.get("uses", "").startswith("actions/cache")]
    assert [step["if"] for step in caches] == ["github.ref_type != 'tag'"]
    assert not [step for step in everywhere if "cache" in step.get("with", {})]


def test_what_is_downloaded_was_uploaded_before() -> None:
    uploaded = {
        inputs["name"]: job
        for job in jobs()
        for inputs in uses(job, "actions/upload-artifact")
        if "$" not in inputs["name"]
    }
    downloads = [(job, inputs["name"]) for job in jobs() for inputs in uses(job, "actions/download-artifact")]
    assert {name for _, name in downloads} == {"image", "bento"}
    for job, name in downloads:
        assert uploaded[name] in needs(job)
    assert {"image", "bento", "scan", "load-test", "reports"} <= set(uploaded)
    (coverage,) = uses("test", "actions/upload-artifact")
    assert coverage["path"].split() == ["coverage.xml", "htmlcov/"]


def test_the_coverage_goes_to_codecov_only_with_a_token() -> None:
    (step,) = [step for step in steps("test") if step.get("uses", "").startswith("codecov/")]
    assert step["if"] == "env.HAS_CODECOV_TOKEN == 'true'"
    # To the tests it is told only whether there is one.
    assert jobs()["test"]["env"] == {"HAS_CODECOV_TOKEN": "${{ secrets.CODECOV_TOKEN != '' }}"}
    assert set(re.findall(r"\bsecrets\.\w+", WORKFLOW.read_text())) == {"secrets.CODECOV_TOKEN"}


def test_no_script_has_an_expression_in_it() -> None:
    """Values reach scripts as variables: a name of a branch could be a command."""
    for _, _, script in scripts():
        assert "${{" not in script


def test_the_findings_of_the_scan_stop_it_and_are_shown() -> None:
    (scan,) = uses("scan", "anchore/scan-action")
    assert (scan["severity-cutoff"], scan["only-fixed"], scan.get("fail-build", True)) == ("high", True, True)
    (upload,) = uses("scan", "github/codeql-action/upload-sarif")
    assert upload["sarif_file"] == "${{ steps.scan.outputs.sarif }}"
    # The findings of a scan that failed are those to look at.
    for step in steps("scan"):
        if "steps.scan.outputs" in str(step):
            assert "!cancelled()" in step["if"]


def test_the_hooks_of_pre_commit_are_run() -> None:
    assert "pre-commit run --all-files" in COMMANDS


TARGETS = sorted(set(re.findall(r"\bmake ([\w./-]+)", COMMANDS)))
FILES = sorted(set(re.findall(r"(?<![\w./-])((?:\.ci|deploy|examples)/[\w.]+)", COMMANDS)))


def test_it_calls_the_targets_that_people_call() -> None:
    assert {"lint", "test", "integration", "train", "image", "sbom", "audit", "load"} <= set(TARGETS)


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


def test_the_readme_has_every_job() -> None:
    readme = (PROJECT / "README.md").read_text()
    _, _, section = readme.partition("\n## CI/CD\n")
    section = section.partition("\n## ")[0]
    assert re.findall(r"^\| `([a-z]+)` \|", section, re.MULTILINE) == list(jobs())
