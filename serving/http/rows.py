"""Checks the rows of a JSON body against the contract: in columns, and row by row once a column fails.

Ten thousand rows take 5 ms in columns, and 28 ms through pydantic. Both work in slices, between which other requests
are answered. A refused body is checked up to its first ``MAXIMUM_DETAILS`` reasons.
"""

from collections.abc import Generator, Sequence
from typing import Any, TypeVar

import numpy as np

from contract.dataset import MAXIMUM_BATCH_ROWS, Dataset
from contract.table import FloatMatrix, good_rows
from serving.http.errors import Location, Reasons

T = TypeVar("T")
Slices = Generator[None, None, T]
"""Work that stops after each slice, and returns its result at the end."""

SLICE_ROWS = 1000
"""Rows of a slice: half a millisecond in columns, two where they are checked one by one."""
_NUMBERS = {int, float}


def finished(work: Slices[T]) -> T:
    """The result of work, all at once: for a thread."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: T = end.value
            return result


def batch_rows(dataset: Dataset, content: object) -> Slices[FloatMatrix]:
    """The rows ``[N, F]`` of the body of a batch request: ``{"rows": [row, …]}``.

    Raises:
        InvalidInput: with the first reasons; each names its row and field.
    """
    reasons = Reasons()
    if not isinstance(content, dict):
        got = ", not the list alone" if isinstance(content, list) else ""
        reasons.add((), f'input should be an object with a list of rows, {{"rows": […]}}{got}', "model_type")
        raise reasons.refusal()
    rows = content.get("rows")
    matrix = None
    if "rows" not in content:
        reasons.add(("rows",), "the field is missing", "missing")
    else:
        matrix = yield from checked_rows(dataset, rows, reasons, ("rows",))
    reasons.check_names(content, ("rows",))
    if matrix is None or reasons:
        raise reasons.refusal()
    return matrix


def checked_rows(dataset: Dataset, rows: Any, reasons: Reasons, loc: Location) -> Slices[FloatMatrix | None]:
    """The rows ``[N, F]`` of a list at ``loc``; None, and the reasons, where it is refused."""
    if not reasons.check_list(rows, MAXIMUM_BATCH_ROWS, loc):
        return None
    matrix = np.empty((len(rows), len(dataset.features)), dtype=np.float64)
    for start in range(0, len(rows), SLICE_ROWS):
        if start:
            yield
        part = rows[start : start + SLICE_ROWS]
        if not _fill(dataset, part, matrix[start : start + SLICE_ROWS]):
            yield from _explain(dataset, rows, start, reasons, loc)
            return None
    return matrix


def _fill(dataset: Dataset, rows: Sequence[Any], matrix: FloatMatrix) -> bool:
    """Write rows that hold the contract into a matrix ``[N, F]``; False if one does not."""
    try:
        if dataset.has_optional:
            known = {*dataset.feature_names}
            if not all(map(known.issuperset, rows)):
                return False
        elif set(map(len, rows)) != {len(dataset.features)}:
            return False
        for index, feature in enumerate(dataset.features):
            name = feature.name
            column = [row.get(name) for row in rows] if feature.optional else [row[name] for row in rows]
            if feature.plain:
                if not _NUMBERS.issuperset(map(type, column)):
                    return False
                matrix[:, index] = column
            elif (encoded := feature.encode_column(column)) is None:
                return False
            else:
                matrix[:, index] = encoded
    # A field is missing, a row is no object, a number is no double.
    except (AttributeError, KeyError, TypeError, OverflowError):
        return False
    return bool(good_rows(dataset, matrix).all())


def _explain(dataset: Dataset, rows: Sequence[object], start: int, reasons: Reasons, loc: Location) -> Slices[None]:
    """Find the reasons, from a row on; the rows before it are good."""
    for index in range(start, len(rows)):
        if index % SLICE_ROWS == 0:
            yield
        reasons.check(dataset.row, rows[index], (*loc, index))
        if reasons.enough and index + 1 < len(rows):
            reasons.unchecked = f"{len(rows) - index - 1} of {len(rows)} rows were not checked"
            return
    if not reasons:
        raise RuntimeError(f"rows of {dataset.name} were refused in columns, and none of them alone")
