"""The directory that ``PROMETHEUS_MULTIPROC_DIR`` names, where prometheus_client keeps the metrics of all workers."""

import atexit
import errno
import os
import shutil
import tempfile
from collections.abc import MutableMapping
from pathlib import Path

from contract.errors import StartupError

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
METRICS = (".db", ".sock", ".lock", ".status")
"""Endings of the files that a server leaves in it."""


def temporary() -> str:
    """A new directory, which is removed when this process ends."""
    name = tempfile.mkdtemp(prefix="bentoml-metrics-")
    atexit.register(shutil.rmtree, name, ignore_errors=True)
    return name


def prepare(environment: MutableMapping[str, str]) -> None:
    """Make sure that metrics can be written to the directory, if the variable is set. It is made if it does not exist.

    prometheus_client opens files in it as soon as a metric is declared. An empty variable would name the working
    directory, and BentoML empties what it names: it gets a temporary directory instead.

    Raises:
        StartupError: it cannot be made or written to, or holds other files, which BentoML would delete.
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
        others = sorted(one.name for one in os.scandir(directory) if not one.name.endswith(METRICS))
    except OSError as error:
        raise StartupError(
            f"{VARIABLE}={name} must be a directory that can be written to: {error.strerror}. Correct or unset it."
        ) from None
    if others:
        raise StartupError(
            f"{VARIABLE}={name} must hold nothing but metrics, because it is emptied at the start, and it holds "
            f"{others[0][:60]}. Name another directory, or unset it."
        )
