"""The worker of the loop: ``python -m loop.worker``, or ``make loop``.

It takes jobs from the ledger's database, one at a time, and runs each as a process of its own, with low CPU priority.
It also asks for jobs itself, because of a schedule, drift or live quality: ``loop.triggers``. Two workers never run two
jobs at once. When it is stopped, its job is queued again. When it is killed, its job's processes end, and another
worker takes the job up again, once.
"""

import argparse
import json
import logging
import os
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

from sqlalchemy import Engine
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnection

from ledger import jobs
from ledger.jobs import Job, State
from ledger.times import now_us
from loop import child
from loop.deployed import connect_ledger
from loop.errors import LoopError
from loop.retrain import REFUSED_STATUS
from loop.triggers import Triggers
from loop.workspace import alone, recover
from training import console

log = logging.getLogger(__name__)

AWAY = (OperationalError, InterfaceError, NoConnection)
"""Errors that mean the database does not answer."""
POLL_SECONDS = 2.0
TRIGGER_SECONDS = 30.0
NICENESS = 10
STAGE = re.compile(r"^\[ *(\d{1,3}) %\] (.+)$")
"""A line in which a job reports its progress."""

Command = Callable[[Job, Path], Sequence[str]]
"""Makes the command of a job, which writes its result into a file as JSON."""


def retrain_command(job: Job, result: Path) -> list[str]:
    """The pipeline and the gate, for the model of a job."""
    command = [sys.executable, "-m", "loop.retrain", "--model", job.model, "--result", str(result)]
    return [*command, "--trigger", job.trigger, "--job", str(job.id)]


