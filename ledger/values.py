"""Encodes the values of a record as bytes, for the spool and the database: the one place that assumes floats.

A matrix ``[N, C]`` is its float64 values, little-endian, row after row: its bits are kept. Measured with 1,000 rows of
Housing: JSON takes 635 µs to write, 793 µs to read and twice the space; this takes 2 µs.
"""

from collections.abc import Mapping
from math import inf
from typing import Any

import numpy as np

from contract.feature import Feature, Kind, Unknown
from contract.table import FloatMatrix

FLOAT64 = np.dtype("<f8")


def pack(matrix: FloatMatrix) -> bytes:
    """The bytes of a matrix ``[N, C]``."""
    return (matrix if matrix.dtype == FLOAT64 else matrix.astype(FLOAT64)).tobytes()


def unpack(content: bytes, columns: int) -> FloatMatrix:
    """The matrix ``[N, C]`` of these bytes; ``columns`` is C.

    Raises:
        ValueError: the bytes are not of whole rows.
    """
    return np.frombuffer(content, FLOAT64).reshape(-1, columns)


def columns_of(content: bytes, rows: int) -> int:
    """How many columns a matrix of so many rows has, by its bytes."""
    return len(content) // (rows * FLOAT64.itemsize)


def describe(feature: Feature) -> str | dict[str, Any]:
    """What is stored of a feature, so that its values can be read under a later contract; for a plain number, its
    name."""
    if feature.plain:
        return feature.name
    return {
        "name": feature.name,
        "kind": feature.kind,
        "optional": feature.optional,
        "vocabulary": list(feature.vocabulary),
        "unknown": feature.unknown,
    }


def described(kept: str | Mapping[str, Any]) -> Feature:
    """The feature that was given to ``describe``, without what is not stored."""
    if isinstance(kept, str):
        return Feature(kept, "", -inf, inf, "", None)
    kind, vocabulary, unknown = Kind(kept["kind"]), tuple(kept["vocabulary"]), Unknown(kept["unknown"])
    highest = {Kind.BOOLEAN: 1.0, Kind.CATEGORY: len(vocabulary) - (unknown is Unknown.REFUSE)}.get(kind, inf)
    lowest = -inf if highest == inf else 0
    return Feature(kept["name"], "", lowest, highest, "", None, kind, kept["optional"], vocabulary, unknown)
