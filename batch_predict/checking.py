"""The rows of a part against the contract."""

from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from contract.dataset import Dataset
from contract.table import FloatMatrix, check_features, good_rows

PLAIN_NUMBER = r"^-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?$"
"""Text that Arrow surely reads as Python does. What is written in another way, the contract reads or refuses."""


@dataclass(frozen=True)
class Checked:
    """What the contract says of N rows.

    ``good`` has the indices of the G rows that hold it, ``features`` their matrix ``[G, F]``; ``bad`` the indices of
    the others and ``reasons`` a text for each of them. ``counts`` tells how often which rule was broken, by
    "feature: rule".
    """

    good: NDArray[np.intp]
    features: FloatMatrix
    bad: NDArray[np.intp]
    reasons: list[str]
    counts: Counter[str]


def check(dataset: Dataset, table: pa.Table, rows: NDArray[np.int64]) -> Checked:
    """Sort the rows of a table, ``[N]`` with their numbers, into good and bad ones.

    Whole columns are read by Arrow and checked by numpy. Only rows that do not pass there, a few as a rule, are read
    again by the contract, cell by cell, which has the last word and the words.
    """
    features = np.empty((len(table), len(dataset.features)), dtype=np.float64)
    for index, name in enumerate(dataset.feature_names):
        features[:, index] = _quick_numbers(table[name])
    good = good_rows(dataset, features)
    doubtful = np.flatnonzero(~good)
    if not len(doubtful):
        return Checked(np.arange(len(table)), features, doubtful, [], Counter())
    cells = table.select(list(dataset.feature_names)).take(pa.array(doubtful)).to_pydict()
    read, violations = check_features(dataset, cells, rows[doubtful].tolist())
    features[doubtful] = read
    sentences: defaultdict[int | None, list[str]] = defaultdict(list)
    for violation in violations:
        sentences[violation.row].append(violation.message)
    good[doubtful] = [row not in sentences for row in rows[doubtful].tolist()]
    bad = np.flatnonzero(~good)
    return Checked(
        np.flatnonzero(good),
        features[good],
        bad,
        [" ".join(sentences[row]) for row in rows[bad].tolist()],
        Counter(f"{violation.column}: {violation.rule}" for violation in violations),
    )


def _quick_numbers(column: pa.ChunkedArray) -> FloatMatrix:
    """A column as numbers ``[N]``, NaN where there is none, or perhaps one that takes the contract to read."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        try:
            column = column.cast(pa.float64())
        except pa.ArrowInvalid:
            column = pc.ascii_trim_whitespace(column)
            plain = pc.match_substring_regex(column, PLAIN_NUMBER)
            column = pc.if_else(plain, column, pa.scalar(None, column.type)).cast(pa.float64())
    # Not safe, that is: an integer that float64 does not have exactly is rounded, as Python does.
    numbers = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return np.asarray(numbers, dtype=np.float64)
