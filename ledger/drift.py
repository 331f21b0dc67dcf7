"""Records what the search for drift has found: the table ``drift``, and its newest results as metrics.

The process that searches may have ended before its metrics are scraped. So the drainer, which is part of the service,
publishes the results of the table.
"""

import json
from dataclasses import dataclass

from prometheus_client import Gauge
from sqlalchemy import Engine, delete, func, select

from contract import DATASETS
from ledger import database
from ledger.schema import DRIFT, MODELS
from ledger.windows import RecentRows

KEPT_RESULTS = 1000
"""Results that are kept of each model version; older ones are deleted."""

PUBLISH_SECONDS = 15
"""Seconds between two reads of the table by the drainer: as often as Prometheus scrapes."""
NO_FEATURES = ("prediction", "refused")
"""Names of changes that belong to no feature; see ``model.drift``."""

_LABELS = ("model", "feature")
EFFECT = Gauge(
    "ml_drift_effect",
    "Difference from training in units of what counts as large, as it was found last; 'prediction' and 'refused' too.",
    _LABELS,
    multiprocess_mode="livemostrecent",
)
DETECTED = Gauge(
    "ml_drift_detected",
    "1 if the difference from training is certain and large, as it was found last.",
    _LABELS,
    multiprocess_mode="livemostrecent",
)
ROWS = Gauge("ml_drift_rows", "Rows that were compared last.", ["model"], multiprocess_mode="livemostrecent")
CHECKED = Gauge(
    "ml_drift_checked_timestamp_seconds",
    "When drift was last searched for.",
    ["model"],
    multiprocess_mode="livemostrecent",
)


@dataclass(frozen=True, slots=True)
class DriftResult:
    """A result. The window is from ``since_us``, before ``until_us``; ``result`` is a ``model.drift.Drift`` as JSON."""

    time_us: int
    model: str
    version: str
    since_us: int
    until_us: int
    rows: int
    verdict: str
    result: str


def write(engine: Engine, window: RecentRows, verdict: str, result: str, *, time_us: int) -> None:
    """Put a result on record.

    Args:
        window: whose rows were compared.
        verdict: of ``model.drift.Drift``.
        result: the whole, as JSON.
        time_us: now.

    Raises:
        sqlalchemy.exc.DBAPIError: the database is away.
    """
    model_id = window.model.id
    with database.transaction(engine) as connection:
        connection.execute(
            DRIFT.insert().values(
                time_us=time_us,
                model_id=model_id,
                since_us=window.since_us,
                until_us=window.until_us,
                rows=len(window.time_us),
                verdict=verdict,
                result=result,
            )
        )
        of_model = select(DRIFT.c.id).where(DRIFT.c.model_id == model_id).order_by(DRIFT.c.id.desc())
        oldest = connection.scalar(of_model.offset(KEPT_RESULTS).limit(1))
        if oldest is not None:
            connection.execute(delete(DRIFT).where(DRIFT.c.model_id == model_id, DRIFT.c.id <= oldest))


def newest(engine: Engine) -> list[DriftResult]:
    """The newest result of each model that has one, in order of their names.

    Raises:
        sqlalchemy.exc.DBAPIError: the database is away.
    """
    last = select(func.max(DRIFT.c.id).label("id")).join_from(DRIFT, MODELS).group_by(MODELS.c.model).subquery()
    columns = (DRIFT.c.since_us, DRIFT.c.until_us, DRIFT.c.rows, DRIFT.c.verdict, DRIFT.c.result)
    query = (
        select(DRIFT.c.time_us, MODELS.c.model, MODELS.c.version, *columns)
        .join_from(DRIFT, MODELS)
        .join(last, last.c.id == DRIFT.c.id)
        .order_by(MODELS.c.model)
    )
    with engine.connect() as connection:
        return [DriftResult(*row) for row in connection.execute(query)]


def publish(engine: Engine) -> None:
    """Set the metrics to the newest result of each model.

    Raises:
        sqlalchemy.exc.DBAPIError: the database is away.
    """
    for found in newest(engine):
        dataset = DATASETS.get(found.model)
        if dataset is None:
            continue
        changes = {change["name"]: change for change in json.loads(found.result)["changes"]}
        # Names come from the contract alone: there are no more series than it has features.
        for name in (*dataset.feature_names, *NO_FEATURES):
            # With too few rows, no drift is reported.
            change = changes.get(name, {"effect": float("nan"), "drift": False})
            EFFECT.labels(found.model, name).set(change["effect"])
            DETECTED.labels(found.model, name).set(change["drift"])
        ROWS.labels(found.model).set(found.rows)
        CHECKED.labels(found.model).set(found.time_us / 1e6)
