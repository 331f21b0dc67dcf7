"""CSV files: their header, their records, and the text of their cells.

Python's ``csv`` in its strict mode decides what a record is, Arrow reads the cells. A line ends with LF, CRLF or CR,
also mixed; a quoted cell may hold line ends. If ``csv`` refuses a record, because a quoted cell is not closed or goes
on after its closing quote, its first line alone is malformed: the next record begins on the next line. Blank lines are
no records.
"""

import codecs
import csv
import io
import sys
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from training.errors import PipelineError

LONGEST_RECORD_BYTES = 16 << 20
"""A quoted cell that has not ended after so many bytes counts as never closed. A longer line is refused."""

_BATCH_BYTES = 1 << 20
_BLANK = ("\n", "\r\n", "\r")
_UTF8_CHUNK_BYTES = 1 << 20


class Record(NamedTuple):
    """The bytes from ``start`` to ``stop``; ``valid`` is False if its quotes are wrong."""

    start: int
    stop: int
    valid: bool


class Malformed(NamedTuple):
    """A record that is no row: its number in the file, its text, and what is wrong with it."""

    row: int
    text: str
    reason: str


class Parsed(NamedTuple):
    """Columns of text, the number of each row in the file (``[N]``), and the records that are no rows."""

    table: pa.Table
    rows: NDArray[np.int64]
    malformed: list[Malformed]


class Batch(NamedTuple):
    """Consecutive records: the ``starts`` and ``stops`` of their bytes, and whether each is ``valid``, all ``[N]``."""

    starts: NDArray[np.int64]
    stops: NDArray[np.int64]
    valid: NDArray[np.bool_]


def records(file: BinaryIO, name: str, start: int = 0) -> Iterator[Record]:
    """The records of ``record_batches``, one by one."""
    for batch in record_batches(file, name, start):
        yield from map(Record, batch.starts.tolist(), batch.stops.tolist(), batch.valid.tolist())


def record_batches(file: BinaryIO, name: str, start: int = 0) -> Iterator[Batch]:
    """The records of a file from its current position on, which is byte ``start`` of the file called ``name``.

    Raises:
        PipelineError: a line is longer than ``LONGEST_RECORD_BYTES``.
    """
    csv.field_size_limit(sys.maxsize)
    # One character for each byte: csv looks at quotes, commas and line ends only, which are ASCII.
    text = io.TextIOWrapper(file, encoding="latin-1", newline="")
    lines = iter(partial(text.readline, LONGEST_RECORD_BYTES), "")
    try:
        while taken := _some(lines):
            found = _whole_records(taken)
            if found is None:
                # The last record may go on behind the batch: then ``taken`` grows.
                found = np.array(list(_recovered_records(taken, lines)), dtype=np.int64).reshape(-1, 3)
            lengths = np.fromiter(map(len, taken), dtype=np.int64)
            if lengths.max() >= LONGEST_RECORD_BYTES:
                size = LONGEST_RECORD_BYTES >> 20
                raise PipelineError(f"{name} has a line of more than {size} MB behind byte {start}: is it a CSV file?")
            edges = start + np.concatenate([[0], np.cumsum(lengths)])
            yield Batch(edges[found[:, 0]], edges[found[:, 1]], found[:, 2] == 1)
            start = int(edges[-1])
    finally:
        text.detach()  # or the file would be closed with it


def _some(lines: Iterator[str]) -> list[str]:
    """About ``_BATCH_BYTES`` of lines; empty at the end."""
    taken: list[str] = []
    size = 0
    while size < _BATCH_BYTES and (more := list(islice(lines, 16))):
        taken += more
        size += sum(map(len, more))
    return taken


def _whole_records(lines: list[str]) -> NDArray[np.int64] | None:
    """The records of some lines, without blank ones, ``[N, 3]``: first line, the line behind the last, 1 for valid.

    None if they are not all valid, do not all begin and end here, or may be too long.
    """
    text = "".join(lines)
    if '"' not in text:
        starts = np.flatnonzero(np.fromiter((line not in _BLANK for line in lines), dtype=np.bool_))
        return np.column_stack([starts, starts + 1, np.ones_like(starts)])
    if len(text) >= LONGEST_RECORD_BYTES:
        return None
    reader = csv.reader(iter(lines), strict=True)
    try:
        # Negative for a blank line.
        ends = np.array([reader.line_num if cells else -reader.line_num for cells in reader], dtype=np.int64)
    except csv.Error:
        return None
    stops = np.abs(ends)
    return np.column_stack([np.concatenate([[0], stops[:-1]]), stops, np.ones_like(stops)])[ends > 0]


