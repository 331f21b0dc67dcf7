"""A part of a table into memory."""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from batch_predict.csv_records import record_ends, unlimited_fields
from batch_predict.plan import Part
from batch_predict.source import Format

BATCH_ROWS = 1 << 16


@dataclass(frozen=True)
class Malformed:
    """A record that is no row: its number in the file, its text, and what is wrong with it."""

    row: int
    record: str
    reason: str


@dataclass(frozen=True)
class ReadPart:
    """Columns in the order of the schema; ``rows`` has the number of each row in the file, ``[N]``."""

    table: pa.Table
    rows: NDArray[np.int64]
    malformed: list[Malformed]


class Reader:
    """Reads parts of the files of one table; cheapest in their order, since it goes on where it was."""

    def __init__(self, table_format: Format, schema: pa.Schema) -> None:
        self._format = table_format
        self._schema = schema
        self._stream: _ParquetStream | None = None

    def read(self, part: Part) -> ReadPart:
        """The rows of a part.

        Raises:
            pyarrow.ArrowInvalid, OSError: the file is damaged, or is no longer what it was when the parts were cut.
        """
        if self._format is Format.CSV:
            return read_csv(part, self._schema)
        if self._stream is None or not self._stream.reaches(part):
            self._stream = _ParquetStream(part.path, part.first_row)
        table = self._stream.read(part).select(self._schema.names)
        return ReadPart(table, np.arange(part.first_row, part.first_row + part.rows, dtype=np.int64), [])


class _ParquetStream:
    """The rows of a Parquet file from a row group on, in their order. A row group may be larger than the memory."""

    def __init__(self, path: Path, first_row: int) -> None:
        self._path = path
        # A buffer: pages are read when they are wanted, not the whole column of the row group.
        file = pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
        counts = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
        self._group_starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        group = self._group(first_row)
        self._position = int(self._group_starts[group])
        self._schema = file.schema_arrow.remove_metadata()
        groups = list(range(group, len(counts)))
        self._batches: Iterator[pa.RecordBatch] = file.iter_batches(BATCH_ROWS, row_groups=groups, use_threads=False)
        self._rest: pa.RecordBatch | None = None

    def _group(self, row: int) -> int:
        return max(int(np.searchsorted(self._group_starts, row, side="right")) - 1, 0)

    def reaches(self, part: Part) -> bool:
        """Whether it is before the part, and skips nothing that need not be read."""
        if part.path != self._path or self._position > part.first_row:
            return False
        return self._position >= int(self._group_starts[self._group(part.first_row)])

    def read(self, part: Part) -> pa.Table:
        taken: list[pa.RecordBatch] = []
        missing = part.rows
        while missing:
            batch = self._rest if self._rest is not None else next(self._batches, None)
            self._rest = None
            if batch is None:
                raise pa.ArrowInvalid(f"{self._path} ends before row {part.first_row + part.rows}")
            skipped = min(max(part.first_row - self._position, 0), len(batch))
            wanted = batch.slice(skipped, missing)
            if len(wanted):
                taken.append(wanted)
            self._position += skipped + len(wanted)
            missing -= len(wanted)
            if skipped + len(wanted) < len(batch):
                self._rest = batch.slice(skipped + len(wanted))
        return pa.Table.from_batches(taken, self._schema)


def read_csv(part: Part, schema: pa.Schema) -> ReadPart:
    """The records of a part, every column as text; what is no row of so many columns in UTF-8 is malformed."""
    with part.path.open("rb") as file:
        file.seek(part.start)
        block = file.read(part.stop - part.start)
    table, numbers, malformed = _by_arrow(block, part) if part.rows else (_texts(part, []), [], [])
    if len(table) + len(malformed) != part.rows:
        # Arrow ends a record where we do not, at a carriage return within a cell.
        table, numbers, malformed = _by_python(block, part)
    rows = np.asarray(numbers, dtype=np.int64) + part.first_row
    table, rows, unreadable = _in_utf8(table.select(schema.names), rows)
    found = [Malformed(one.row + part.first_row, one.record, one.reason) for one in malformed]
    return ReadPart(table, rows, sorted([*found, *unreadable], key=lambda one: one.row))


