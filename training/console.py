"""How a stage runs as a command: progress lines, exit status, one sentence for an error of the user."""

import logging
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
    try:
        stage()
    except BundleError as error:
        log.error("%s", error)  # noqa: TRY400 # the sentence is for the user, the traceback is not
        return 1
    return 0


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)
