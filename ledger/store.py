"""Writing to the database: records in bulk, by the driver's own fastest path."""

import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from sqlalchemy import Connection, Engine, delete, select

from contract import DATASETS
from contract.dataset import Task
from ledger import database, retention, sums
from ledger.histogram import bin_edges
from ledger.record import ErrorCount, Record
from ledger.retention import RECORD_BYTES, Forgotten, Pruned
from ledger.schema import FORGOTTEN, MODELS, PREDICTIONS, SEGMENTS
from ledger.times import now_us
from ledger.values import describe

COLUMNS = ", ".join(column.name for column in PREDICTIONS.columns)
INSERT = f"INSERT INTO predictions ({COLUMNS}) VALUES ({', '.join('?' * len(PREDICTIONS.columns))})"  # noqa: S608
COPY = f"COPY predictions ({COLUMNS}) FROM STDIN (FORMAT BINARY)"
# A uuid has the bytes of a bytea, so no object has to be made for each.
COPY_TYPES = ("bytea", "int8", "int4", "text", "text", "int4", "float8", "bytea", "bytea")
LOOKED_UP = 500
"""Ids in one query."""


@dataclass(frozen=True, slots=True)
class _Model:
    """A version of a model, as the database knows it."""

    id: int
    edges: list[float] | None


