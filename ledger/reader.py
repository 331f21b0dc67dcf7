"""Reading the ledger: recent predictions, statistics of a window, rows for drift, retraining and export.

Every query follows an index, whatever the size of the database.
"""

import base64
import binascii
import heapq
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Engine,
    Integer,
    LargeBinary,
    Row,
    and_,
    any_,
    func,
    literal,
    select,
)
from sqlalchemy.dialects import postgresql

from contract.dataset import Dataset
from contract.errors import ErrorDetail, InvalidInput
from contract.feature import Feature
from contract.table import FloatMatrix
from ledger import times
from ledger.histogram import LATENCY_BUCKETS, latency_quantiles, sum_counts
from ledger.schema import ERRORS, FEEDBACK, LABELS, MINUTES, MODELS, PREDICTIONS
from ledger.sums import MINUTE_US, MINUTES_OF_HOUR, first_kept_minute
from ledger.values import columns_of, describe, described, unpack

MAXIMUM_LIMIT = 1000
"""Maximum predictions of one page."""
SHOWN_ROWS = 10
"""Rows that a page shows of each prediction: the first ones."""
CHUNK_CALLS = 1000
CHUNK_ROWS = 20_000
"""Maximum calls and rows in a chunk of ``rows_for``; a chunk of one call may have more rows."""
QUANTILES = (0.5, 0.95, 0.99)

_ID = re.compile(r"[0-9a-f]{32}").fullmatch
_FIRST_ID, _LAST_ID = "0" * 32, "f" * 32


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A version of a model that has predicted.

    Args:
        id: in the database.
        features: their names, in order.
        kinds: what they are, in order.
        outputs: the names of the classes, in order; for regression, the name of the target alone.
        edges: of the bins of predicted values; None for classes.
    """

    id: int
    model: str
    version: str
    features: tuple[str, ...]
    outputs: tuple[str, ...]
    edges: tuple[float, ...] | None
    kinds: tuple[Feature, ...]

    def has_features_of(self, dataset: Dataset) -> bool:
        """Whether its values are encoded as those of a dataset are now."""
        return [describe(feature) for feature in self.kinds] == [describe(feature) for feature in dataset.features]


@dataclass(frozen=True, slots=True, eq=False)
class Logged:
    """A prediction of the ledger.

    Args:
        time_us: when it was answered, in microseconds since 1970, UTC.
        rows: N, the rows of the call.
        features: ``[S, F]``, of the first S rows; None where they are not kept.
        outputs: ``[S, K]``: the prediction (K = 1), or the probability of each class.
        actuals: what came true, by row, of the first S rows: the value, or the index of the class.
    """

    id: str
    time_us: int
    request_id: str
    model: ModelVersion
    protocol: str
    milliseconds: float
    rows: int
    features: FloatMatrix | None
    outputs: FloatMatrix
    actuals: Mapping[int, float]


@dataclass(frozen=True, slots=True)
class Page:
    """Predictions, newest first, and the cursor of the page that follows; None on the last."""

    predictions: list[Logged]
    cursor: str | None


@dataclass(frozen=True, slots=True)
class Bin:
    """How many rows were predicted to be of a class, or in ``[low, high)``; None where a bin is open.

    Args:
        label: the class; None for regression.
    """

    label: str | None
    low: float | None
    high: float | None
    rows: int


@dataclass(frozen=True, slots=True)
class VersionStats:
    """What a version of a model has done in a window.

    Args:
        latency_ms: quantiles of the calls' milliseconds, by share.
        distribution: classes in order; or bins in order, from the first to the last that has rows.
        labelled_rows: rows whose true value is known.
    """

    model: str
    version: str
    requests: int
    rows: int
    latency_ms: dict[float, float]
    distribution: list[Bin]
    labelled_rows: int

    @property
    def feedback_share(self) -> float:
        """Share of the rows whose true value is known."""
        return self.labelled_rows / self.rows


@dataclass(frozen=True, slots=True)
class ErrorStats:
    """Requests that were refused or failed; the model is "" where they are about none."""

    model: str
    protocol: str
    status: int
    requests: int


@dataclass(frozen=True, slots=True)
class Stats:
    """Statistics of a window, whose ends are those of whole minutes, or of whole hours if they are days ago."""

    since_us: int
    until_us: int
    versions: list[VersionStats]
    errors: list[ErrorStats]


@dataclass(frozen=True, slots=True)
class Slot:
    """The predictions of a model in a part of a window, which begins at ``start_us``."""

    start_us: int
    model: str
    requests: int
    rows: int


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Rows of one model version, in order of time.

    Args:
        ids, index: the prediction and the row's number in it, ``[N]``.
        request_ids, protocols: of the prediction, ``[N]``.
        time_us: when they were answered, ``[N]``.
        features: ``[N, F]``; NaN where they are not kept.
        outputs: ``[N, K]``.
        actuals: ``[N]``: the value or the index of the class that came true; NaN where it is not known.
    """

    model: ModelVersion
    ids: list[str]
    index: NDArray[np.int64]
    request_ids: list[str]
    protocols: list[str]
    time_us: NDArray[np.int64]
    features: FloatMatrix
    outputs: FloatMatrix
    actuals: FloatMatrix

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, rows: slice) -> "Rows":
        """Some of the rows, in the same order."""
        return Rows(
            self.model,
            self.ids[rows],
            self.index[rows],
            self.request_ids[rows],
            self.protocols[rows],
            self.time_us[rows],
            self.features[rows],
            self.outputs[rows],
            self.actuals[rows],
        )


