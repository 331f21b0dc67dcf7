"""Where the records of a CSV file end, by RFC 4180: a quoted cell may hold line ends.

A stray quote, inside a cell that did not begin with one, is text, as for Python's and Arrow's readers.
"""

import csv
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contract.errors import PipelineError

BLOCK_BYTES = 4 << 20
LONGEST_RECORD_BYTES = 16 << 20
"""A longer record is taken for a quote that was left open: the rest of the file would be one cell."""

_NEWLINE, _RETURN, _QUOTE, _COMMA = b'\n\r",'


def blocks_of_records(path: Path) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """A file in blocks of whole records: where a block begins, and where each record in it ends, in bytes of the file.

    The header is a record. Blank lines are none; their bytes belong to the record after them.

    Raises:
        PipelineError: a record does not end.
    """
    start, block = 0, b""
    with path.open("rb") as file:
        while True:
            chunk = file.read(BLOCK_BYTES)
            block += chunk
            if not chunk and block and not block.endswith(b"\n"):
                block += b"\n"  # the last record need not end in a line end
            ends, blank = record_ends(block)
            if not len(ends):
                if not chunk:
                    return
                if len(block) > LONGEST_RECORD_BYTES:
                    raise PipelineError(
                        f"{path}: the record that begins at byte {start} has no end within "
                        f"{LONGEST_RECORD_BYTES >> 20} MB. Is a quote left open there?"
                    )
                continue
            records = ends[~blank]
            if len(records):
                yield start, start + records
            start += int(ends[-1])
            block = block[int(ends[-1]) :]


def record_ends(block: bytes) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Where each record of a block ends that begins with a record, and whether it is a blank line."""
    text = np.frombuffer(block, dtype=np.uint8)
    newlines = np.flatnonzero(text == _NEWLINE)
    quotes = np.flatnonzero(text == _QUOTE)
    if len(quotes):
        # Between an odd quote and the next one everything is a cell, if every odd quote begins one.
        opening = quotes[::2]
        before = text[opening[opening > 0] - 1]
        if not np.isin(before, (_COMMA, _NEWLINE, _RETURN, _QUOTE)).all():
            return _ends_line_by_line(block)
        newlines = newlines[np.searchsorted(quotes, newlines) % 2 == 0]
    ends = newlines.astype(np.int64) + 1
    lengths = np.diff(ends, prepend=0)
    blank = lengths == 1
    windows = np.flatnonzero(lengths == 2)
    blank[windows] = text[ends[windows] - 2] == _RETURN
    return ends, blank


def _ends_line_by_line(block: bytes) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The same by Python's reader, some twenty times slower."""
    lines = [line + b"\n" for line in block.split(b"\n")[:-1]]
    line_ends = np.cumsum([len(line) for line in lines], dtype=np.int64)
    ran_out = False

    def text() -> Iterator[str]:
        nonlocal ran_out
        yield from (line.decode("latin-1") for line in lines)
        ran_out = True  # asked for after the last line: the record is still in a quoted cell

    ends, blank = [], []
    reader = csv.reader(text())
    with unlimited_fields():
        while reader.line_num < len(lines):
            try:
                record = next(reader)
            except csv.Error:
                record = ["no CSV, but a record"]
            if ran_out:
                break
            ends.append(int(line_ends[reader.line_num - 1]))
            blank.append(not record)
    return np.array(ends, dtype=np.int64), np.array(blank, dtype=bool)


@contextmanager
def unlimited_fields() -> Iterator[None]:
    """Python's reader takes cells of any length in the block."""
    former = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(former)
