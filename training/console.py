"""What a stage says while it runs: one line for each step, with how long it took."""

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
    """Log what is being done, then how long it took.

    Args:
        doing: what happens to whom, as in "housing: check the raw table".
    """
    log.info("%s …", doing)
    started = time.perf_counter()
    yield
    log.info("%s: done in %.1f s", doing, time.perf_counter() - started)


def run(stage: Callable[[], object]) -> int:
    """Run a stage as a command and return its exit status.

    Progress goes to stderr. A ``BundleError`` is told as its sentence, without a traceback: it is the user's to
    mend, and says how. Everything else is our bug and keeps its traceback.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S")
    # A stage that is stopped unwinds as one that fails: temporary files go, its MLflow runs end.
    signal.signal(signal.SIGTERM, _stop)
    try:
        stage()
    except BundleError as error:
        log.error("%s", error)  # noqa: TRY400 # the sentence is for the user, the traceback is not
        return 1
    return 0


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)
