"""What a release tells: the section of its version in the changelog.

``python deploy/release.py v1.2.0`` prints it, or refuses the tag. It needs nothing but Python.
"""

import argparse
import re
import sys
import tomllib
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
HEADING = re.compile(r"^## \[?(?P<version>[^\]\s]+)\]?(?P<rest>.*)$")
DATE = re.compile(r" - \d{4}-\d{2}-\d{2}")
FENCE = re.compile(r"^ {0,3}(```|~~~)")


class ReleaseError(Exception):
    """The tag cannot be released; the sentence says what to change first."""


def version_of(tag: str, project: Path) -> str:
    """The version that a tag (``v`` and the version) names.

    Args:
        tag: as ``git tag`` has it, without ``refs/tags/``.
        project: the ``pyproject.toml``.

    Raises:
        ReleaseError: it is not the version of the project.
    """
    declared = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"]
    if tag != f"v{declared}":
        raise ReleaseError(
            f"The tag {tag} is not v{declared}, the version in {project.name}: change the version there and commit, "
            "or tag anew."
        )
    return str(declared)


def sections(changelog: str) -> list[tuple[str, str, str]]:
    """Version, rest of the heading, and text of each section, as they stand in the file."""
    found: list[tuple[str, str, list[str]]] = []
    fenced = False
    for line in changelog.splitlines():
        fenced ^= FENCE.match(line) is not None
        heading = None if fenced else HEADING.match(line)
        if heading:
            found.append((heading["version"], heading["rest"], []))
        elif found:
            found[-1][2].append(line)
    return [(version, rest.rstrip(), "\n".join(lines).strip()) for version, rest, lines in found]


def notes(version: str, changelog: Path) -> str:
    """The text of the version's section, without its heading.

    Raises:
        ReleaseError: there is no such section, or two, or it has no date, or no entry.
    """
    matching = [(rest, text) for name, rest, text in sections(changelog.read_text(encoding="utf-8")) if name == version]
    wanted = f"## {version} - YYYY-MM-DD"
    if not matching:
        raise ReleaseError(f"{changelog.name} has no section `{wanted}`: give that heading to what is unreleased.")
    if len(matching) > 1:
        raise ReleaseError(f"{changelog.name} has {len(matching)} sections for {version}: make them one.")
    rest, text = matching[0]
    if not DATE.fullmatch(rest):
        raise ReleaseError(f"The heading of {version} in {changelog.name} is not `{wanted}`.")
    # A section of nothing but headings tells nobody anything.
    if not [line for line in text.splitlines() if line.strip() and not line.startswith("#")]:
        raise ReleaseError(f"The section {version} of {changelog.name} is empty: say what changed.")
    return text


def main(arguments: list[str]) -> int:
    """Print the section, or the reason why there is nothing to release; returns the exit status."""
    parser = argparse.ArgumentParser(description="Print the changelog's section of a tag, or refuse the tag.")
    parser.add_argument("tag", help="v and the version, as in v1.2.0")
    parser.add_argument("--project", type=Path, default=PROJECT / "pyproject.toml", help="a pyproject.toml")
    parser.add_argument("--changelog", type=Path, default=PROJECT / "CHANGELOG.md", help="a changelog")
    options = parser.parse_args(arguments)
    try:
        sys.stdout.write(notes(version_of(options.tag, options.project), options.changelog) + "\n")
    except ReleaseError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
