"""Records as the service makes them."""

import itertools
import time
from typing import Any

import numpy as np

from contract import DATASETS
from contract.table import FloatMatrix
from ledger import spool
from ledger.record import Record

MINUTE_US = 60_000_000
DAY_US = 24 * 60 * MINUTE_US
NOW_US = (time.time_ns() // 1000 // MINUTE_US - 30) * MINUTE_US
"""Half an hour ago, when a minute began."""
_NUMBERS = itertools.count()


def prediction_id(time_us: int, number: int | None = None) -> str:
    """A UUIDv7 of this time; ids of one time are in order of their numbers."""
    milliseconds, rest = divmod(time_us, 1000)
    number = next(_NUMBERS) if number is None else number
    return f"{milliseconds:012x}7{-(-rest * 4096 // 1000):03x}8{number:015x}"


def a_record(
    time_us: int = NOW_US,
    *,
    model: str = "housing",
    rows: int | FloatMatrix | None = 1,
    outputs: FloatMatrix | None = None,
    **others: Any,
) -> Record:
    """A record with values that tell it from all others.

    Args:
        rows: their number, or the features ``[N, F]``; None for one row whose features are not kept.
        outputs: ``[N, K]``, which decide the number of rows.
    """
    number = next(_NUMBERS)
    draws = np.random.default_rng(number)
    dataset = DATASETS[model]
    if outputs is None:
        count = rows if isinstance(rows, int) else 1
        classes = len(dataset.target.classes)
        outputs = draws.dirichlet([1.0] * classes, count) if classes else draws.uniform(0, 5, (count, 1))
    if isinstance(rows, int):
        rows = draws.normal(size=(len(outputs), len(dataset.features)))
    return Record(
        **{
            "id": prediction_id(time_us, number),
            "request_id": f"request-{number}",
            "time_us": time_us,
            "model": model,
            "version": "v1",
            "protocol": "http",
            "milliseconds": float(draws.uniform(1, 10)),
            "rows": rows,
            "outputs": outputs,
            **others,
        }
    )


def same(record: Record, other: Record) -> bool:
    """Whether two records are equal, to the bit."""
    return all(getattr(record, name) == getattr(other, name) for name in Record.__slots__)


def encoded(record: Record) -> bytes:
    """A record as the service writes it into its spool."""
    return spool.encode(
        record.id,
        record.request_id,
        record.time_us,
        record.model,
        record.version,
        record.protocol,
        record.milliseconds,
        record.rows,
        record.outputs,
    )
