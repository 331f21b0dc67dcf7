"""Deletes from the ledger: old records, records above the size limit, and predictions to be forgotten.

Each step is a short transaction, so that other writers wait for milliseconds only.
"""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Engine, Select, Table, delete, func, literal, select

from ledger import database, sums, times
from ledger.reader import first_id
from ledger.schema import (
    ACTIONS,
    CORRECTIONS,
    ERRORS,
    FEEDBACK,
    FORGOTTEN,
    LABELS,
    MINUTES,
    PREDICTIONS,
    SEGMENTS,
    WAITING,
)

DAY_US = 24 * 60 * sums.MINUTE_US
STEP_CALLS = 2000
STEP_ROWS = 20_000
"""Maximum predictions and rows that a step deletes; a step with one prediction may delete more rows."""
RECORD_BYTES = 250
FEEDBACK_BYTES = 180
"""Approximate bytes of a prediction without its values, and of a row with feedback, including their indexes."""
SPARE_PAGES = 2048
"""Free pages of 16 kB that SQLite's file keeps for new records; the others are given back."""
_LOCK = 0x7072756E65
"""Key of PostgreSQL's advisory lock: "prune"."""
VACUUMED_PAGES = 250
"""Pages that are given back in one step."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """What one call of ``prune`` did.

    Args:
        predictions: how many were deleted.
        done: True if nothing is left to do; False if the time was up.
    """

    predictions: int
    done: bool


@dataclass(slots=True)
class Forgotten:
    """What one call of ``forget`` did.

    Args:
        deleted: how many predictions were deleted.
        unknown: ids that were not found. They are dropped if they arrive later.
    """

    deleted: int = 0
    unknown: list[str] = field(default_factory=list)


def prune(
    engine: Engine, keep_days: float, keep_bytes: int | None = None, *, now_us: int | None = None, seconds: float = 1.0
) -> Pruned:
    """Delete what is older than ``keep_days``, and the oldest predictions with their feedback above ``keep_bytes``.

    Sums are kept for ``keep_days``, whatever the size; those that are older than a day are added up to hours.

    Args:
        keep_bytes: of predictions and feedback with their indexes, about; None for any number.
        now_us: the time; now, if it is left out.
        seconds: end after about this time.
    """
    deadline = time.monotonic() + seconds
    now_us = times.now_us() if now_us is None else now_us
    with _alone(engine) as alone:
        if not alone:
            return Pruned(0, done=True)
        sums.add_up_hours(engine, now_us)
        oldest_us = now_us - int(keep_days * DAY_US)
        _delete_sums(engine, oldest_us)
        if keep_bytes is not None:
            oldest_us = max(oldest_us, _oldest_of_size(engine, keep_bytes))
        predictions, done = _delete_before(engine, first_id(oldest_us), deadline)
        return Pruned(predictions, done=done and _give_back(engine, deadline))


def forget(engine: Engine, prediction_ids: Iterable[str]) -> Forgotten:
    """Delete predictions with their features, outputs and feedback; those that still come are left out.

    Their share in the sums of their minute remains. In SQLite the bytes are overwritten; PostgreSQL does so
    when it reuses their place, after its next ``VACUUM``.

    Args:
        prediction_ids: each of 32 hexadecimal digits.
    """
    done = Forgotten()
    ids = list(dict.fromkeys(prediction_ids))
    for start in range(0, len(ids), STEP_CALLS):
        some = ids[start : start + STEP_CALLS]
        with database.transaction(engine) as connection:
            if connection.dialect.name == "sqlite":
                connection.exec_driver_sql("PRAGMA secure_delete = ON")
            there = _forget(connection, some)
        done.deleted += len(there)
        done.unknown += [one for one in some if one not in there]
    if engine.dialect.name == "sqlite":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("PRAGMA secure_delete = OFF")
            # The log has the bytes too, until it is written to the file.
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    return done


def _forget(connection: Connection, ids: Sequence[str]) -> set[str]:
    """Delete predictions, and return the ids of those that were there."""
    there = set(connection.scalars(delete(PREDICTIONS).where(PREDICTIONS.c.id.in_(ids)).returning(PREDICTIONS.c.id)))
    labels = FEEDBACK.c
    unlabelled = Counter(
        (row.predicted_us // sums.MINUTE_US, row.model_id)
        for row in connection.execute(
            delete(FEEDBACK).where(labels.prediction_id.in_(ids)).returning(labels.predicted_us, labels.model_id)
        )
    )
    sums.add_labels(connection, {key: -rows for key, rows in unlabelled.items()})
    for table in (CORRECTIONS, WAITING):
        connection.execute(delete(table).where(table.c.prediction_id.in_(ids)))
    marks = [{"prediction_id": one, "time_us": times.now_us()} for one in ids if one not in there]
    if marks:
        connection.execute(database.insert(connection, FORGOTTEN).on_conflict_do_nothing(), marks)
    return there


@contextmanager
def _alone(engine: Engine) -> Iterator[bool]:
    """Whether no other service prunes the same database. SQLite's writers take turns anyway."""
    if engine.dialect.name == "sqlite":
        yield True
        return
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        alone = connection.scalar(select(func.pg_try_advisory_lock(_LOCK)))
        try:
            yield bool(alone)
        finally:
            if alone:
                connection.execute(select(func.pg_advisory_unlock(_LOCK)))