class Worker:
    """Takes jobs and runs them.

    Args:
        engine: of the ledger's database.
        command: makes the command of a job.
        triggers: asks for jobs, about every ``TRIGGER_SECONDS``.
        lease_seconds: how long a job stays this worker's without a heartbeat.
        poll_seconds: how often it looks for a job.
    """

    def __init__(
        self,
        engine: Engine,
        command: Command = retrain_command,
        triggers: Callable[[], None] = lambda: None,
        *,
        lease_seconds: float = jobs.LEASE_SECONDS,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self._engine = engine
        self._command = command
        self._triggers = triggers
        self._lease_seconds = lease_seconds
        self._poll_seconds = poll_seconds
        self._name = f"{_host()}:{os.getpid()}"
        self._started_us = now_us()
        self._seen_at = self._triggered_at = -float("inf")
        self._stopped = False
        self._away = False
        self._wake, self._woken = os.pipe()

    def stop(self) -> None:
        """End soon: a job that runs is ended and waits for another worker. A signal handler may call it."""
        self._stopped = True
        os.write(self._woken, b".")

    def run(self, *, once: bool = False) -> None:
        """Work until it is stopped.

        Args:
            once: only until no job waits.
        """
        child.adopt_orphans()
        log.info("The worker %s takes jobs.", self._name)
        while not self._stopped:
            job = None
            try:
                self._tend()
                job = jobs.claim(self._engine, self._name, lease_seconds=self._lease_seconds)
                self._told_away(None)
            except AWAY as error:
                self._told_away(error)
            if job is not None:
                self._work(job)
            elif once and not self._away:
                break
            else:
                select.select([self._wake], [], [], self._poll_seconds)
        # If the database is away, the worker soon counts as ended without this.
        with suppress(*AWAY):
            jobs.forget_worker(self._engine, self._name)

    def _tend(self) -> None:
        now = time.monotonic()
        if now - self._seen_at >= min(self._lease_seconds, jobs.SEEN_SECONDS) / 6:
            jobs.see_worker(self._engine, self._name, self._started_us)
            self._seen_at = now
        if now - self._triggered_at >= TRIGGER_SECONDS:
            self._triggered_at = now
            self._triggers()

    def _told_away(self, error: Exception | None) -> None:
        if error is not None and not self._away:
            log.warning("The ledger's database does not answer: %s", getattr(error, "orig", error))
        elif error is None and self._away:
            log.info("The ledger's database answers again.")
        self._away = error is not None

    def _work(self, job: Job) -> None:
        log.info("Job %d: retrain %s, attempt %d, for %s.", job.id, job.model, job.attempts, job.who)
        with tempfile.TemporaryDirectory(prefix="loop-") as folder:
            result = Path(folder) / "result.json"
            running = _Running(job, self._command(job, result))
            try:
                mine = self._attend(running)
            finally:
                running.end()
            if mine:
                self._finish(running, result)
            else:
                log.warning("Job %d is not this worker's any more: it was ended.", job.id)

    def _attend(self, running: "_Running") -> bool:
        """Renew the lease while a job runs; whether it is still this worker's at the end."""
        renewed = time.monotonic()
        every = self._lease_seconds / 6
        due, told = renewed, running.stage
        while not self._stopped and running.read(max(0.0, due - time.monotonic()), self._wake):
            # Report a new stage at once.
            if time.monotonic() < due and running.stage == told:
                continue
            told = running.stage
            due = time.monotonic() + every
            asked = time.monotonic()
            try:
                jobs.see_worker(self._engine, self._name, self._started_us)
                if not jobs.renew(
                    self._engine, running.job, stage=running.stage, progress=running.progress, log=running.log
                ):
                    return False
                renewed = asked
                self._told_away(None)
            except AWAY as error:
                self._told_away(error)
                # When the lease is over, another worker may take the job: it must have ended here by then.
                if time.monotonic() - renewed > self._lease_seconds / 2:
                    return False
        return True

    def _finish(self, running: "_Running", result: Path) -> None:
        job = running.job
        deadline = time.monotonic() + self._lease_seconds / 2
        while True:
            try:
                if self._stopped and running.status is None:
                    jobs.give_back(self._engine, job, log=running.log)
                    log.info("Job %d waits for another worker.", job.id)
                else:
                    state, reason, figures = _outcome(running, result)
                    jobs.finish(self._engine, job, state, reason, figures, stage=running.stage, log=running.log)
                    log.info("Job %d: %s. %s", job.id, state, reason)
            except AWAY as error:
                self._told_away(error)
                if time.monotonic() > deadline:
                    # The lease will end, and the job will be taken up again.
                    log.error("Job %d: its end could not be put on record.", job.id)  # noqa: TRY400 - no bug
                    return
                time.sleep(min(1.0, self._lease_seconds / 10))
            else:
                self._told_away(None)
                return


class _Running:
    """A job's process, and what it has written."""

    def __init__(self, job: Job, command: Sequence[str]) -> None:
        self.job = job
        self.stage = "starts"
        self.progress = 0.0
        self.log = ""
        self.status: int | None = None
        """Exit status; None while it runs, and where it was ended."""
        self._line = b""
        self._mark = str(job.owner)
        self._silent = False
        # Read its output through a pipe of ours, so that a leftover process cannot keep us waiting.
        self._output, theirs = os.pipe()
        try:
            self._process, self._alive = child.start(
                command,
                self._mark,
                stdin=subprocess.DEVNULL,
                stdout=theirs,
                stderr=theirs,
            )
        finally:
            os.close(theirs)
        self._ended = os.pidfd_open(self._process.pid)

    def read(self, seconds: float, wake: int) -> bool:
        """Read what it writes, for so long at most, or until ``wake`` has something; False when it has ended."""
        sources = [self._ended, wake] if self._silent else [self._output, self._ended, wake]
        ready, _, _ = select.select(sources, [], [], seconds)
        if self._output in ready:
            content = os.read(self._output, 65536)
            # No process can write to the pipe any more.
            self._silent = not content
            self._take(content)
        elif self._ended in ready:
            self.status = self._process.wait()
            return False
        return True

    def _take(self, content: bytes) -> None:
        sys.stderr.buffer.write(content)
        sys.stderr.flush()
        *lines, self._line = (self._line + content).split(b"\n")
        for line in lines:
            text = line.decode(errors="replace")
            if match := STAGE.match(text):
                self.progress, self.stage = min(int(match[1]), 100) / 100, match[2]
        written = content.decode(errors="replace")
        self.log = (self.log + written)[-jobs.MOST_LOG_CHARACTERS :]

    def end(self) -> None:
        """End all that is left of it."""
        os.close(self._alive)
        self._process.wait()
        # If its guardian was killed, its processes are now our children.
        child.end_descendants(self._mark, child.GRACE_SECONDS if self.status is None else 0)
        while select.select([self._output], [], [], 0)[0] and (content := os.read(self._output, 65536)):
            self._take(content)
        os.close(self._output)
        os.close(self._ended)


def _outcome(running: _Running, result: Path) -> tuple[State, str, dict[str, object] | None]:
    """The state, the reason and the figures of a job that has ended."""
    told = json.loads(result.read_text(encoding="utf-8")) if result.is_file() else {}
    state = {0: State.DONE, REFUSED_STATUS: State.REFUSED}.get(running.status or 0, State.FAILED)
    if state is not State.FAILED:
        return state, told.pop("reason", ""), told
    lines = [line for line in running.log.splitlines() if line.strip()]
    last = next((line for line in reversed(lines) if " ERROR " in line), lines[-1] if lines else "It wrote nothing.")
    return state, f"It ended with status {running.status} while it was at: {running.stage}. {last[:1000]}", None


def _put_back() -> None:
    """Put the project's files back, if a retraining was killed and nobody is at work now."""
    try:
        with alone():
            if recover():
                log.warning("Put back what a retraining had left that was killed.")
    except LoopError as error:
        log.warning("The project's files are left as they are: %s", error)


def _host() -> str:
    return socket.gethostname()[:80]


def _look_for_a_worker(engine: Engine) -> None:
    seen = jobs.worker_seen_us(engine, _host())
    if seen is None or now_us() - seen > jobs.SEEN_SECONDS * 1e6:
        raise LoopError(f"No worker of {_host()} was seen in the last {jobs.SEEN_SECONDS:.0f} seconds.")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    Raises:
        LoopError: there is no ledger; or, with ``--seen``, no worker.
        LedgerError: the database is of a newer version.
    """
    parser = argparse.ArgumentParser(
        prog="python -m loop.worker",
        description="Run the jobs of the loop, one at a time. The database is that of DATABASE_URL, or in STATE_DIR.",
    )
    parser.add_argument("--once", action="store_true", help="end when no job waits: for a CronJob")
    parser.add_argument(
        "--seen",
        action="store_true",
        help="run nothing: end with 0 if a worker of this machine was seen lately, else 1",
    )
    options = parser.parse_args(arguments)
    engine = connect_ledger()
    try:
        if options.seen:
            _look_for_a_worker(engine)
        else:
            _work(engine, once=options.once)
    finally:
        engine.dispose()


def _work(engine: Engine, *, once: bool) -> None:
    os.nice(NICENESS)
    worker = Worker(engine, triggers=Triggers.from_environment(engine, os.environ))

    def stop(_: int, __: FrameType | None) -> None:
        worker.stop()

    # Unlike other commands, end the job first, so that it waits for another worker.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    _put_back()
    worker.run(once=once)


if __name__ == "__main__":
    sys.exit(console.run(main))
