"""The drainer: the one process that moves the records of a spool into the database.

``python -m ledger.drainer SPOOL SERVER_LOCK`` is started by a worker (``supervisor``), which also gives it the locks
that make it the only one. It ends when no worker holds the lock of the server and the spool is drained.
"""

import gc
import logging
import logging.config
import math
import os
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import psycopg
from prometheus_client import Counter, Gauge
from sqlalchemy.exc import SQLAlchemyError

from ledger import database, drift, job_metrics, locks, log_output, quality, retention, spool
from ledger.errors import LedgerError
from ledger.record import ErrorCount, Record
from ledger.spool import Part
from ledger.store import Store
from ledger.upkeep import Upkeep

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.8
"""Seconds between two looks into the spool."""
FINISH_SECONDS = 8.0
"""Maximum seconds to go on after the server's last worker has ended; what is left stays in the spool."""
REPORT_SECONDS = 2.0
"""Seconds between two updates of the gauges while a large spool is drained."""
MOST_BACKOFF_SECONDS = 5.0
"""Maximum seconds between two attempts to reach a database that is away."""
PRUNE_SECONDS = 15.0
"""Maximum seconds of deleting in a round of upkeep: enough for twice what can be recorded."""
NICENESS = 5
"""Niceness of the drainer: it may be late, workers may not."""

LAG = Gauge(
    "ml_ledger_lag_seconds",
    "Age of the oldest record that is not in the database.",
    multiprocess_mode="livemostrecent",
)
SPOOL_BYTES = Gauge("ml_ledger_spool_bytes", "Size of the spool.", multiprocess_mode="livemostrecent")
DATABASE_UP = Gauge(
    "ml_ledger_database_up",
    "1 if the ledger's database could be used the last time.",
    multiprocess_mode="livemostrecent",
)
RECORDS = Counter("ml_ledger_records", "Predictions written to the ledger's database.")
TORN = Counter("ml_ledger_torn_records", "Torn or damaged records that were skipped in the spool.")
REFUSED = Counter(
    "ml_ledger_refused_records", "Records that could not be written to the ledger's database, and were left out."
)

_OF_DATABASE = (SQLAlchemyError, sqlite3.Error, psycopg.Error, LedgerError, OSError)
_OF_RECORDS = (sqlite3.DataError, sqlite3.IntegrityError, psycopg.DataError, psycopg.IntegrityError)


class Sink(Protocol):
    """Where records go: ``ledger.store.Store``."""

    def position(self, segment: str) -> int:
        """How far a segment is committed, in bytes; 0 if it is not known."""

    def insert(self, segment: str, position: int, records: Sequence[Record], errors: Sequence[ErrorCount]) -> None:
        """Commit records and the position after them in one transaction; nothing if it is committed already."""

    def forget_segment(self, segment: str) -> None:
        """Forget the position of a segment whose file is deleted."""


class Drainer:
    """Moves segments into the database, and calls what is to be done now and then.

    Args:
        directory: of the spool.
        open_sink: connects to the database, with its schema up to date; called again after each failure.
        server_lock: the drainer ends when nobody holds it.
    """

    def __init__(self, directory: Path, open_sink: Callable[[], Sink], server_lock: Path) -> None:
        self._directory = directory
        self._open_sink = open_sink
        self._server_lock = server_lock
        self._sink: Sink | None = None
        self._positions: dict[str, int] = {}
        self._gone = threading.Event()
        self._ended = threading.Event()
        self._tasks: list[_Task] = []
        self._backoff = 0.0
        self._retry_at = 0.0
        self._pending_since: float | None = None
        """Unix time of the oldest record that could not be written."""
        self._lag = 0.0
        self._reported = 0.0

    def every(self, seconds: float, call: Callable[[], None]) -> None:
        """Call something about this often while the database is up. It must be short: records wait for it."""
        self._tasks.append(_Task(seconds, call))

    def run(self) -> None:
        """Drain until the server is gone, and once more then, for at most ``FINISH_SECONDS``."""
        spool.sweep(self._directory)
        threading.Thread(target=self._watch, name="server", daemon=True).start()
        while True:
            # Ask first, then read: so everything that a worker wrote before it ended is read.
            gone = self._gone.is_set()
            if gone or time.monotonic() >= self._retry_at:
                self.drain()
            self.report()
            if gone:
                self._ended.set()
                return
            for task in self._tasks:
                if self._sink is not None:
                    task.tend()
            self._gone.wait(POLL_SECONDS)

    def drain(self) -> None:
        """Move what is in the spool; if the database is away, note it."""
        self._lag = 0.0
        try:
            if self._sink is None:
                self._sink = self._open_sink()
            for segment in spool.segments(self._directory):
                self._move(self._sink, segment)
        except _OF_DATABASE as error:
            self._away(error)
        else:
            if self._backoff:
                logger.warning("the ledger's database is back")
            self._backoff, self._retry_at, self._pending_since = 0.0, 0.0, None

    def _move(self, sink: Sink, segment: Path) -> None:
        """Move one segment, and delete it if it is finished."""
        name = segment.name
        # Ask first, then read: so everything that its writer wrote is read.
        finished = spool.is_finished(segment)
        position = self._positions.get(name)
        if position is None:
            position = sink.position(name)
        most = None
        while True:
            try:
                part = spool.read_segment(segment, position, finished=finished, most=most)
            except FileNotFoundError:
                finished = True  # A worker has dropped it.
                break
            if part.position == position:
                break
            if part.records:
                self._pending_since = part.records[0].time_us / 1e6
            try:
                sink.insert(name, part.position, part.records, part.errors)
            except Exception as error:
                if not _is_of_records(error):
                    raise
                count = len(part.records) + len(part.errors)
                if count > 1:
                    most = count // 2  # One record is at fault: find it.
                    continue
                sink.insert(name, part.position, (), ())
                REFUSED.inc()
                what = part.records[0].id if part.records else str(part.errors[0])
                logger.exception("a record cannot be written to the ledger's database", extra={"record": what})
                most = None
            else:
                self._committed(part)
            position = self._positions[name] = part.position
        if finished:
            segment.unlink(missing_ok=True)
            sink.forget_segment(name)
            self._positions.pop(name, None)

    def _committed(self, part: Part) -> None:
        DATABASE_UP.set(1)
        RECORDS.inc(len(part.records))
        TORN.inc(part.torn)
        if part.torn:
            logger.warning("torn records were skipped in the spool", extra={"stretches": part.torn})
        if part.records:
            self._lag = max(self._lag, time.time() - part.records[0].time_us / 1e6)
        self._pending_since = None
        if time.monotonic() - self._reported > REPORT_SECONDS:
            self.report()

    def _away(self, error: Exception) -> None:
        if not self._backoff:
            logger.error(
                "the ledger's database is away: predictions go on, and wait in the spool",
                extra={"error": _reason(error), "directory": str(self._directory)},
            )
        self._sink = None
        self._positions.clear()
        self._backoff = min(max(2 * self._backoff, POLL_SECONDS), MOST_BACKOFF_SECONDS)
        self._retry_at = time.monotonic() + self._backoff

    def report(self) -> None:
        """Write the gauges."""
        self._reported = time.monotonic()
        found = spool.segments(self._directory)
        if self._backoff:
            # The segment was not read yet; its name has the time at which it was begun.
            since = self._pending_since or min((spool.begun(path) for path in found), default=time.time())
            self._lag = time.time() - since
        DATABASE_UP.set(0 if self._backoff else 1)
        LAG.set(max(self._lag, 0.0))
        SPOOL_BYTES.set(spool.size(self._directory))

    def _watch(self) -> None:
        """Runs in a thread: notice that the server is gone, and end this process soon after."""
        while not self._gone.wait(0.25):
            if not locks.is_held(self._server_lock):
                self._gone.set()
        if not self._ended.wait(FINISH_SECONDS):
            logger.warning("the spool is not drained: the next start goes on with it")
            log_output.flush()
            os._exit(1)


