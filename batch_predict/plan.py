"""The parts of a table: as many rows as are computed, and held in memory, at once."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from batch_predict.csv_records import blocks_of_records
from batch_predict.source import Format, InputFile, Source

PART_ROWS = 1 << 17
PART_BYTES = 64 << 20
"""A part has fewer rows where its rows are long."""


@dataclass(frozen=True)
class Part:
    """Rows that follow each other in a file.

    ``number`` counts the parts of the whole table, ``first_row`` the rows of the file, both from 0. The bytes from
    ``start`` to ``stop`` hold the records of a CSV file, whose columns are ``columns``; they are not for Parquet.
    """

    number: int
    path: Path
    file: str
    first_row: int
    rows: int
    columns: tuple[str, ...]
    start: int = 0
    stop: int = 0


def parts(source: Source, part_rows: int) -> list[Part]:
    """The parts of a table in the order of its rows; a file without rows is a part without rows.

    A CSV file is read once for it, at about the speed of the disk.

    Raises:
        PipelineError: a CSV record does not end.
    """
    cut = _cut_parquet if source.format is Format.PARQUET else _cut_csv
    pieces = ((file, *piece) for file in source.files for piece in cut(file, part_rows))
    return [
        Part(number, file.path, file.name, first_row, rows, tuple(file.schema.names), start, stop)
        for number, (file, first_row, rows, start, stop) in enumerate(pieces)
    ]


Piece = tuple[int, int, int, int]
"""First row, rows, first byte, byte after the last."""


def _cut_parquet(file: InputFile, part_rows: int) -> Iterator[Piece]:
    metadata = pq.read_metadata(file.path)
    size = sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
    rows = min(part_rows, max(1, PART_BYTES * metadata.num_rows // max(size, 1)))
    for first in range(0, max(metadata.num_rows, 1), rows):
        yield first, min(rows, metadata.num_rows - first), 0, 0


def _cut_csv(file: InputFile, part_rows: int) -> Iterator[Piece]:
    first_row, rows = 0, -1  # the header is no row
    start = stop = 0
    for begin, ends in blocks_of_records(file.path):
        lengths = np.diff(ends, prepend=begin)
        position = 0
        if rows == -1:
            rows, position, start, stop = 0, 1, int(ends[0]), int(ends[0])
        while position < len(ends):
            by_rows = position + part_rows - rows
            by_bytes = position + int(np.searchsorted(np.cumsum(lengths[position:]), PART_BYTES - (stop - start)))
            until = min(by_rows, by_bytes + 1, len(ends))
            rows += until - position
            stop = int(ends[until - 1])
            position = until
            if rows == part_rows or stop - start >= PART_BYTES:
                yield first_row, rows, start, stop
                first_row, rows, start = first_row + rows, 0, stop
    if rows > 0 or first_row == 0:
        yield first_row, max(rows, 0), start, stop