def _delete_sums(engine: Engine, oldest_us: int) -> None:
    minute = oldest_us // sums.MINUTE_US
    # An hour is deleted with the last of its minutes.
    minute -= minute % sums.MINUTES_OF_HOUR
    with database.transaction(engine) as connection:
        for table in (MINUTES, ERRORS, LABELS):
            connection.execute(delete(table).where(table.c.minute < minute))
        # Nobody else forgets a segment whose drainer was killed after it had deleted the file, or whose file was lost.
        # Should the file come back, nothing is counted twice: what was committed of it is as old, and goes again.
        for table in (ACTIONS, FORGOTTEN, SEGMENTS):
            connection.execute(delete(table).where(table.c.time_us < oldest_us))


def _oldest_of_size(engine: Engine, keep_bytes: int) -> int:
    """The time from which on predictions and feedback take no more than ``keep_bytes``; at least a minute is kept."""
    taken: Counter[int] = Counter()
    with engine.connect() as connection:
        for query in (_by_minute(MINUTES, MINUTES.c.bytes), _by_minute(LABELS, LABELS.c.rows * FEEDBACK_BYTES)):
            taken.update({minute: int(count) for minute, count in connection.execute(query)})
    total = 0
    oldest = max(taken, default=0)
    for minute in sorted(taken, reverse=True):
        total += taken[minute]
        if total > keep_bytes:
            break
        oldest = minute
    else:
        return 0
    return oldest * sums.MINUTE_US


def _by_minute(table: Table, taken: Any) -> Select[Any]:
    return select(table.c.minute, func.sum(taken)).group_by(table.c.minute)


def _delete_before(engine: Engine, bound: str, deadline: float) -> tuple[int, bool]:
    """Delete predictions and feedback before an id: how many predictions, and whether it got to the end."""
    predictions = 0
    for table, column in ((PREDICTIONS, "id"), (FEEDBACK, "prediction_id"), (CORRECTIONS, "prediction_id")):
        deleted = -1
        while deleted:
            if time.monotonic() >= deadline:
                return predictions, False
            with database.transaction(engine) as connection:
                deleted = _delete_step(connection, table, table.columns[column], bound)
            if table is PREDICTIONS:
                predictions += deleted
    return predictions, True


def _delete_step(connection: Connection, table: Table, column: Column[str], bound: str) -> int:
    """Delete the oldest rows before ``bound``, as many as one step may, and return their number."""
    rows: ColumnElement[int] = table.c.rows if table is PREDICTIONS else literal(1)
    query = select(column, rows).where(column < bound).order_by(column).limit(STEP_CALLS)
    last, total, calls = None, 0, 0
    for prediction_id, count in connection.execute(query):
        total += count
        if calls and total > STEP_ROWS:
            break
        last, calls = prediction_id, calls + 1
    if last is None:
        return 0
    return connection.execute(delete(table).where(column <= last)).rowcount


def _give_back(engine: Engine, deadline: float) -> bool:
    """Give free pages of SQLite's file back to the file system; PostgreSQL reuses its own. False if time was up."""
    if engine.dialect.name != "sqlite":
        return True
    with engine.connect() as connection:
        raw: Any = connection.connection.driver_connection
        while raw.execute("PRAGMA freelist_count").fetchone()[0] > SPARE_PAGES:
            if time.monotonic() >= deadline:
                return False
            # A script runs to its end; `execute` would give back only the first page.
            raw.executescript(f"PRAGMA incremental_vacuum({VACUUMED_PAGES})")
    return True