class _Task:
    """A call that is repeated about every so many seconds."""

    def __init__(self, seconds: float, call: Callable[[], None]) -> None:
        self._seconds = seconds
        self._call = call
        self._due = time.monotonic()

    def tend(self) -> None:
        """Call it if it is due."""
        if time.monotonic() < self._due:
            return
        try:
            self._call()
        except Exception:
            # Keep writing records, whatever is wrong with one task.
            logger.exception("housekeeping failed", extra={"task": getattr(self._call, "__qualname__", "")})
        self._due = time.monotonic() + self._seconds


def _is_of_records(error: Exception) -> bool:
    """Whether an insert failed because of the records themselves: then it would fail again and again."""
    cause = getattr(error, "orig", None) or error
    return isinstance(cause, _OF_RECORDS) or not isinstance(cause, _OF_DATABASE)


def _reason(error: Exception) -> str:
    """One line, without the statement and its values."""
    text = str(getattr(error, "orig", None) or error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def main(arguments: Sequence[str]) -> None:
    """Run the drainer of a spool: ``SPOOL SERVER_LOCK``."""
    directory, server_lock = map(Path, arguments)
    os.nice(NICENESS)
    _configure_logging()
    # A stop may signal all processes of the server, while the workers still write.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    for gauge in (LAG, DATABASE_UP, SPOOL_BYTES, job_metrics.WORKER_SEEN):
        gauge.set(math.nan)  # It is not known yet; a scrape leaves it out.
    engine = database.connect(os.environ["DATABASE_URL"])

    def open_store() -> Store:
        database.migrate(engine)
        # Modules stay loaded: the garbage collector can skip them.
        gc.collect()
        gc.freeze()
        return Store(engine)

    drainer = Drainer(directory, open_store, server_lock)
    keep_bytes = os.environ["LEDGER_KEEP_BYTES"]
    prune = partial(
        retention.prune,
        engine,
        float(os.environ["LEDGER_KEEP_DAYS"]),
        int(keep_bytes) if keep_bytes else None,
        seconds=PRUNE_SECONDS,
    )
    upkeep = Upkeep(engine, int(os.environ["LEDGER_MIN_LABELS"]), prune)
    drainer.every(quality.REFRESH_SECONDS, upkeep.begin)
    drainer.every(drift.PUBLISH_SECONDS, partial(drift.publish, engine))
    drainer.every(job_metrics.PUBLISH_SECONDS, partial(job_metrics.publish, engine))
    drainer.run()
    engine.dispose()


def _configure_logging() -> None:
    """Log as the service does: a line of JSON for each event, or text on a terminal."""
    wanted = os.environ.get("LOG_FORMAT", "auto").lower() or "auto"
    style = ("console" if sys.stdout.isatty() else "json") if wanted == "auto" else wanted
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {
                "json": {
                    "()": "pythonjsonlogger.json.JsonFormatter",
                    "fmt": ["levelname", "name", "message"],
                    "rename_fields": {"levelname": "level", "name": "logger", "exc_info": "stack"},
                    "timestamp": True,
                },
                "console": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"},
            },
            "handlers": {"output": {"()": log_output.OutputHandler, "formatter": style}},
            "root": {"level": "WARNING", "handlers": ["output"]},
        }
    )


if __name__ == "__main__":
    main(sys.argv[1:])
