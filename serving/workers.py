"""Looks after the workers of a server, from the process that starts them.

Each worker writes its process id into a pipe twice a second, from its event loop. A worker whose event loop has stopped
turning writes nothing. If it also uses no processor time, it hangs: it is killed, and then replaced like any that died.

Silence is counted in looks, not in seconds: while the whole machine is stopped, nobody looks.
"""

import logging
import os
import signal
import time
from collections.abc import Collection, MutableMapping
from contextlib import suppress
from dataclasses import dataclass

import psutil

from serving import heartbeat, telemetry
from serving.telemetry import series

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
HUNG_LOOKS = 10
"""Looks after which a silent worker that uses no processor time counts as hung: 5 seconds."""
STUCK_LOOKS = 120
"""Looks after which a silent worker counts as hung, whatever it does: 60 seconds."""
START_LOOKS = 120
"""Looks after which a worker that has not started and does nothing counts as hung."""
MOST_BACKOFF_SECONDS = 30.0
"""After failures to start, one after the other, the next start waits ever longer, up to this."""
_REASONS = ("died", "hung", "start_failed")
_BUSY = {psutil.STATUS_RUNNING, psutil.STATUS_WAKING, psutil.STATUS_DISK_SLEEP}
"""States of a thread that waits for a processor or a disk: a kill would not help."""


@dataclass
class _Worker:
    """The state of a worker. ``silent`` and ``idle`` count looks since it was last heard of, and last active."""

    started: bool = False
    silent: int = 0
    idle: int = 0
    seconds: float = 0.0
    hung: bool = False
    dismissed: bool = False


class Keeper:
    """Knows which workers are alive, which hang, and when the next may be started.

    Args:
        wanted: how many workers there should be.
    """

    def __init__(self, wanted: int) -> None:
        self._wanted = wanted
        self._reader, self._writer = os.pipe()
        for descriptor in (self._reader, self._writer):
            os.set_blocking(descriptor, False)
        # Only this process has the other end: when it is gone, the workers' writes fail.
        os.set_inheritable(self._writer, True)  # noqa: FBT003
        self._workers: dict[int, _Worker] = {}
        self._failures = 0
        self._start_at = 0.0
        self.ever_started = False
        telemetry.share()
        for reason in _REASONS:
            series.WORKER_EXITS.labels(reason)

    def introduce(self, environment: MutableMapping[str, str]) -> None:
        """Tell workers, through their environment, where to write their beats."""
        environment[heartbeat.VARIABLE] = str(self._writer)

    @property
    def may_start(self) -> bool:
        """Whether a worker may be started now: after failures to start the next one waits."""
        return time.monotonic() >= self._start_at

    @property
    def all_started(self) -> bool:
        """Whether as many workers as there should be have started."""
        return sum(worker.started for worker in self._workers.values()) >= self._wanted

    @property
    def hopeless(self) -> bool:
        """Whether every worker has failed during its start, and none has ever started."""
        return not self.ever_started and self._failures >= self._wanted

    def look(self, pids: Collection[int]) -> None:
        """Note which workers are alive, and kill those that hang.

        Args:
            pids: the workers that run now.
        """
        beats = self._beats()
        for pid in pids:
            self.expect(pid)
        for pid in beats & self._workers.keys():
            self._heard_of(self._workers[pid])
        for pid in self._workers.keys() - set(pids):
            self._ended(pid, self._workers.pop(pid))
        for pid, worker in self._workers.items():
            if pid not in beats and not worker.hung and self._hangs(pid, worker):
                worker.hung = True
                logger.error(
                    "a worker hangs: it is killed and replaced",
                    extra={"worker": pid, "silent_seconds": worker.silent * LOOK_SECONDS},
                )
                with suppress(ProcessLookupError):  # It has ended by itself.
                    os.kill(pid, signal.SIGKILL)

    def expect(self, pid: int) -> None:
        """Note a worker that was started."""
        self._workers.setdefault(pid, _Worker())

    def dismiss(self, pid: int) -> None:
        """Expect a worker to end: it was told to."""
        if pid in self._workers:
            self._workers[pid].dismissed = True

    def close(self) -> None:
        """Give the pipe back."""
        os.close(self._reader)
        os.close(self._writer)

    def _beats(self) -> set[int]:
        beats: set[int] = set()
        with suppress(BlockingIOError):
            while content := os.read(self._reader, 65_536):
                beats.update(pid for (pid,) in heartbeat.BEAT.iter_unpack(content))
        return beats

    def _heard_of(self, worker: _Worker) -> None:
        worker.silent = worker.idle = 0
        if not worker.started:
            worker.started = self.ever_started = True
            self._failures = 0

    def _hangs(self, pid: int, worker: _Worker) -> bool:
        worker.silent += 1
        try:
            process = psutil.Process(pid)
            status = process.status()
            # The main thread runs the event loop; other threads may go on without it.
            seconds = sum(one.user_time + one.system_time for one in process.threads() if one.id == pid)
        except psutil.Error:
            return False  # It has just ended, or is about to.
        if status == psutil.STATUS_TRACING_STOP:  # in a debugger
            worker.silent = worker.idle = 0
        elif status in _BUSY or seconds > worker.seconds:
            worker.idle = 0
        else:
            worker.idle += 1
        worker.seconds = seconds
        if not worker.started:
            return worker.idle >= START_LOOKS
        return worker.idle >= HUNG_LOOKS or worker.silent >= STUCK_LOOKS

    def _ended(self, pid: int, worker: _Worker) -> None:
        if worker.dismissed and not worker.hung:
            return
        reason = "hung" if worker.hung else "died" if worker.started else "start_failed"
        series.WORKER_EXITS.labels(reason).inc()
        delay = 0.0
        if not worker.started:
            self._failures += 1
            if self._failures > 1:
                delay = min(2.0 ** (self._failures - 1), MOST_BACKOFF_SECONDS)
        self._start_at = time.monotonic() + delay
        logger.error("a worker has ended", extra={"worker": pid, "reason": reason, "next_start_seconds": delay})
