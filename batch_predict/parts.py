"""The parts of a table: as many rows as one process holds in memory at once."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from batch_predict import csv_file
from batch_predict.csv_file import Malformed
from batch_predict.parquet_file import ParquetStream
from batch_predict.source import Format, InputFile, Layout, Source

PART_ROWS = 1 << 17
PART_BYTES = 64 << 20
"""A part has fewer rows where its rows are long."""


@dataclass(frozen=True)
class Part:
    """Consecutive rows of a file.

    ``number`` counts the parts of the whole table, ``first_row`` the rows of the file, both from 0. Of a CSV file,
    ``start`` and ``stop`` are the bytes that hold the records, and ``valid`` is False if some have wrong quotes.
    """

    number: int
    file: InputFile
    first_row: int
    rows: int
    start: int = 0
    stop: int = 0
    valid: bool = True


@dataclass(frozen=True)
class ReadPart:
    """Columns in the order of the layout; ``rows`` is the number of each row in the file, ``[N]``."""

    table: pa.Table
    rows: NDArray[np.int64]
    malformed: list[Malformed]


def parts(source: Source, part_rows: int) -> list[Part]:
    """The parts of a table in the order of its rows; a file without rows is a part without rows.

    This reads a CSV file once.

    Raises:
        PipelineError: a line of a CSV file is too long.
    """
    cut = _cut_parquet if source.layout.format is Format.PARQUET else _cut_csv
    pieces = ((file, piece) for file in source.files for piece in cut(file, part_rows))
    return [Part(number, file, *piece) for number, (file, piece) in enumerate(pieces)]


Piece = tuple[int, int, int, int, bool]
"""``first_row``, ``rows``, ``start``, ``stop`` and ``valid`` of a part."""


def _cut_parquet(file: InputFile, part_rows: int) -> Iterator[Piece]:
    metadata = pq.read_metadata(file.path)
    size = sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
    rows = min(part_rows, max(1, PART_BYTES * metadata.num_rows // max(size, 1)))
    for first in range(0, max(metadata.num_rows, 1), rows):
        yield first, min(rows, metadata.num_rows - first), 0, 0, True


def _cut_csv(file: InputFile, part_rows: int) -> Iterator[Piece]:
    first_row = rows = 0
    start = stop = file.first_byte
    valid = True
    with file.path.open("rb") as content:
        content.seek(start)
        for batch in csv_file.record_batches(content, str(file.path), start):
            position = 0
            while position < len(batch.stops):
                by_rows = position + part_rows - rows
                by_bytes = int(np.searchsorted(batch.stops, start + PART_BYTES)) + 1
                until = min(by_rows, by_bytes, len(batch.stops))
                rows += until - position
                stop = int(batch.stops[until - 1])
                valid = valid and bool(batch.valid[position:until].all())
                position = until
                if rows == part_rows or stop - start >= PART_BYTES:
                    yield first_row, rows, start, stop, valid
                    first_row, rows, start, valid = first_row + rows, 0, stop, True
    if rows > 0 or first_row == 0:
        yield first_row, rows, start, stop, valid


class Reader:
    """Reads the parts of one table; fastest in their order, because it goes on where it was."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._stream: ParquetStream | None = None

    def read(self, part: Part) -> ReadPart:
        """The rows of a part, in the types of the layout.

        Raises:
            pyarrow.ArrowException, OSError: the file is damaged, or has changed since the parts were cut.
        """
        if self._layout.format is Format.CSV:
            table, rows, malformed = self._csv(part)
        else:
            table, malformed = self._parquet(part), []
            rows = np.arange(part.first_row, part.first_row + part.rows, dtype=np.int64)
        for name, value in part.file.folders:
            table = table.append_column(name, pa.repeat(pa.scalar(value, pa.string()), len(table)))
        columns = [_cast(table[field.name], field.type) for field in self._layout.schema]
        return ReadPart(pa.table(columns, schema=self._layout.schema), rows, malformed)

    def _parquet(self, part: Part) -> pa.Table:
        if self._stream is None or not self._stream.reaches(part.file.path, part.first_row):
            self._stream = ParquetStream(part.file.path, part.first_row, self._layout.int96_unit)
        return self._stream.read(part.first_row, part.rows)

    def _csv(self, part: Part) -> csv_file.Parsed:
        with part.file.path.open("rb") as file:
            file.seek(part.start)
            block = file.read(part.stop - part.start)
        parsed = csv_file.parse(block, part.file.columns, part.first_row, valid=part.valid)
        if len(parsed.table) + len(parsed.malformed) != part.rows:
            raise pa.ArrowInvalid(f"{part.file.path} has changed since this run began")
        return parsed


def _cast(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    # Arrow has no cast from some types to themselves.
    return column if column.type == kind else column.cast(kind)
