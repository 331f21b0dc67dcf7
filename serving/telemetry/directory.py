"""The directory that ``PROMETHEUS_MULTIPROC_DIR`` names, where prometheus_client keeps the metrics of all workers.

The workers of a server also meet there: it has their sockets, locks and states. Only files that a server has made are
ever removed from it.
"""

import atexit
import errno
import os
import re
import shutil
import tempfile
from collections.abc import MutableMapping
from pathlib import Path

import psutil

from contract.errors import StartupError
from ledger import locks

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
LOCK = "server.lock"
"""Lock held by the process that starts the workers. It also marks a directory as a server's."""
_OURS = re.compile(
    r"(?:counter|histogram|summary|gauge_[a-z]+)_(?P<owner>\d+|dead)\.(?:db|new|folding|copy|folded)"
    r"|flush_(?P<socket>\d+)\.sock|\.?served_(?P<served>\d+)\.status|reload\.asked\.status"
    r"|(?:scrape|reload|ledger|ledger-drainer)\.lock"
)


def temporary() -> str:
    """A new directory, which is removed when this process ends.

    Raises:
        StartupError: there is no place for it.
    """
    name = _make("bentoml-metrics-")
    atexit.register(shutil.rmtree, name, ignore_errors=True)
    return name


def check_temporary() -> None:
    """Check that there is a place for temporary files: BentoML makes some when it starts.

    Raises:
        StartupError: there is none.
    """
    Path(_make("bentoml-check-")).rmdir()


def _make(prefix: str) -> str:
    try:
        return tempfile.mkdtemp(prefix=prefix)
    except OSError as error:
        raise StartupError(
            f"Temporary files cannot be made ({error.strerror or error}). Make room in {_temporary_folder()}, or name "
            "another folder in TMPDIR."
        ) from None


def prepare(environment: MutableMapping[str, str]) -> None:
    """Make sure that metrics can be written to the directory, if the variable is set. It is made if it does not exist.

    prometheus_client opens files in it as soon as a metric is declared. An empty variable would name the working
    directory: it gets a temporary directory instead.

    Raises:
        StartupError: it cannot be made or written to.
    """
    name = environment.get(VARIABLE)
    if name is None:
        return
    if not name:
        environment[VARIABLE] = name = temporary()
    directory = Path(name)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if not os.access(directory, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "permission denied")
    except OSError as error:
        raise StartupError(
            f"{VARIABLE}={name} must be a directory that can be written to: {error.strerror}. Correct or unset it."
        ) from None


def claim(directory: Path) -> int:
    """Take the directory for a new server: remove what a former one has left.

    Returns:
        A descriptor that holds the directory until it is closed.

    Raises:
        StartupError: another server uses it, another program keeps metrics there, or it cannot be written to.
    """
    try:
        names = {path.name for path in directory.iterdir()}
        served = bool(names & {LOCK, "scrape.lock"})
        others = [
            one
            for one in sorted(names)
            if one.endswith(".db") and not (_OURS.fullmatch(one) if served else _is_of_this_process(one))
        ]
        if others:
            raise StartupError(
                f"{VARIABLE}={directory} holds metrics that this service has not written, such as {others[0][:60]}: a "
                "scrape would add them to its own. Name another directory, or unset it."
            )
        lock = locks.acquire(directory / LOCK)
        if lock is None:
            raise StartupError(
                f"Another server uses {VARIABLE}={directory}. Give each server a directory of its own, or unset it."
            )
        for path in directory.iterdir():
            match = _OURS.fullmatch(path.name)
            if match is None:
                continue
            owner = match["owner"] or match["socket"] or match["served"] or ""
            if not (owner.isdigit() and psutil.pid_exists(int(owner))):
                path.unlink(missing_ok=True)
    except OSError as error:
        raise StartupError(f"{VARIABLE}={directory} cannot be used: {error.strerror}. Correct or unset it.") from None
    return lock


def _is_of_this_process(name: str) -> bool:
    """Whether prometheus_client has opened a file in this process, as it does when a metric is declared."""
    match = _OURS.fullmatch(name)
    return match is not None and match["owner"] == str(os.getpid())


def _temporary_folder() -> str:
    return os.environ.get("TMPDIR") or "/tmp"  # noqa: S108 - where Python looks first
