"""Live quality: the errors of predictions whose truth is known, by model, version and window of time.

A window holds what was *predicted* in it and is labelled by now. The drainer computes it into the table ``quality``;
the service reads it from there.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

from sqlalchemy import Connection, Engine, Float, bindparam, case, func, or_, select, update
from sqlalchemy.sql.elements import ColumnElement

from ledger import database
from ledger.schema import FEEDBACK, MODELS, QUALITY
from ledger.times import now_us

WINDOWS = {"1h": 3600, "24h": 24 * 3600, "7d": 7 * 24 * 3600}
"""Seconds of each window."""
REFRESH_SECONDS = 30
"""Seconds between two computations while feedback arrives."""
STALE_SECONDS = 300
"""Seconds between two computations without new feedback: rows leave the windows."""
_SECOND = 1_000_000
_LEAST_PROBABILITY = 1e-15
"""As in earlier versions of scikit-learn: a class with probability 0 costs 34.5 nats, not infinity."""


@dataclass(frozen=True)
class Window:
    """How good the predictions of one window are.

    Args:
        rows: labelled rows in it.
        newest_us: when the newest of them was predicted, in microseconds since 1970, UTC.
        metrics: ``rmse``, ``mae``, ``r2``; or ``accuracy``, ``balanced_accuracy`` and ``log_loss`` (nats). ``r2`` is
            left out where all truths are equal. Empty below the minimum of rows.
        recall: by class name, those that occur; empty for regression.
        class_rows: labelled rows by class name; empty for regression.
    """

    rows: int
    newest_us: int
    metrics: Mapping[str, float]
    recall: Mapping[str, float]
    class_rows: Mapping[str, int]


@dataclass(frozen=True)
class Quality:
    """Live quality of one version: by name, the windows that have labelled rows."""

    model: str
    version: str
    computed_us: int
    windows: Mapping[str, Window]


def refresh(engine: Engine) -> int:
    """Compute what is not up to date; return the number of versions computed.

    If several drainers share a database, one of them computes and all of them read.

    Raises:
        sqlalchemy.exc.DBAPIError: the database is away.
    """
    now = now_us()
    old = or_(
        QUALITY.c.computed_us.is_(None),
        QUALITY.c.computed_us < now - STALE_SECONDS * _SECOND,
        # A transaction becomes visible after the time it has written: look again for a while.
        (QUALITY.c.feedback_us > QUALITY.c.computed_us - 2 * REFRESH_SECONDS * _SECOND)
        & (QUALITY.c.computed_us < now - REFRESH_SECONDS * _SECOND * 0.9),
    )
    with engine.connect() as connection:
        query = select(QUALITY.c.model_id, MODELS.c.outputs)
        wanted = connection.execute(query.join(MODELS, MODELS.c.id == QUALITY.c.model_id).where(old)).all()
    for model_id, outputs in wanted:
        with engine.connect() as connection:
            names = json.loads(outputs)
            compute = _regression if len(names) == 1 else _classification
            windows = compute(connection, model_id, names, now)
        summary = json.dumps({name: asdict(window) for name, window in windows.items()})
        with database.transaction(engine) as connection:
            this = update(QUALITY).where(QUALITY.c.model_id == model_id)
            connection.execute(this.values(computed_us=now, summary=summary))
    return len(wanted)


def read(engine: Engine, minimum_rows: int) -> list[Quality]:
    """The live quality of every version that has labelled rows of the last 7 days, as it was computed last.

    Args:
        engine: of the ledger's database.
        minimum_rows: a window with fewer labelled rows has no metrics, only their number.

    Raises:
        sqlalchemy.exc.DBAPIError: the database is away.
    """
    query = select(MODELS.c.model, MODELS.c.version, QUALITY.c.computed_us, QUALITY.c.summary)
    with engine.connect() as connection:
        rows = connection.execute(
            query.join(MODELS, MODELS.c.id == QUALITY.c.model_id)
            .where(QUALITY.c.summary.is_not(None))
            .order_by(MODELS.c.model, MODELS.c.version)
        ).all()
    found = []
    for model, version, computed_us, summary in rows:
        windows = {
            name: _with_enough_rows(Window(**window), minimum_rows) for name, window in json.loads(summary).items()
        }
        if windows:
            found.append(Quality(model, version, computed_us, windows))
    return found


def _with_enough_rows(window: Window, minimum_rows: int) -> Window:
    if window.rows >= minimum_rows:
        return window
    return Window(window.rows, window.newest_us, {}, {}, window.class_rows)


def _regression(connection: Connection, model_id: int, _: Sequence[str], now: int) -> dict[str, Window]:
    actual, error = FEEDBACK.c.actual, FEEDBACK.c.predicted - FEEDBACK.c.actual
    # Sums of squares around one of the values: around 0, large values would lose the digits of their differences.
    origin = connection.execute(
        select(actual).where(_of_model(model_id, now - max(WINDOWS.values()) * _SECOND)).limit(1)
    ).scalar()
    shifted = actual - bindparam("origin", origin, Float)
    sums = _sums(connection, model_id, now, (error * error, func.abs(error), shifted, shifted * shifted))
    windows = {}
    for name, inside in sums.items():
        squared, absolute, total, squares = (math.fsum(part.sums[index] for part in inside) for index in range(4))
        rows = sum(part.rows for part in inside)
        metrics = {"rmse": math.sqrt(squared / rows), "mae": absolute / rows}
        spread = squares - total * total / rows
        if spread > 0:
            metrics["r2"] = 1 - squared / spread
        windows[name] = Window(rows, max(part.newest_us for part in inside), metrics, {}, {})
    return windows


def _classification(connection: Connection, model_id: int, classes: Sequence[str], now: int) -> dict[str, Window]:
    right = case((FEEDBACK.c.predicted == FEEDBACK.c.actual, 1.0), else_=0.0)
    probability = FEEDBACK.c.probability
    loss = -func.ln(case((probability < _LEAST_PROBABILITY, _LEAST_PROBABILITY), else_=probability))
    windows = {}
    for name, inside in _sums(connection, model_id, now, (right, loss), by=FEEDBACK.c.actual).items():
        class_rows: dict[str, int] = {}
        class_right: dict[str, float] = {}
        for part in inside:
            label = classes[int(part.sums[-1])]
            class_rows[label] = class_rows.get(label, 0) + part.rows
            class_right[label] = class_right.get(label, 0) + part.sums[0]
        rows = sum(class_rows.values())
        recall = {label: class_right[label] / class_rows[label] for label in classes if label in class_rows}
        metrics = {
            "accuracy": sum(class_right.values()) / rows,
            "balanced_accuracy": sum(recall.values()) / len(recall),
            "log_loss": math.fsum(part.sums[1] for part in inside) / rows,
        }
        windows[name] = Window(rows, max(part.newest_us for part in inside), metrics, recall, class_rows)
    return windows


class _Part(NamedTuple):
    """Sums over the rows of a window that are in no smaller window, for one group; the last sum is the group."""

    rows: int
    newest_us: int
    sums: Sequence[float]


def _sums(
    connection: Connection,
    model_id: int,
    now: int,
    terms: Sequence[ColumnElement[float]],
    by: ColumnElement[float] | None = None,
) -> dict[str, list[_Part]]:
    """The parts of each window that has rows. Each row is read once: a larger window is the sum of its parts."""
    group = [] if by is None else [by]
    query = select(func.count(), func.max(FEEDBACK.c.predicted_us), *map(func.sum, terms), *group).group_by(*group)
    windows: dict[str, list[_Part]] = {}
    inside: list[_Part] = []
    until = None
    for name, seconds in WINDOWS.items():
        since = now - seconds * _SECOND
        found = connection.execute(query.where(_of_model(model_id, since, until))).all()
        inside = inside + [_Part(row[0], row[1], row[2:]) for row in found if row[0]]
        if inside:
            windows[name] = inside
        until = since
    return windows


def _of_model(model_id: int, since: int, until: int | None = None) -> ColumnElement[bool]:
    start = (FEEDBACK.c.model_id == model_id) & (FEEDBACK.c.predicted_us >= since)
    return start if until is None else start & (FEEDBACK.c.predicted_us < until)
