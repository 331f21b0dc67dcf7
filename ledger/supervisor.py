"""Keeps one drainer running: each worker has a supervisor, and the one that finds the drainer's lock free starts it."""

import logging
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from ledger import locks, spool

logger = logging.getLogger(__name__)

DRAINER_LOCK = "drainer.lock"
"""Lock in the directory of the spool, held by its drainer."""
SERVER_LOCK = "ledger.lock"
"""Lock in the metrics directory of a server, shared by its workers. The drainer ends when nobody holds it."""
OWN_DRAINER_LOCK = "ledger-drainer.lock"
"""Lock in the same directory, held by a drainer that this server has started."""
MOST_BACKOFF_SECONDS = 30.0
SHORT_LIFE_SECONDS = 10.0
"""A drainer that fails before this age in seconds is restarted only after a while."""
_POLL_SECONDS = 0.05
_PROJECT = Path(__file__).resolve().parent.parent


class Supervisor:
    """Starts a drainer where there is none. It is used by one thread at a time.

    Args:
        directory: of the spool.
        server: a directory of this server alone, for its locks: that of its metrics.
        environment: variables for the drainer, added to those of this process.
    """

    def __init__(self, directory: Path, server: Path, environment: Mapping[str, str]) -> None:
        self._directory = directory
        self._server = server
        self._environment = environment
        self._child: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._backoff = 0.0
        self._start_at = 0.0
        self._alive: int | None = None
        self._join()

    def tend(self) -> None:
        """Start a drainer if there is none. Call it about once a second."""
        if self._alive is None and not self._join():
            return
        if self._child is not None and self._child.poll() is not None:
            if self._child.returncode != 0 and time.monotonic() - self._started < SHORT_LIFE_SECONDS:
                self._back_off()
                logger.error("the ledger's drainer failed", extra={"exit_status": self._child.returncode})
            else:
                self._backoff = 0.0
            self._child = None
        if self._child is None and time.monotonic() >= self._start_at:
            self._start()

    def finish(self, seconds: float) -> None:
        """Leave the server. The last worker that does so waits until the spool is drained, for so many seconds.

        What is not drained then stays in the spool for the drainer of the next server.
        """
        if self._alive is not None:
            os.close(self._alive)
        deadline = time.monotonic() + seconds
        if self._others():
            return
        self._wait_for_drainer(deadline)
        if spool.segments(self._directory):
            # There was no drainer, or it died. If services share the spool, another service's drainer may run: then
            # none is started, and that one goes on.
            self._start()
            self._wait_for_drainer(deadline)

    def _join(self) -> bool:
        """Hold the lock of the server; on a full disk it is tried again."""
        try:
            self._alive = _acquire_shared(self._server / SERVER_LOCK)
        except OSError as error:
            logger.error("the lock of the server cannot be taken", extra={"error": str(error)})  # noqa: TRY400 - no bug
            return False
        return True

    def _wait_for_drainer(self, deadline: float) -> None:
        while locks.is_held(self._server / OWN_DRAINER_LOCK):
            if time.monotonic() > deadline:
                logger.warning("the spool is not drained: the next start goes on with it")
                return
            time.sleep(_POLL_SECONDS)
        if self._child is not None:
            self._child.wait()
            self._child = None

    def _others(self) -> bool:
        """Whether other workers of this server are there."""
        for _ in range(5):
            if not locks.is_held(self._server / SERVER_LOCK):
                return False
            time.sleep(0.01)  # The drainer or another worker may be checking the lock.
        return True

    def _start(self) -> None:
        held: list[int] = []
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            for path in (self._directory / DRAINER_LOCK, self._server / OWN_DRAINER_LOCK):
                lock = locks.acquire(path)
                if lock is None:
                    return
                held.append(lock)
            # The drainer inherits the locks, so that a second one can never start in between.
            self._child = subprocess.Popen(  # noqa: S603 - our own command
                [sys.executable, "-m", "ledger.drainer", str(self._directory), str(self._server / SERVER_LOCK)],
                cwd=_PROJECT,
                env={**os.environ, **self._environment},
                stdin=subprocess.DEVNULL,
                pass_fds=held,
                start_new_session=True,  # Ctrl-C must not reach the drainer: it ends after the server.
            )
            self._started = time.monotonic()
        except OSError as error:
            self._back_off()
            logger.error("the ledger's drainer cannot be started", extra={"error": str(error)})  # noqa: TRY400 - no bug
        finally:
            for lock in held:
                os.close(lock)

    def _back_off(self) -> None:
        self._backoff = min(max(2 * self._backoff, 1.0), MOST_BACKOFF_SECONDS)
        self._start_at = time.monotonic() + self._backoff


def _acquire_shared(path: Path) -> int:
    for _ in range(100):
        held = locks.acquire(path, shared=True)
        if held is not None:
            return held
        time.sleep(0.01)  # Another process is checking the lock.
    raise OSError(f"{path} stays locked")