class Store:
    """The writer of the ledger. One thread uses it at a time; other processes may write too.

    Args:
        engine: of ``database.connect``, after ``database.migrate``.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._models: dict[tuple[str, str], _Model] = {}

    def insert(self, segment: str, position: int, records: Sequence[Record], errors: Sequence[ErrorCount]) -> None:
        """Write what was read from a segment of a spool up to ``position``: all of it, or nothing.

        Nothing is written if the segment is committed up to there already. A prediction whose id is there is left out.

        Args:
            segment: a name that no other spool has.
            position: bytes of the segment that are read, with these records.
            records: the predictions that were read since the last commit.
            errors: the counts that were read since the last commit.
        """
        for record in records:
            self._know_model(record)
        with database.transaction(self.engine) as connection:
            if not _advance(connection, segment, position):
                return
            written = self._write(connection, _without_forgotten(connection, records))
            # Do this last: it locks the minute, to which several drainers may add.
            self._add_sums(connection, written)
            sums.add_errors(connection, errors)

    def position(self, segment: str) -> int:
        """The bytes of a segment that are committed; 0 for one that is not known."""
        with self.engine.connect() as connection:
            found = connection.scalar(select(SEGMENTS.c.position).where(SEGMENTS.c.name == segment))
        return found or 0

    def forget_segment(self, segment: str) -> None:
        """Forget a segment, after its file is deleted."""
        with database.transaction(self.engine) as connection:
            connection.execute(delete(SEGMENTS).where(SEGMENTS.c.name == segment))

    def prune(self, keep_days: float, keep_bytes: int | None = None, *, seconds: float = 1.0) -> Pruned:
        """Delete what is too old or too much, in short transactions, for about ``seconds``: see ``retention.prune``."""
        return retention.prune(self.engine, keep_days, keep_bytes, seconds=seconds)

    def forget(self, prediction_ids: Iterable[str]) -> Forgotten:
        """Delete predictions with all that belongs to them, see ``retention.forget``."""
        return retention.forget(self.engine, prediction_ids)

    def _know_model(self, record: Record) -> None:
        """Make the row of a model version at its first record, in a transaction of its own."""
        if (record.model, record.version) in self._models:
            return
        where = (MODELS.c.model == record.model) & (MODELS.c.version == record.version)
        with database.transaction(self.engine) as connection:
            connection.execute(database.insert(connection, MODELS).values(_described(record)).on_conflict_do_nothing())
            row = connection.execute(select(MODELS.c.id, MODELS.c.bins).where(where)).one()
        edges = None if row.bins is None else json.loads(row.bins)
        self._models[record.model, record.version] = _Model(row.id, edges)

    def _write(self, connection: Connection, records: Sequence[Record]) -> Sequence[Record]:
        """Write the records that are not there yet, and return them."""
        try:
            with connection.begin_nested():
                self._bulk_insert(connection, records)
        except (sqlite3.IntegrityError, psycopg.errors.UniqueViolation):
            # The segment was read again because its position was lost. That is rare, so nothing is looked up before.
            records = list(_new(connection, records))
            self._bulk_insert(connection, records)
        return records

    def _bulk_insert(self, connection: Connection, records: Iterable[Record]) -> None:
        raw: Any = connection.connection.driver_connection
        rows = map(self._row, records)
        if connection.dialect.name == "sqlite":
            raw.executemany(INSERT, rows)
            return
        with raw.cursor() as cursor, cursor.copy(COPY) as copy:
            copy.set_types(COPY_TYPES)
            for row in rows:
                copy.write_row(row)

    def _row(self, record: Record) -> tuple[Any, ...]:
        """A record in the order of the table's columns."""
        return (
            bytes.fromhex(record.id),
            record.time_us,
            self._models[record.model, record.version].id,
            record.request_id,
            record.protocol,
            record.count,
            record.milliseconds,
            record.feature_bytes,
            record.output_bytes,
        )

    def _add_sums(self, connection: Connection, records: Iterable[Record]) -> None:
        predicted: defaultdict[sums.PredictedKey, sums.Predicted] = defaultdict(sums.Predicted)
        for record in records:
            model_id = self._models[record.model, record.version].id
            minute = predicted[record.time_us // sums.MINUTE_US, model_id, record.protocol]
            minute.milliseconds.append(record.milliseconds)
            minute.rows += record.count
            minute.outputs.append(record.output_bytes)
            minute.bytes += RECORD_BYTES + len(record.feature_bytes or b"") + len(record.output_bytes)
        sums.add_predictions(connection, predicted, {model.id: model.edges for model in self._models.values()})


def _described(record: Record) -> dict[str, Any]:
    """The row of the model version that answered this record. Names come from the contract.

    What was recorded by an older contract, whose columns are others, has their numbers as names.
    """
    dataset = DATASETS.get(record.model)
    outputs, rows = record.outputs.shape[1], record.rows
    names: Sequence[str | dict[str, Any]] = [describe(feature) for feature in dataset.features] if dataset else ()
    if rows is not None and rows.shape[1] != len(names):
        names = [str(number) for number in range(rows.shape[1])]
    target = dataset.target if dataset else None
    classes: Sequence[str] = target.classes if target else ()
    if outputs > 1 and len(classes) != outputs:
        classes = [str(number) for number in range(outputs)]
    of_classes = outputs > 1 or (dataset is not None and dataset.task is Task.CLASSIFICATION)
    return {
        "model": record.model,
        "version": record.version,
        "features": json.dumps(list(names)),
        "outputs": json.dumps(list(classes) if of_classes else [target.name if target else "prediction"]),
        "bins": None if of_classes else json.dumps(bin_edges(target)),
    }


def _advance(connection: Connection, segment: str, position: int) -> bool:
    """Whether this transaction is the one that commits the segment up to ``position``; it locks the row."""
    statement = database.insert(connection, SEGMENTS).values(name=segment, position=position, time_us=now_us())
    new = statement.excluded
    statement = statement.on_conflict_do_update(
        index_elements=[SEGMENTS.c.name],
        set_={"position": new.position, "time_us": new.time_us},
        where=SEGMENTS.c.position < new.position,
    )
    return connection.execute(statement.returning(SEGMENTS.c.position)).first() is not None


def _without_forgotten(connection: Connection, records: Sequence[Record]) -> Sequence[Record]:
    """The records without those that were forgotten before they arrived."""
    if not records:
        return records
    ids = [record.id for record in records]
    ids_between = FORGOTTEN.c.prediction_id.between(min(ids), max(ids))
    forgotten = set(connection.scalars(select(FORGOTTEN.c.prediction_id).where(ids_between)))
    return [record for record in records if record.id not in forgotten] if forgotten else records


def _new(connection: Connection, records: Sequence[Record]) -> Iterator[Record]:
    """The records whose ids are not in the database, each id once."""
    by_id = {record.id: record for record in reversed(records)}
    ids = sorted(by_id)
    for start in range(0, len(ids), LOOKED_UP):
        some = ids[start : start + LOOKED_UP]
        there = set(connection.scalars(select(PREDICTIONS.c.id).where(PREDICTIONS.c.id.in_(some))))
        yield from (by_id[one] for one in some if one not in there)