Parsed = tuple[pa.Table, NDArray[np.int64], list[Malformed]]
"""Columns as bytes, the numbers of their rows in the part, and the records that are no rows."""


def _by_arrow(block: bytes, part: Part) -> Parsed:
    malformed: list[Malformed] = []

    def keep(row: pyarrow.csv.InvalidRow) -> str:
        malformed.append(_of_other_length(row.number - 1, row.text, row.actual_columns, row.expected_columns))
        return "skip"

    table = pyarrow.csv.read_csv(
        pa.BufferReader(block),
        read_options=pyarrow.csv.ReadOptions(
            column_names=list(part.columns), use_threads=False, block_size=len(block) + 1
        ),
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=keep),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(part.columns, pa.binary()), strings_can_be_null=False, null_values=[]
        ),
    )
    numbers = np.delete(np.arange(len(table) + len(malformed)), [one.row for one in malformed])
    return table, numbers, malformed


def _by_python(block: bytes, part: Part) -> Parsed:
    ends, blank = record_ends(block)
    starts = np.concatenate([[0], ends[:-1]])
    records: list[list[str]] = []
    numbers: list[int] = []
    malformed: list[Malformed] = []
    with unlimited_fields():
        for number, (start, end) in enumerate(zip(starts[~blank].tolist(), ends[~blank].tolist(), strict=True)):
            # Bytes as characters, one each: cells are judged as UTF-8 later, one by one.
            text = block[start:end].decode("latin-1")
            shown = block[start:end].decode("utf-8", errors="replace").rstrip("\r\n")
            try:
                (cells,) = csv.reader(io.StringIO(text, newline="\n"))
            except csv.Error as error:
                malformed.append(Malformed(number, shown, f"row {number + part.first_row}: no CSV record: {error}."))
                continue
            if len(cells) != len(part.columns):
                malformed.append(_of_other_length(number, shown, len(cells), len(part.columns)))
            else:
                records.append(cells)
                numbers.append(number)
    return _texts(part, records), np.array(numbers, dtype=np.int64), malformed


def _of_other_length(row: int, record: str, cells: int, columns: int) -> Malformed:
    return Malformed(row, record, f"the record has {cells} cells, the header {columns}.")


def _texts(part: Part, records: list[list[str]]) -> pa.Table:
    columns = list(zip(*records, strict=True)) if records else [()] * len(part.columns)
    arrays = [pa.array([cell.encode("latin-1") for cell in column], pa.binary()) for column in columns]
    return pa.table(arrays, names=list(part.columns))


def _in_utf8(table: pa.Table, rows: NDArray[np.int64]) -> tuple[pa.Table, NDArray[np.int64], list[Malformed]]:
    columns: list[pa.ChunkedArray] = []
    bad: dict[int, str] = {}
    for name in table.column_names:
        try:
            columns.append(table[name].cast(pa.string()))
        except pa.ArrowInvalid:
            texts = [cell.decode("utf-8", errors="replace") for cell in table[name].to_pylist()]
            for index, (cell, text) in enumerate(zip(table[name].to_pylist(), texts, strict=True)):
                if text.encode() != cell:
                    bad.setdefault(index, name)
            columns.append(pa.chunked_array([pa.array(texts, pa.string())]))
    text_table = pa.table(columns, names=table.column_names)
    if not bad:
        return text_table, rows, []
    malformed = [
        Malformed(int(rows[index]), _record(text_table.slice(index, 1)), f"{name}: the text is not UTF-8.")
        for index, name in bad.items()
    ]
    good = np.delete(np.arange(len(rows)), list(bad))
    return text_table.take(pa.array(good)), rows[good], malformed


def _record(row: pa.Table) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(cell.as_py() for column in row.columns for cell in column)
    return text.getvalue()
