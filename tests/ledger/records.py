"""Records as the service makes them."""

import itertools
from typing import Any

import numpy as np

from contract import DATASETS
from contract.table import FloatMatrix
from ledger.record import Record

NOW_US = 1_790_000_000_000_000
"""A time, in the year 2026. It begins a minute, not an hour."""
_NUMBERS = itertools.count()


def prediction_id(time_us: int, number: int | None = None) -> str:
    """A UUIDv7 of this time; ids of one time are in order of their numbers."""
    milliseconds, rest = divmod(time_us, 1000)
    number = next(_NUMBERS) if number is None else number
    return f"{milliseconds:012x}7{rest * 4096 // 1000:03x}8{number:015x}"


def a_record(
    time_us: int = NOW_US,
    *,
    model: str = "housing",
    rows: int = 1,
    outputs: FloatMatrix | None = None,
    **others: Any,
) -> Record:
    """A record with values that tell it from all others."""
    number = next(_NUMBERS)
    draws = np.random.default_rng(number)
    dataset = DATASETS[model]
    if outputs is None:
        classes = len(dataset.target.classes)
        outputs = draws.dirichlet([1.0] * classes, rows) if classes else draws.uniform(0, 5, (rows, 1))
    return Record(
        **{
            "id": prediction_id(time_us, number),
            "request_id": f"request-{number}",
            "time_us": time_us,
            "model": model,
            "version": "v1",
            "protocol": "http",
            "milliseconds": float(draws.uniform(1, 10)),
            "rows": draws.normal(size=(len(outputs), len(dataset.features))),
            "outputs": outputs,
            **others,
        }
    )
