"""Sums by minute, kept in the transaction of what they count: statistics never read the predictions themselves."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Engine, and_, delete, insert, select, update

from ledger import database
from ledger.histogram import add_packed, count_latencies, count_predictions, pack_counts
from ledger.record import ErrorCount
from ledger.schema import ERRORS, LABELS, MINUTES
from ledger.values import columns_of, unpack

MINUTE_US = 60_000_000
"""Microseconds of a minute."""
MINUTES_OF_HOUR = 60
KEPT_MINUTES = 25 * MINUTES_OF_HOUR
"""Minutes that are older than this are added up to whole hours."""


def first_kept_minute(now_us: int) -> int:
    """The first minute with sums of its own; it begins an hour. Older sums hold whole hours."""
    minute = now_us // MINUTE_US - KEPT_MINUTES
    return minute - minute % MINUTES_OF_HOUR


@dataclass(slots=True)
class Predicted:
    """The predictions of a minute, by one model version and protocol.

    Args:
        milliseconds: of each call, ``[R]``.
        rows: of all calls.
        outputs: of each call, as bytes.
        bytes: that they take in the database, about.
    """

    milliseconds: list[float] = field(default_factory=list)
    rows: int = 0
    outputs: list[bytes] = field(default_factory=list)
    bytes: int = 0


PredictedKey = tuple[int, int, str]
"""Minute, model id, protocol."""


def add_predictions(
    connection: Connection,
    predicted: Mapping[PredictedKey, Predicted],
    edges: Mapping[int, Sequence[float] | None],
) -> None:
    """Add predictions to their minutes.

    Args:
        connection: in a transaction that writes.
        predicted: what to add.
        edges: of the bins of predicted values, by model id; None for classes.
    """
    columns = (MINUTES.c.minute, MINUTES.c.model_id, MINUTES.c.protocol)
    # Sorted, so that two writers of the same minutes cannot block each other.
    for key in sorted(predicted):
        row = predicted[key]
        content = b"".join(row.outputs)
        outputs = unpack(content, columns_of(content, row.rows))
        latency = pack_counts(count_latencies(row.milliseconds))
        distribution = pack_counts(count_predictions(outputs, edges[key[1]]))
        names = dict(zip(("minute", "model_id", "protocol"), key, strict=True))
        empty = {"requests": 0, "rows": 0, "bytes": 0, "latency": b"", "distribution": b""}
        connection.execute(database.insert(connection, MINUTES).values(names | empty).on_conflict_do_nothing())
        where = and_(*(column == value for column, value in zip(columns, key, strict=True)))
        former = connection.execute(
            select(MINUTES.c.latency, MINUTES.c.distribution).where(where).with_for_update()
        ).one()
        connection.execute(
            update(MINUTES)
            .where(where)
            .values(
                requests=MINUTES.c.requests + len(row.milliseconds),
                rows=MINUTES.c.rows + row.rows,
                bytes=MINUTES.c.bytes + row.bytes,
                latency=add_packed([former.latency, latency]),
                distribution=add_packed([former.distribution, distribution]),
            )
        )


def add_errors(connection: Connection, errors: Iterable[ErrorCount]) -> None:
    """Add requests that were refused or failed to their minutes. The connection is in a transaction that writes."""
    sums: defaultdict[tuple[int, str, str, int], int] = defaultdict(int)
    for error in errors:
        sums[error.minute, error.model, error.protocol, error.status] += error.requests
    for (minute, model, protocol, status), requests in sorted(sums.items()):
        statement = database.insert(connection, ERRORS).values(
            minute=minute, model=model, protocol=protocol, status=status, requests=requests
        )
        connection.execute(
            statement.on_conflict_do_update(
                index_elements=list(ERRORS.primary_key),
                set_={"requests": ERRORS.c.requests + statement.excluded.requests},
            )
        )


def add_labels(connection: Connection, labels: Mapping[tuple[int, int], int]) -> None:
    """Add rows that got feedback for the first time; negative for rows whose feedback goes.

    Args:
        connection: in the transaction that writes the feedback.
        labels: rows by the minute of the prediction and the model id.
    """
    for (minute, model_id), rows in sorted(labels.items()):
        statement = database.insert(connection, LABELS).values(minute=minute, model_id=model_id, rows=rows)
        connection.execute(
            statement.on_conflict_do_update(
                index_elements=list(LABELS.primary_key),
                set_={"rows": LABELS.c.rows + statement.excluded.rows},
            )
        )


def add_up_hours(engine: Engine, now_us: int) -> None:
    """Add the minutes that are older than a day up to hours, a short transaction for each hour."""
    kept = first_kept_minute(now_us)
    hours: set[int] = set()
    with engine.connect() as connection:
        for table in (MINUTES, ERRORS, LABELS):
            minute = table.c.minute
            within = minute % MINUTES_OF_HOUR
            hours.update(connection.scalars(select(minute - within).where(minute < kept, within != 0).distinct()))
    for hour in sorted(hours):
        with database.transaction(engine) as connection:
            _add_up(connection, hour)


def _add_up(connection: Connection, hour: int) -> None:
    for table in (MINUTES, ERRORS, LABELS):
        this_hour = table.c.minute.between(hour, hour + MINUTES_OF_HOUR - 1)
        rows = connection.execute(select(table).where(this_hour).order_by(*table.primary_key).with_for_update()).all()
        keys = [column.name for column in table.primary_key if column is not table.c.minute]
        by_key: defaultdict[tuple[Any, ...], list[Any]] = defaultdict(list)
        for row in rows:
            by_key[tuple(getattr(row, name) for name in keys)].append(row)
        connection.execute(delete(table).where(this_hour))
        for key, some in by_key.items():
            values = dict(zip(keys, key, strict=True))
            for column in table.columns:
                if not column.primary_key:
                    values[column.name] = _total([getattr(row, column.name) for row in some])
            connection.execute(insert(table).values(minute=hour, **values))


def _total(values: Sequence[Any]) -> int | bytes:
    return add_packed(values) if isinstance(values[0], bytes) else sum(values)
