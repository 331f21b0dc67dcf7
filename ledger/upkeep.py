"""The drainer's other tasks: applying feedback that waited, computing live quality, deleting old records."""

import logging
import threading
import time
from collections.abc import Callable, Iterable

from prometheus_client import Counter, Gauge
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from ledger import feedback, quality
from ledger.quality import Quality

logger = logging.getLogger(__name__)

WITHDRAWN = float("nan")
"""Value of a gauge that no longer applies; a scrape leaves it out."""

MAXIMUM_SHARE = 0.05
"""Maximum share of a drainer's time for live quality: with many millions of labelled rows it is computed less often."""

APPLIED = Counter("ml_ledger_waiting_feedback", "Entries of feedback that waited for their prediction.", ["outcome"])
LIVE_METRIC = Gauge(
    "ml_model_live_metric",
    "A metric of a model's predictions in a window, as far as the truth is known.",
    ["model", "version", "window", "metric"],
    multiprocess_mode="livemostrecent",
)
LIVE_RECALL = Gauge(
    "ml_model_live_recall",
    "Share of the rows of a class that were predicted to be of it, in a window.",
    ["model", "version", "window", "label"],
    multiprocess_mode="livemostrecent",
)
LABELLED_ROWS = Gauge(
    "ml_model_labelled_rows",
    "Predicted rows of a window whose truth is known.",
    ["model", "version", "window"],
    multiprocess_mode="livemostrecent",
)
NEWEST_LABELLED = Gauge(
    "ml_model_newest_labelled_timestamp_seconds",
    "Unix time of the newest prediction whose truth is known.",
    ["model", "version"],
    multiprocess_mode="livemostrecent",
)


class Upkeep:
    """One round at a time, in a thread: to compute live quality over millions of rows takes seconds.

    Args:
        engine: of the ledger's database.
        minimum_rows: live quality of fewer labelled rows is not shown.
        prune: deletes what is too old or too much.
    """

    def __init__(self, engine: Engine, minimum_rows: int, prune: Callable[[], object] = lambda: None) -> None:
        self._engine = engine
        self._prune = prune
        self._minimum_rows = minimum_rows
        self._thread: threading.Thread | None = None
        self._shown: set[Gauge] = set()
        self._compute_at = 0.0
        for outcome in ("applied", "refused", "expired"):
            APPLIED.labels(outcome)

    def begin(self) -> None:
        """Begin a round, unless one is going on."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="upkeep", daemon=True)
            self._thread.start()

    def round(self) -> None:
        """Apply feedback that waited, compute what has changed and show it as metrics; delete what is too old.

        Raises:
            sqlalchemy.exc.DBAPIError: the database is away.
        """
        applied = feedback.apply_waiting(self._engine)
        APPLIED.labels("applied").inc(applied.applied)
        APPLIED.labels("refused").inc(len(applied.refused))
        APPLIED.labels("expired").inc(applied.expired)
        for reason in applied.refused:
            logger.warning("feedback that waited is refused", extra={"reason": reason})
        if applied.expired:
            logger.warning("no prediction came for feedback that waited", extra={"entries": applied.expired})
        if time.monotonic() >= self._compute_at:
            started = time.monotonic()
            quality.refresh(self._engine)
            self._compute_at = time.monotonic() + (time.monotonic() - started) / MAXIMUM_SHARE
        self._show(quality.read(self._engine, self._minimum_rows))
        self._prune()

    def _run(self) -> None:
        try:
            self.round()
        except SQLAlchemyError as error:
            # The drainer reports it if it lasts; the next round tries again.
            logger.warning("live quality was not computed", extra={"error": str(getattr(error, "orig", None) or error)})
        except Exception:
            logger.exception("live quality was not computed")

    def _show(self, found: Iterable[Quality]) -> None:
        shown = set()
        for one in found:
            names = (one.model, one.version)
            newest = NEWEST_LABELLED.labels(*names)
            newest.set(max(window.newest_us for window in one.windows.values()) / 1e6)
            shown.add(newest)
            for name, window in one.windows.items():
                values: dict[Gauge, float] = {LABELLED_ROWS.labels(*names, name): window.rows}
                values |= {LIVE_METRIC.labels(*names, name, metric): value for metric, value in window.metrics.items()}
                values |= {LIVE_RECALL.labels(*names, name, label): value for label, value in window.recall.items()}
                for gauge, value in values.items():
                    gauge.set(value)
                shown.update(values)
        for gauge in self._shown - shown:
            gauge.set(WITHDRAWN)
        self._shown = shown
