"""The notes of a release, from the changelog, and the tags that are refused."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from local_service import PROJECT

PYPROJECT = '[project]\nname = "bundle"\nversion = "1.2.0"\n'
CHANGELOG = """# Changelog

## Unreleased

### Added
- What is to come.

## 1.2.0 - 2026-11-24

### Added
- The second thing.

```sh
## 1.1.0 - 2026-01-01
```

### Fixed
- A fault.

## [1.1.0] - 2026-10-01
- The first thing.

## 1.0.0
- No date.

## 0.9.0 - 2026-08-01

### Added

## 0.8.0 - 2026-07-01
- Once.

## 0.8.0 - 2026-07-01
- Twice.

## 0.7.0 - 2026-06-01
- The last."""


def release(directory: Path, tag: str, version: str, changelog: str) -> subprocess.CompletedProcess[str]:
    """What the script says of a tag, for a project of this version and changelog."""
    (directory / "pyproject.toml").write_text(PYPROJECT.replace("1.2.0", version))
    (directory / "CHANGELOG.md").write_text(changelog)
    return subprocess.run(
        [
            *(sys.executable, "deploy/release.py", tag),
            *("--project", str(directory / "pyproject.toml"), "--changelog", str(directory / "CHANGELOG.md")),
        ],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("version", "notes"),
    [
        pytest.param(
            "1.2.0",
            "### Added\n- The second thing.\n\n```sh\n## 1.1.0 - 2026-01-01\n```\n\n### Fixed\n- A fault.\n",
            id="a heading in a listing is none",
        ),
        pytest.param("1.1.0", "- The first thing.\n", id="version in brackets"),
        pytest.param("0.7.0", "- The last.\n", id="last section, no newline at the end"),
    ],
)
def test_the_notes_are_the_section_of_the_version(tmp_path: Path, version: str, notes: str) -> None:
    ended = release(tmp_path, f"v{version}", version, CHANGELOG)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, notes, "")


@pytest.mark.parametrize(
    ("tag", "version", "says"),
    [
        pytest.param("v1.3.0", "1.2.0", "v1.2.0", id="another version"),
        pytest.param("1.2.0", "1.2.0", "v1.2.0", id="no v"),
        pytest.param("refs/tags/v1.2.0", "1.2.0", "v1.2.0", id="a ref"),
        pytest.param("v1.2.0-rc1", "1.2.0", "v1.2.0", id="something after it"),
        pytest.param("v2.0.0", "2.0.0", "no section `## 2.0.0 - YYYY-MM-DD`", id="no section"),
        pytest.param("v1.2", "1.2", "no section `## 1.2 - YYYY-MM-DD`", id="only the begin of a version"),
        pytest.param("v1.0.0", "1.0.0", "not `## 1.0.0 - YYYY-MM-DD`", id="no date"),
        pytest.param("v0.9.0", "0.9.0", "is empty", id="nothing but headings"),
        pytest.param("v0.8.0", "0.8.0", "2 sections", id="two sections"),
    ],
)
def test_a_tag_that_does_not_fit_is_refused(tmp_path: Path, tag: str, version: str, says: str) -> None:
    ended = release(tmp_path, tag, version, CHANGELOG)
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert says in ended.stderr
    assert "Traceback" not in ended.stderr


def test_no_tag_is_no_release(tmp_path: Path) -> None:
    assert release(tmp_path, "", "1.2.0", CHANGELOG).returncode == 1


def test_our_own_changelog_can_be_released(tmp_path: Path) -> None:
    """As CONTRIBUTING.md says: what is unreleased gets the version and the date."""
    version = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]
    changelog = (PROJECT / "CHANGELOG.md").read_text()
    heading = "## Unreleased\n" if "## Unreleased\n" in changelog else f"## {version} - "
    _, _, rest = changelog.partition(heading)
    text, _, _ = rest.partition("\n## ")
    if heading == "## Unreleased\n":
        changelog = changelog.replace(heading, f"## {version} - 2026-11-24\n")
    ended = release(tmp_path, f"v{version}", version, changelog)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip() in text
    assert ended.stdout.count("\n- ") == text.count("\n- ") > 0
