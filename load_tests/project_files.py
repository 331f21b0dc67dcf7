"""The files of the project in another folder, for what must leave the project itself as it is."""

import shutil
import subprocess
from pathlib import Path

from load_tests.errors import LoadTestError


def copy_files(source: Path, target: Path) -> None:
    """Copy the files that git knows or would add, and make the copy a repository, as DVC wants one.

    Raises:
        LoadTestError: ``source`` is no git repository.
    """
    for name in _listed(source):
        if (source / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, target / name)
    subprocess.run(["git", "init", "--quiet"], cwd=target, check=True)  # noqa: S607 - git of this machine


def _listed(source: Path) -> list[str]:
    command = ["git", "ls-files", "-coz", "--exclude-standard"]
    ended = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)  # noqa: S603 - our own
    if ended.returncode:
        raise LoadTestError(f"Only what git lists in {source} is copied: {ended.stderr.strip()}")
    return [name for name in ended.stdout.split("\0") if name]
