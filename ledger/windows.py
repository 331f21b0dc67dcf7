"""Recent rows of a model version, for drift: those of the last hours, or a number of the newest.

A window may have millions of rows. So a bounded sample is read: from each part of the window as many rows as its share
of the traffic.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, func, select

from contract.table import FloatMatrix
from ledger.reader import ModelVersion, Reader, Rows
from ledger.schema import MINUTES
from ledger.sums import MINUTE_US, MINUTES_OF_HOUR, first_kept_minute
from ledger.times import now_us

MAXIMUM_ROWS = 20_000
"""Maximum rows that are read of a window. They are compared with 5,000 rows: more would hardly help."""
SLOTS = 48
"""Parts of a window, each of which gets its share of the rows."""
REFUSED_STATUS = 400
"""Status of a request that was refused because of its rows."""


@dataclass(frozen=True, slots=True, eq=False)
class RecentRows:
    """Rows of a model version, in order of time.

    Args:
        since_us, until_us: the window, in microseconds since 1970, UTC.
        total_rows: of the window, about; ``len(time_us)`` of them are here.
        time_us: when they were answered, ``[N]``.
        features: ``[N, F]``; None where they are not kept (``LEDGER_FEATURES=off``).
        outputs: ``[N, K]``.
        requests: to the model in the window, in whatever version, refused ones too.
        refused: those of them that were refused for what was in them.
    """

    model: ModelVersion
    since_us: int
    until_us: int
    total_rows: int
    time_us: NDArray[np.int64]
    features: FloatMatrix | None
    outputs: FloatMatrix
    requests: int
    refused: int


def last_hours(reader: Reader, model: str, version: str, *, since_us: int, until_us: int) -> RecentRows | None:
    """Rows of a window, at most ``MAXIMUM_ROWS``; None if the version has never predicted.

    Args:
        since_us, until_us: from, and before, these microseconds since 1970.
    """
    found = reader.models(model, version)
    if not found:
        return None
    with reader.engine.connect() as connection:
        by_minute = _rows_by_minute(connection, found[0], since_us, until_us)
    total = sum(by_minute.values())
    if total <= MAXIMUM_ROWS:
        chunks = reader.rows_for(model, version, since_us=since_us, until_us=until_us)
        # Sums hold whole minutes and may be a moment old; the limit must hold all the same.
        taken = list(_first(chunks, MAXIMUM_ROWS))
    else:
        taken = []
        edges = np.linspace(since_us, until_us, _slots(since_us, until_us) + 1).astype(np.int64).tolist()
        wanted = _shares(by_minute, edges)
        for start, end, rows in zip(edges, edges[1:], wanted, strict=False):
            if rows:
                taken += _first(reader.rows_for(model, version, since_us=start, until_us=end), rows)
    read = sum(map(len, taken))
    return _joined(reader, found[0], since_us, until_us, read if total <= MAXIMUM_ROWS else total, taken)


def newest(reader: Reader, model: str, version: str, rows: int, *, until_us: int) -> RecentRows | None:
    """The newest rows before a time, ``rows`` of them if there are so many; None if the version has never predicted.

    Args:
        rows: at most ``MAXIMUM_ROWS``.
    """
    found = reader.models(model, version)
    if not found:
        return None
    since_us = reader.begin_of_newest(found[0], rows, until_us=until_us)
    if since_us is None:
        return _joined(reader, found[0], until_us, until_us, 0, [])
    chunks = list(reader.rows_for(model, version, since_us=since_us, until_us=until_us))
    # The first call may have more rows than are wanted.
    surplus = sum(map(len, chunks)) - rows
    while chunks and surplus >= len(chunks[0]):
        surplus -= len(chunks.pop(0))
    if chunks and surplus > 0:
        chunks[0] = chunks[0].part(slice(surplus, None))
    return _joined(reader, found[0], since_us, until_us, sum(map(len, chunks)), chunks)


def _rows_by_minute(connection: Connection, model: ModelVersion, since_us: int, until_us: int) -> Counter[int]:
    first = since_us // MINUTE_US
    if first < first_kept_minute(now_us()):
        # What is days old is there by hours.
        first -= first % MINUTES_OF_HOUR
    query = (
        select(MINUTES.c.minute, func.sum(MINUTES.c.rows))
        .where(MINUTES.c.model_id == model.id, MINUTES.c.minute >= first, MINUTES.c.minute < -(-until_us // MINUTE_US))
        .group_by(MINUTES.c.minute)
    )
    return Counter({minute: int(rows) for minute, rows in connection.execute(query)})


def _slots(since_us: int, until_us: int) -> int:
    """How many parts a window has. Old traffic was counted by hours: there, no part is shorter."""
    if since_us // MINUTE_US >= first_kept_minute(now_us()):
        return SLOTS
    return max(1, min(SLOTS, (until_us - since_us) // (MINUTES_OF_HOUR * MINUTE_US)))


def _shares(by_minute: Counter[int], edges: list[int]) -> list[int]:
    """How many rows to read of each slot."""
    minutes = np.array(list(by_minute), dtype=np.int64) * MINUTE_US
    count = len(edges) - 1
    slots = np.clip(np.searchsorted(edges, minutes, side="right") - 1, 0, count - 1)
    rows = np.bincount(slots, weights=list(by_minute.values()), minlength=count)
    shares: list[int] = np.floor(rows / rows.sum() * MAXIMUM_ROWS).astype(int).tolist()
    return shares


def _first(chunks: Iterator[Rows], rows: int) -> Iterator[Rows]:
    """The first ``count`` rows."""
    for chunk in chunks:
        yield chunk if len(chunk) <= rows else chunk.part(slice(rows))
        rows -= len(chunk)
        if rows <= 0:
            return


def _joined(
    reader: Reader, model: ModelVersion, since_us: int, until_us: int, total: int, chunks: list[Rows]
) -> RecentRows:
    features = np.concatenate([chunk.features for chunk in chunks]) if chunks else np.empty((0, len(model.features)))
    outputs = np.concatenate([chunk.outputs for chunk in chunks]) if chunks else np.empty((0, len(model.outputs)))
    time_us = np.concatenate([chunk.time_us for chunk in chunks]) if chunks else np.empty(0, dtype=np.int64)
    # A value may be missing; a row without any was recorded without its features.
    complete = not np.isnan(features).all(axis=1).any()
    stats = reader.stats(since_us=since_us, until_us=max(until_us, since_us + 1), model=model.model)
    requests = sum(one.requests for one in stats.versions) + sum(one.requests for one in stats.errors)
    refused = sum(one.requests for one in stats.errors if one.status == REFUSED_STATUS)
    return RecentRows(
        model, since_us, until_us, total, time_us, features if complete else None, outputs, requests, refused
    )
