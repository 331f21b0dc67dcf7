"""How a stage runs as a command: progress lines, exit status, one sentence for an error of the user."""

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

from contract.errors import BundleError

log = logging.getLogger("training")


@contextmanager
def step(doing: str) -> Iterator[None]:
    """Log the start of a step, then how long it took.

    Args:
        doing: the step, such as "housing: check the raw table".
    """
    log.info("%s …", doing)
    started = time.perf_counter()
    yield
    log.info("%s: done in %.1f s", doing, time.perf_counter() - started)


def run(stage: Callable[[], object]) -> int:
    """Run a stage as a command and return its exit status.

    Progress goes to stderr. For a ``BundleError`` only its sentence is logged, which tells the user what to do. Any
    other exception is a bug and keeps its traceback.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S")
    # A stage that is stopped ends like one that fails: it removes its temporary files and ends its MLflow runs.
    signal.signal(signal.SIGTERM, _stop)
    _settle_experiment()
    try:
        stage()
    except BundleError as error:
        log.error("%s", error)  # noqa: TRY400 # the sentence is for the user, the traceback is not
        return 1
    return 0


def experiment_of() -> Path | None:
    """The project whose copy this is, if DVC runs an experiment in a copy (``dvc exp run --temp``); else None."""
    root = os.environ.get("DVC_ROOT")
    return Path(root) if root and Path(root).resolve() != Path.cwd() else None


def _settle_experiment() -> None:
    """Give an experiment in a copy the registry of its project, and a BentoML store of its own.

    Its runs stay when DVC deletes the copy, and it is judged against the champion. What it imports is for its own
    validation.
    """
    project = experiment_of()
    if project is None:
        return
    os.environ["BENTOML_HOME"] = str(Path.cwd() / ".bentoml")
    if "MLFLOW_TRACKING_URI" not in os.environ:
        (project / "mlruns").mkdir(exist_ok=True)
        for name in ("mlflow.db", "mlflow.lock.db", "mlruns"):
            with suppress(FileExistsError):  # of the stage before
                Path(name).symlink_to(project / name)


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)
