"""Parquet files: their columns, and their rows in order."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from training.errors import PipelineError

BATCH_ROWS = 1 << 16
_NANOSECONDS = 1000
"""In a microsecond."""


def read_schema(path: Path, int96_unit: str) -> pa.Schema:
    """The names and types of a file's columns."""
    with pq.ParquetFile(path, coerce_int96_timestamp_unit=int96_unit) as file:
        return pa.schema([(field.name, field.type) for field in file.schema_arrow])


def column(path: Path, name: str, int96_unit: str) -> Iterator[pa.Array]:
    """A column in pieces.

    Raises:
        PipelineError: Arrow cannot read it.
    """
    try:
        with pq.ParquetFile(path, pre_buffer=False, coerce_int96_timestamp_unit=int96_unit) as file:
            for batch in file.iter_batches(BATCH_ROWS, columns=[name], use_threads=False):
                yield batch.column(0)
    except (pa.ArrowException, OSError) as error:
        raise PipelineError(f"{path}: the column {name} cannot be read: {error}") from error


def int96_unit(paths: Sequence[Path]) -> str:
    """The unit that holds all INT96 timestamps of some files exactly: nanoseconds, or microseconds for far years.

    INT96 counts nanoseconds of any year. Arrow's 64 bits hold nanoseconds of 1677 to 2262, and it does not report an
    overflow.

    Raises:
        PipelineError: a file is not Parquet, its timestamps are nested, or neither unit holds all of them.
    """
    far = fine = ""
    for path in paths:
        for name in _int96_columns(path):
            is_far, is_fine = _needs(path, name)
            far = f"{path}: the column {name}" if is_far else far
            fine = f"{path}: the column {name}" if is_fine else fine
    if far and fine:
        raise PipelineError(
            f"{far} has INT96 timestamps outside of the years 1677 to 2262. {fine} has fractions of a microsecond. No "
            "64-bit timestamp holds both: write them as microseconds."
        )
    return "us" if far else "ns"


def _int96_columns(path: Path) -> list[str]:
    try:
        with pq.ParquetFile(path) as file:
            names, leaves = file.schema_arrow.names, file.schema
            found = [leaves.column(index) for index in range(len(leaves))]
    except (pa.ArrowException, OSError) as error:
        raise PipelineError(f"{path} cannot be read as Parquet: {error}") from error
    paths = [leaf.path for leaf in found if leaf.physical_type == "INT96"]
    for nested in set(paths) - set(names):
        raise PipelineError(
            f"{path}: the column {nested.partition('.')[0]} has INT96 timestamps inside a nested type, which may "
            "overflow: write them as 64-bit timestamps."
        )
    return paths


def _needs(path: Path, name: str) -> tuple[bool, bool]:
    """Whether an INT96 column has years that nanoseconds cannot hold, and parts of microseconds."""
    far = fine = False
    limit = np.iinfo(np.int64).max // _NANOSECONDS
    pieces = zip(column(path, name, "ns"), column(path, name, "us"), strict=True)
    for nanoseconds, microseconds in pieces:
        ns, us = (piece.drop_null().cast(pa.int64()).to_numpy() for piece in (nanoseconds, microseconds))
        far |= bool((np.abs(us) > limit).any())
        # Both overflow alike, so that the difference is what is left of a microsecond.
        fine |= bool((ns - us * _NANOSECONDS != 0).any())
    return far, fine


class ParquetStream:
    """The rows of a file in order, from the row group of ``first_row`` on. A row group may be larger than memory."""

    def __init__(self, path: Path, first_row: int, int96_unit: str) -> None:
        self._path = path
        # A buffer: pages are read when they are wanted, not the whole column of the row group.
        file = pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False, coerce_int96_timestamp_unit=int96_unit)
        counts = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
        self._group_starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        group = self._group(first_row)
        self._position = int(self._group_starts[group])
        self._schema = file.schema_arrow.remove_metadata()
        groups = list(range(group, len(counts)))
        self._batches: Iterator[pa.RecordBatch] = file.iter_batches(BATCH_ROWS, row_groups=groups, use_threads=False)
        self._rest: pa.RecordBatch | None = None

    def reaches(self, path: Path, first_row: int) -> bool:
        """Whether reading on from here gives that row without reading a row group for nothing."""
        if path != self._path or self._position > first_row:
            return False
        return self._position >= int(self._group_starts[self._group(first_row)])

    def read(self, first_row: int, rows: int) -> pa.Table:
        """So many rows from ``first_row`` on.

        Raises:
            pyarrow.ArrowInvalid: the file has fewer rows.
        """
        taken: list[pa.RecordBatch] = []
        missing = rows
        while missing:
            batch = self._rest if self._rest is not None else next(self._batches, None)
            self._rest = None
            if batch is None:
                raise pa.ArrowInvalid(f"{self._path} ends before row {first_row + rows}")
            skipped = min(max(first_row - self._position, 0), len(batch))
            wanted = batch.slice(skipped, missing)
            if len(wanted):
                taken.append(wanted)
            self._position += skipped + len(wanted)
            missing -= len(wanted)
            if skipped + len(wanted) < len(batch):
                self._rest = batch.slice(skipped + len(wanted))
        return pa.Table.from_batches(taken, self._schema)

    def _group(self, row: int) -> int:
        return max(int(np.searchsorted(self._group_starts, row, side="right")) - 1, 0)