def _recovered_records(taken: list[str], lines: Iterator[str]) -> Iterator[tuple[int, int, int]]:
    """The same, one by one. A record that goes on behind the last line takes more lines from the file."""
    index = stop = 0

    def record_lines() -> Iterator[str]:
        nonlocal stop
        size = 0
        while size < LONGEST_RECORD_BYTES:
            if stop == len(taken):
                taken.extend(islice(lines, 1))
                if stop == len(taken):
                    return
            size += len(taken[stop])
            stop += 1
            yield taken[stop - 1]

    while index < len(taken):
        stop = index
        try:
            valid, blank = 1, not next(csv.reader(record_lines(), strict=True))
        except csv.Error:
            valid, blank, stop = 0, False, index + 1
        if not blank:
            yield index, stop, valid
        index = stop


def read_header(path: Path) -> tuple[list[str], int]:
    """The names of a file's columns, and the byte at which its rows begin.

    Raises:
        PipelineError: the file does not begin with a header in UTF-8.
    """
    try:
        with path.open("rb") as file:
            first = file.read(4)
            if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in first:
                raise PipelineError(f"{path} looks like UTF-16 or UTF-32. Save it as UTF-8.")
            start = len(codecs.BOM_UTF8) if first.startswith(codecs.BOM_UTF8) else 0
            file.seek(start)
            header = next(records(file, str(path), start), None)
            if header is None:
                raise PipelineError(f"{path} does not begin with a header: the names of its columns, with commas.")
            file.seek(header.start)
            text = file.read(header.stop - header.start).decode("utf-8")
    except UnicodeDecodeError as error:
        raise PipelineError(f"{path}: the header is not UTF-8. Save the file as UTF-8.") from error
    except OSError as error:
        raise PipelineError(f"{path} cannot be read: {error.strerror}.") from error
    if not header.valid:
        raise PipelineError(f"{path}: a quote in the header is not closed, or not followed by a comma.")
    return next(csv.reader(io.StringIO(text, newline=""), strict=True)), header.stop


def parse(block: bytes, columns: list[str], first_row: int, *, valid: bool) -> Parsed:
    """The records in a block of bytes.

    Args:
        block: whole records.
        columns: the names of all columns.
        first_row: the number of the first record.
        valid: whether the quotes of all records are known to be right.
    """
    if valid and _is_utf8(block):
        return _parse(block, columns, first_row)
    good, numbers, malformed = [], [], []
    for row, record in enumerate(records(io.BytesIO(block), "a part"), first_row):
        content = block[record.start : record.stop]
        text = content.decode("utf-8", errors="backslashreplace").rstrip("\r\n")
        if not record.valid:
            reason = f"row {row}: a quoted cell is not closed, or its closing quote is not followed by a comma."
            malformed.append(Malformed(row, text, reason))
        elif not _is_utf8(content):
            malformed.append(Malformed(row, text, f"row {row}: the text is not UTF-8."))
        else:
            good.append(content)
            numbers.append(row)
    parsed = _parse(b"".join(good), columns, 0)
    places = np.array(numbers, dtype=np.int64)
    malformed += [
        one._replace(row=int(places[one.row]), reason=one.reason.replace(f"row {one.row}:", f"row {places[one.row]}:"))
        for one in parsed.malformed
    ]
    return Parsed(parsed.table, places[parsed.rows], sorted(malformed))


def _parse(block: bytes, columns: list[str], first_row: int) -> Parsed:
    """Records in UTF-8 whose quotes are right, read by Arrow."""
    if not block:
        return Parsed(_no_rows(columns), np.empty(0, dtype=np.int64), [])
    malformed: list[Malformed] = []

    def keep(record: pyarrow.csv.InvalidRow) -> str:
        row = first_row + record.number - 1
        reason = f"row {row}: the record has {record.actual_columns} cells, the header {record.expected_columns}."
        malformed.append(Malformed(row, record.text, reason))
        return "skip"

    # The blank line in front keeps a byte order mark that is part of the first cell: Arrow drops it elsewhere.
    table = pyarrow.csv.read_csv(
        pa.BufferReader(b"\n" + block),
        read_options=pyarrow.csv.ReadOptions(column_names=columns, use_threads=False, block_size=len(block) + 2),
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=keep),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(columns, pa.string()), strings_can_be_null=False, null_values=[]
        ),
    )
    numbers = np.arange(first_row, first_row + len(table) + len(malformed), dtype=np.int64)
    return Parsed(table, np.delete(numbers, [one.row - first_row for one in malformed]), malformed)


def _no_rows(columns: list[str]) -> pa.Table:
    return pa.schema([(name, pa.string()) for name in columns]).empty_table()


def _is_utf8(block: bytes) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for start in range(0, len(block), _UTF8_CHUNK_BYTES):
            decoder.decode(block[start : start + _UTF8_CHUNK_BYTES])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True