class Reader:
    """Queries of the ledger. Threads may share it.

    Args:
        engine: of ``database.connect``.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def models(self, model: str | None = None, version: str | None = None) -> list[ModelVersion]:
        """The model versions that have predicted, or those of this name and version, in order of their first record.

        Raises:
            InvalidInput: a version without a model.
        """
        if version is not None and model is None:
            raise _refused("version", "needs the model too")
        query = select(MODELS).order_by(MODELS.c.id)
        if model is not None:
            query = query.where(MODELS.c.model == model)
        if version is not None:
            query = query.where(MODELS.c.version == version)
        with self.engine.connect() as connection:
            return [_model_version(row) for row in connection.execute(query)]

    def recent(
        self,
        *,
        model: str | None = None,
        version: str | None = None,
        since_us: int | None = None,
        until_us: int | None = None,
        prediction_id: str | None = None,
        request_id: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
        shown_rows: int = SHOWN_ROWS,
    ) -> Page:
        """Predictions, newest first.

        Args:
            model, version: of these alone; a version needs its model.
            since_us, until_us: from, and before, these microseconds since 1970.
            prediction_id: this one alone.
            request_id: those of this request alone.
            limit: most predictions of the page.
            cursor: of the page before. No prediction that was there then is repeated or left out, whatever has come.
            shown_rows: how many rows of a prediction have their values.

        Raises:
            InvalidInput: names the argument that does not hold.
        """
        if not 1 <= limit <= MAXIMUM_LIMIT:
            raise _refused("limit", f"{limit} is not between 1 and {MAXIMUM_LIMIT}")
        first, last = _window(since_us, until_us)
        if cursor is not None:
            last = min(last, _before(_read_cursor(cursor)))
        if prediction_id is not None:
            if not _ID(prediction_id):
                raise _refused("prediction_id", f"{prediction_id[:60]!r} is not of 32 hexadecimal digits")
            first, last = max(first, prediction_id), min(last, prediction_id)
        models = {one.id: one for one in self.models(model, version)}
        table = PREDICTIONS.c
        order: Sequence[ColumnElement[Any]]
        with self.engine.connect() as connection:
            if prediction_id is None and request_id is not None:
                within = [_of(connection, table.request_id, request_id, first, last)]
                order = table.request_id.desc(), table.id.desc()
            elif prediction_id is None and model is not None:
                within = [_of(connection, table.model_id, number, first, last) for number in models]
                order = table.model_id.desc(), table.id.desc()
            else:
                within = [and_(table.id >= first, table.id <= last)]
                order = (table.id.desc(),)
            conditions: list[ColumnElement[bool]] = []
            if model is not None and (prediction_id is not None or request_id is not None):
                # `+ 0`: not by the index of models, in which all of their predictions are.
                conditions.append((PREDICTIONS.c.model_id + 0).in_(list(models)))
            if prediction_id is not None and request_id is not None:
                conditions.append(PREDICTIONS.c.request_id == request_id)
            query = select(table.id).where(*conditions).order_by(*order).limit(limit + 1)
            found = [list(connection.scalars(query.where(one))) for one in within]
            ids = list(heapq.merge(*found, reverse=True))[: limit + 1]
            predictions = self._logged(connection, ids[:limit], models, shown_rows)
        return Page(predictions, _cursor(ids[limit - 1]) if len(ids) > limit else None)

    def _logged(
        self, connection: Connection, ids: list[str], models: dict[int, ModelVersion], shown_rows: int
    ) -> list[Logged]:
        if not ids:
            return []
        table = PREDICTIONS.c
        query = select(
            *(column for column in table if column is not table.features and column is not table.outputs),
            _first_rows(table.features, shown_rows),
            _first_rows(table.outputs, shown_rows),
        ).where(table.id.in_(ids))
        rows = sorted(connection.execute(query), key=lambda row: row.id, reverse=True)
        actuals: defaultdict[str, dict[int, float]] = defaultdict(dict)
        labels = FEEDBACK.c
        for row in connection.execute(
            select(labels.prediction_id, labels.row, labels.actual).where(
                labels.prediction_id.in_(ids), labels.row < shown_rows
            )
        ):
            actuals[row.prediction_id][row.row] = row.actual
        return [
            Logged(
                row.id,
                row.time_us,
                row.request_id,
                models[row.model_id],
                row.protocol,
                row.milliseconds,
                row.rows,
                None if row.features is None else _matrix(row.features, min(row.rows, shown_rows)),
                _matrix(row.outputs, min(row.rows, shown_rows)),
                actuals.get(row.id, {}),
            )
            for row in rows
        ]

    def stats(
        self,
        *,
        since_us: int | None = None,
        until_us: int | None = None,
        model: str | None = None,
        version: str | None = None,
    ) -> Stats:
        """Statistics of a window, by model and version, and errors by model, protocol and status.

        The errors are of the model, in whatever version. Without ``since_us`` the window has all that is kept.

        Raises:
            InvalidInput: names the argument that does not hold.
        """
        first, last = _minutes(since_us, until_us)
        models = {one.id: one for one in self.models(model, version)}
        with self.engine.connect() as connection:
            sums = MINUTES.c
            query = select(sums.model_id, sums.requests, sums.rows, sums.latency, sums.distribution)
            by_model: defaultdict[int, list[Any]] = defaultdict(list)
            for row in connection.execute(query.where(sums.minute >= first, sums.minute < last)):
                by_model[row.model_id].append(row)
            labelled = (
                select(LABELS.c.model_id, func.sum(LABELS.c.rows))
                .where(LABELS.c.minute >= first, LABELS.c.minute < last)
                .group_by(LABELS.c.model_id)
            )
            labels = {number: int(rows) for number, rows in connection.execute(labelled)}
            errors = ERRORS.c
            groups = (errors.model, errors.protocol, errors.status)
            counted = select(*groups, func.sum(errors.requests)).where(errors.minute >= first, errors.minute < last)
            if model is not None:
                counted = counted.where(errors.model == model)
            failures = [
                ErrorStats(name, protocol, status, int(requests))
                for name, protocol, status, requests in connection.execute(counted.group_by(*groups).order_by(*groups))
            ]
        return Stats(
            first * MINUTE_US,
            last * MINUTE_US,
            [
                _version_stats(models[number], by_model[number], labels.get(number, 0))
                for number in models
                if number in by_model
            ],
            failures,
        )

    def volume(
        self, *, since_us: int, until_us: int | None = None, model: str | None = None, slots: int = 60
    ) -> list[Slot]:
        """Predictions by model in equal parts of a window, about ``slots`` of them; parts without any are left out.

        Raises:
            InvalidInput: names the argument that does not hold.
        """
        first, last = _minutes(since_us, until_us)
        width = max(1, -(-(last - first) // slots))
        if first < first_kept_minute(times.now_us()):
            # Older sums hold whole hours.
            width = -(-width // MINUTES_OF_HOUR) * MINUTES_OF_HOUR
        slot = MINUTES.c.minute - MINUTES.c.minute % width
        query = (
            select(slot, MODELS.c.model, func.sum(MINUTES.c.requests), func.sum(MINUTES.c.rows))
            .join_from(MINUTES, MODELS)
            .where(MINUTES.c.minute >= first, MINUTES.c.minute < last)
            .group_by(slot, MODELS.c.model)
            .order_by(slot, MODELS.c.model)
        )
        if model is not None:
            query = query.where(MODELS.c.model == model)
        with self.engine.connect() as connection:
            return [
                Slot(minute * MINUTE_US, model, int(requests), int(rows))
                for minute, model, requests, rows in connection.execute(query)
            ]

    def count_rows(self, since_us: int) -> dict[tuple[str, str], int]:
        """The rows that were predicted from a time on, by model and version."""
        minute = -(-since_us // MINUTE_US)
        if minute < first_kept_minute(times.now_us()):
            minute += -minute % MINUTES_OF_HOUR
        table = PREDICTIONS.c
        # The sums have whole minutes: those of the first one that is not whole are added.
        first = select(table.model_id, func.sum(table.rows)).where(
            table.id >= first_id(since_us), table.id < first_id(minute * MINUTE_US)
        )
        others = select(MINUTES.c.model_id, func.sum(MINUTES.c.rows)).where(MINUTES.c.minute >= minute)
        rows: defaultdict[tuple[str, str], int] = defaultdict(int)
        with self.engine.connect() as connection:
            names = {row.id: (row.model, row.version) for row in connection.execute(select(MODELS))}
            for query in (first.group_by(table.model_id), others.group_by(MINUTES.c.model_id)):
                for number, count in connection.execute(query):
                    rows[names[number]] += int(count)
        return dict(rows)

    def rows_for(
        self,
        model: str,
        version: str | None = None,
        *,
        since_us: int | None = None,
        until_us: int | None = None,
        labelled: bool = False,
    ) -> Iterator[Rows]:
        """Stream the rows of a model, one version after the other, each in order of time.

        Args:
            model, version: of this version, or of all versions.
            since_us, until_us: from, and before, these microseconds since 1970.
            labelled: only predictions of which a row at least has its true value.

        Raises:
            InvalidInput: names the argument that does not hold.
        """
        first, last = _window(since_us, until_us)
        return self._chunks(self.models(model, version), first, last, labelled=labelled)

    def begin_of_newest(self, model: ModelVersion, rows: int, *, until_us: int) -> int | None:
        """The time of the oldest of the newest calls that together have so many rows; None if there is no call.

        Args:
            rows: of the calls together; of all calls, if they have fewer.
            until_us: before these microseconds since 1970.
        """
        first, last = _window(None, until_us)
        table = PREDICTIONS.c
        begin = None
        with self.engine.connect() as connection:
            query = (
                select(table.time_us, table.rows)
                .where(_of(connection, table.model_id, model.id, first, last))
                .order_by(table.model_id.desc(), table.id.desc())
                .limit(rows)
            )
            for row in connection.execute(query):
                begin = row.time_us
                rows -= row.rows
                if rows <= 0:
                    break
        return begin

    def _chunks(self, models: list[ModelVersion], first: str, last: str, *, labelled: bool) -> Iterator[Rows]:
        for model in models:
            begin = first
            while True:
                # One connection per chunk: a slow reader must not keep the database from cleaning up.
                with self.engine.connect() as connection:
                    ids = _next_calls(connection, model, begin, last, labelled=labelled)
                    chunk = _rows(connection, model, ids) if ids else None
                if chunk is None:
                    break
                yield chunk
                begin = _after(ids[-1])


def first_id(time_us: int) -> str:
    """The smallest id of this time: milliseconds since 1970, and 12 bits of their fraction."""
    milliseconds, rest = divmod(max(time_us, 0), 1000)
    return f"{min(milliseconds, (1 << 48) - 1):012x}7{-(-rest * 4096 // 1000):03x}{0:016x}"


def _window(since_us: int | None, until_us: int | None) -> tuple[str, str]:
    """The first and the last id of a window."""
    if since_us is not None and until_us is not None and since_us >= until_us:
        raise _refused("since", "is not before the end of the window")
    return (
        _FIRST_ID if since_us is None else first_id(since_us),
        _LAST_ID if until_us is None else _before(first_id(until_us)),
    )


def _after(prediction_id: str) -> str:
    """The least id that is larger."""
    return f"{min(int(prediction_id, 16) + 1, int(_LAST_ID, 16)):032x}"


def _before(prediction_id: str) -> str:
    """The largest id that is smaller."""
    return f"{max(int(prediction_id, 16) - 1, 0):032x}"


def _refused(field: str, what: str) -> InvalidInput:
    return InvalidInput(f"{field}: {what}.", [ErrorDetail((field,), what, "value_error")])


def _cursor(prediction_id: str) -> str:
    return base64.urlsafe_b64encode(bytes.fromhex(prediction_id)).decode().rstrip("=")


def _read_cursor(cursor: str) -> str:
    try:
        digits = base64.b64decode(cursor + "==", altchars="-_", validate=True).hex()
    except (binascii.Error, ValueError):
        digits = ""
    if not _ID(digits):
        raise _refused("cursor", "is none that an answer had: send it as it was, or leave it out")
    return digits


def _model_version(row: Row[Any]) -> ModelVersion:
    edges = None if row.bins is None else tuple(json.loads(row.bins))
    kinds = tuple(map(described, json.loads(row.features)))
    names = tuple(feature.name for feature in kinds)
    return ModelVersion(row.id, row.model, row.version, names, tuple(json.loads(row.outputs)), edges, kinds)


def _of(connection: Connection, column: Column[Any], value: object, first: str, last: str) -> ColumnElement[bool]:
    """Predictions with this value whose ids are from ``first`` to ``last``, to be ordered by the column and the id.

    With ``column = value`` PostgreSQL may take the primary key, whose order is the same then, and read millions of
    other predictions before the first match. One of several values it looks for in the index on the column and the id.
    """
    one = literal(value, column.type)
    is_it = column == (any_(postgresql.array([one])) if connection.dialect.name == "postgresql" else one)
    return and_(is_it, PREDICTIONS.c.id >= first, PREDICTIONS.c.id <= last)


def _first_rows(column: Column[Any], shown: int) -> ColumnElement[bytes]:
    """The bytes of the first rows of a matrix: a batch can be large."""
    row_bytes = func.length(column, type_=Integer) // PREDICTIONS.c.rows
    return func.substr(column, 1, row_bytes * shown, type_=LargeBinary).label(column.name)


def _matrix(content: bytes, rows: int) -> FloatMatrix:
    return unpack(content, columns_of(content, rows))


def _minutes(since_us: int | None, until_us: int | None) -> tuple[int, int]:
    """The minutes of a window: from, and before. Sums that are days old hold whole hours."""
    now_us = times.now_us()
    first = 0 if since_us is None else since_us // MINUTE_US
    last = -(-(now_us if until_us is None else until_us) // MINUTE_US)
    _window(first, last)
    kept = first_kept_minute(now_us)
    if first < kept:
        first -= first % MINUTES_OF_HOUR
    if last < kept:
        last += -last % MINUTES_OF_HOUR
    return first, last


def _version_stats(model: ModelVersion, minutes: Sequence[Any], labelled: int) -> VersionStats:
    latency = sum_counts((row.latency for row in minutes), LATENCY_BUCKETS)
    bins = len(model.outputs) if model.edges is None else len(model.edges) + 1
    rows = sum_counts((row.distribution for row in minutes), bins).tolist()
    if model.edges is None:
        distribution = [Bin(label, None, None, count) for label, count in zip(model.outputs, rows, strict=True)]
    else:
        bounds = [None, *model.edges, None]
        used = [number for number, count in enumerate(rows) if count]
        distribution = [
            Bin(None, bounds[number], bounds[number + 1], rows[number]) for number in range(used[0], used[-1] + 1)
        ]
    return VersionStats(
        model.model,
        model.version,
        sum(row.requests for row in minutes),
        sum(row.rows for row in minutes),
        dict(zip(QUANTILES, latency_quantiles(latency, QUANTILES), strict=True)),
        distribution,
        labelled,
    )


def _next_calls(connection: Connection, model: ModelVersion, first: str, last: str, *, labelled: bool) -> list[str]:
    """The ids of the next predictions, as many as make a chunk."""
    table = PREDICTIONS.c
    query = (
        select(table.id, table.rows)
        .where(_of(connection, table.model_id, model.id, first, last))
        .order_by(table.model_id, table.id)
        .limit(CHUNK_CALLS)
    )
    if labelled:
        # A query for each row: of a join, PostgreSQL would read the whole of the feedback before the first one.
        label = select(literal(1)).where(FEEDBACK.c.prediction_id == table.id).limit(1).scalar_subquery()
        query = query.where(label == 1)
    ids: list[str] = []
    total = 0
    for row in connection.execute(query):
        total += row.rows
        if ids and total > CHUNK_ROWS:
            break
        ids.append(row.id)
    return ids


def _rows(connection: Connection, model: ModelVersion, ids: list[str]) -> Rows:
    """The rows of these predictions. One that was forgotten just now is left out."""
    query = select(PREDICTIONS).where(PREDICTIONS.c.id.in_(ids)).order_by(PREDICTIONS.c.id)
    calls = connection.execute(query).all()
    counts = [row.rows for row in calls]
    begins = dict(zip((row.id for row in calls), np.cumsum([0, *counts]).tolist(), strict=False))
    total = sum(counts)
    features = np.full((total, len(model.features)), np.nan)
    for row in calls:
        if row.features is not None:
            features[begins[row.id] : begins[row.id] + row.rows] = _matrix(row.features, row.rows)
    actuals = np.full(total, np.nan)
    labels = FEEDBACK.c
    known = select(labels.prediction_id, labels.row, labels.actual).where(labels.prediction_id.in_(ids))
    for row in connection.execute(known):
        if row.prediction_id in begins:
            actuals[begins[row.prediction_id] + row.row] = row.actual
    return Rows(
        model,
        [row.id for row in calls for _ in range(row.rows)],
        np.concatenate([np.arange(count) for count in counts]) if counts else np.empty(0, dtype=np.int64),
        [row.request_id for row in calls for _ in range(row.rows)],
        [row.protocol for row in calls for _ in range(row.rows)],
        np.repeat(np.array([row.time_us for row in calls], dtype=np.int64), counts),
        features,
        unpack(b"".join(row.outputs for row in calls), len(model.outputs)),
        actuals,
    )
