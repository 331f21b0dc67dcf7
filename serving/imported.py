"""Models that a service has imported into the BentoML store, which it removes again when nobody needs them.

An imported model has a mark: a file that names the ``MODELS_DIR`` it came from. All other models of the store belong to
the user or to the pipeline, and are never touched. Who has loaded an imported model holds a shared lock on its mark, so
that it stays as long as any process uses it; the kernel releases the lock of a process that dies.
"""

import fcntl
import logging
import os
import shutil
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import uuid4

from contract.errors import StartupError
from model.deployed import IMPORTED_MARK, MODEL_DESCRIPTION

logger = logging.getLogger(__name__)

PARTIAL = ".import-"
"""Prefix of the folders, beside the models, in which an import is under way."""
ABANDONED_SECONDS = 3600
"""After this time an import that is under way was killed."""
_REMOVED = ".removed-"
_LOCK = ".models.lock"


class ModelRemoved(StartupError):
    """A model was removed from the store before it could be loaded.

    Args:
        folder: where it was.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(f"The stored model in {folder} was removed while it was to be loaded. Try again.")


def store() -> Path:
    """The folder of the models in ``BENTOML_HOME``."""
    return Path(os.environ.get("BENTOML_HOME") or Path.home() / "bentoml") / "models"


def mark(folder: Path, directory: Path) -> None:
    """Mark a model, which is not in the store yet, as imported from a ``MODELS_DIR``."""
    with (folder / IMPORTED_MARK).open("w", encoding="utf-8") as file:
        file.write(_content(file.fileno(), directory))


@contextmanager
def changing(home: Path) -> Iterator[None]:
    """Wait until no other process moves a model into the store of this ``BENTOML_HOME``, or out of it."""
    with (home / _LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def hold(folder: Path) -> ExitStack:
    """Keep an imported model from being removed, until what is returned is closed. Others nobody would remove.

    Raises:
        ModelRemoved: it is not there any more.
    """
    path = folder / IMPORTED_MARK
    while True:
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            if not (folder / MODEL_DESCRIPTION).exists():
                raise ModelRemoved(folder) from None
            if path.exists():
                continue  # It was imported anew.
            return ExitStack()
        with ExitStack() as held:
            held.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            if _is_at(descriptor, path):
                return held.pop_all()
        # It was removed or replaced while we waited: look again.


def remove_unused(name: str, directory: Path, kept: Collection[str]) -> None:
    """Remove the models of a name that were imported from a ``MODELS_DIR``, but those that are kept or in use.

    Several processes may do it at once. What cannot be removed is told in the log, and tried again the next time.

    Args:
        name: of the models.
        directory: the ``MODELS_DIR``.
        kept: tags.
    """
    models = store()
    for path in sorted((models / name).glob(f"*/{IMPORTED_MARK}")):
        tag = f"{name}:{path.parent.name}"
        if tag in kept:
            continue
        try:
            if _take_out(path, directory, models.parent):
                logger.info("imported model removed from the BentoML store", extra={"model": name, "tag": tag})
        except OSError as error:
            fields = {"model": name, "tag": tag, "reason": str(error)}
            logger.warning("imported model cannot be removed from the BentoML store", extra=fields)
    _clear(models.parent)


def _take_out(path: Path, directory: Path, home: Path) -> bool:
    """Take the model of a mark out of the store, whole, unless it is in use, gone, or of somebody else."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.read_text(encoding="utf-8") != _content(descriptor, directory) or not _is_at(descriptor, path):
            return False
        with changing(home):
            path.parent.rename(home / f"{_REMOVED}{uuid4().hex}")
    except (BlockingIOError, FileNotFoundError):
        return False
    finally:
        os.close(descriptor)
    return True


def _clear(home: Path) -> None:
    """Delete what was taken out of the store, and what killed processes have left."""
    now = time.time()
    for path in (*home.glob(f"{_REMOVED}*"), *home.glob(f"{PARTIAL}*")):
        try:
            if path.name.startswith(_REMOVED) or now - path.stat().st_mtime > ABANDONED_SECONDS:
                shutil.rmtree(path)
        except FileNotFoundError:
            continue  # Another process deletes it.
        except OSError as error:
            fields = {"path": str(path), "reason": str(error)}
            logger.warning("left-over of the BentoML store cannot be deleted", extra=fields)


def _content(descriptor: int, directory: Path) -> str:
    """What a mark says. It has the number of its own file: in a copy of the model it is no mark."""
    return f"{os.fstat(descriptor).st_ino} {directory.absolute()}\n"


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
