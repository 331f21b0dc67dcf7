"""The ledger's part in a worker: answered predictions and counts of errors go into the spool, from a thread."""

import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue

from ledger import spool
from ledger.record import ErrorCount
from ledger.supervisor import SERVER_LOCK, Supervisor
from serving.prediction import Observers, Prediction
from serving.settings import Settings
from serving.telemetry import directory, series
from serving.telemetry.call import FAILURES, CallProtocol

logger = logging.getLogger(__name__)

TEND_SECONDS = 1.0
"""Seconds between two checks of the segment and the drainer."""
FINISH_SECONDS = 10.0
"""Longest time that the stop of a server waits for its drainer."""
MOST_WAITING = 64
"""Maximum batches that wait in memory while a disk hangs, about 6 seconds of them; later ones are not recorded."""

Failed = Mapping[tuple[str, CallProtocol, int], int]


class Recorder:
    """An observer that writes predictions into the spool, and keeps a drainer running.

    The event loop only hands them over; a thread encodes and writes them, and looks after the drainer.

    Args:
        settings: where the spool is, and what is kept.
    """

    def __init__(self, settings: Settings) -> None:
        self._writer = spool.SpoolWriter(settings.spool, settings.LEDGER_SPOOL_BYTES)
        self._supervisor = Supervisor(
            settings.spool, Path(os.environ[directory.VARIABLE]), settings.drainer_environment()
        )
        self._keep_features = settings.LEDGER_FEATURES == "on"
        self._queue: SimpleQueue[Sequence[Prediction] | Failed | None] = SimpleQueue()
        # Each writer belongs to one thread: the event loop's, and ours.
        self._refused = 0
        self._failed = 0
        self._counted_unwritten = 0
        self._counted_dropped = 0
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)

    def start(self, observers: Observers) -> None:
        """Record from now on."""
        # Made by the server's first worker, and never written to.
        lock = Path(os.environ[directory.VARIABLE]) / SERVER_LOCK
        series.LEDGER_SINCE.set(lock.stat().st_mtime if lock.exists() else time.time())
        self._thread.start()
        observers.add(self)
        FAILURES.listeners.append(self.failed)

    def stop(self) -> None:
        """Write what was handed over; if this is the server's last worker, wait until the spool is drained."""
        if self._thread.is_alive():
            FAILURES.listeners.remove(self.failed)
            self._queue.put(None)
            self._thread.join()

    def predicted(self, predictions: Sequence[Prediction]) -> None:
        """Hand predictions to the thread."""
        if self._queue.qsize() >= MOST_WAITING:
            self._refused += len(predictions)
        else:
            self._queue.put(predictions)

    def failed(self, counts: Failed) -> None:
        """Hand counts of refused and failed requests to the thread."""
        self._queue.put(counts)

    def _run(self) -> None:
        due = 0.0
        while True:
            now = time.monotonic()
            if now >= due:
                due = now + TEND_SECONDS
                self._writer.tend()
                self._supervisor.tend()
                self._count()
            try:
                given = self._queue.get(timeout=max(due - time.monotonic(), 0))
            except Empty:
                continue
            if given is None:
                break
            self._write(given)
        self._writer.finish()
        self._count()
        self._supervisor.finish(FINISH_SECONDS)

    def _write(self, given: Sequence[Prediction] | Failed) -> None:
        try:
            if isinstance(given, Mapping):
                minute = int(time.time()) // 60
                records = [spool.encode_errors(ErrorCount(minute, *key, count)) for key, count in given.items()]
            else:
                records = [self._encoded(prediction) for prediction in given]
        except Exception:
            # A bug in one batch must not end the recording of all that follow.
            logger.exception("predictions were not recorded", extra={"lost": len(given)})
            self._failed += len(given)
            return
        self._writer.append(records)

    def _encoded(self, prediction: Prediction) -> bytes:
        call = prediction.call
        return spool.encode(
            prediction.id,
            call.request_id,
            time_us(prediction.id),
            prediction.model,
            prediction.version,
            call.endpoint.protocol,
            prediction.seconds * 1000,
            prediction.rows if self._keep_features else None,
            prediction.outputs,
        )

    def _count(self) -> None:
        """Write the counters that have changed."""
        unwritten, dropped = self._writer.unwritten + self._refused + self._failed, self._writer.dropped
        series.LEDGER_UNWRITTEN.inc(unwritten - self._counted_unwritten)
        series.LEDGER_DROPPED.inc(dropped - self._counted_dropped)
        self._counted_unwritten, self._counted_dropped = unwritten, dropped


def time_us(prediction_id: str) -> int:
    """The time in a prediction id, in microseconds since 1970."""
    head = int(prediction_id[:16], 16)
    return (head >> 16) * 1000 + (head & 0xFFF) * 1000 // 4096
