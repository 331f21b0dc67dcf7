"""Read a table as it comes, CSV or Parquet, into columns of text with one way to write a value."""

import codecs
import csv
import gzip
import io
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from training.errors import PipelineError

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
SAMPLE_LINES = 200
"""Lines that show which separator there is."""
MOST_COLUMNS = 500
PARQUET, GZIP, ZIP, OLD_EXCEL = b"PAR1", b"\x1f\x8b", b"PK\x03\x04", b"\xd0\xcf\x11\xe0"
"""How a file of this kind begins."""
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
MISSING_WORDS = frozenset({"", "na", "n/a", "#n/a", "<na>", "nan", "nat", "null", "none", "?"})
"""Cells that say that a value is missing, in lower case."""


@dataclass
class RawTable:
    """A table as text.

    Args:
        columns: cells ``[N]`` by column name, without spaces around them; "" where the value is missing.
        notes: what was assumed, in sentences.
        marks: by column, how often each other word than "" said that a value is missing.
        left_out: columns that hold no single values, and why.
    """

    columns: dict[str, list[str]]
    notes: list[str] = field(default_factory=list)
    marks: dict[str, Counter[str]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def read(path: Path) -> RawTable:
    """Read a CSV or Parquet file, whatever its separator and encoding.

    Raises:
        PipelineError: there is no such file, or it is no table with a header and rows.
    """
    try:
        content = path.read_bytes()
        if content.startswith(GZIP):
            content = gzip.decompress(content)
    except FileNotFoundError:
        raise PipelineError(f"{path}: there is no such file.") from None
    except (OSError, EOFError, zlib.error) as error:
        raise PipelineError(f"{path} cannot be read: {error}.") from error
    if content.startswith((ZIP, OLD_EXCEL)):
        raise PipelineError(f"{path} is a workbook or an archive: save the sheet as CSV, and name that file.")
    table = _parquet(path, content) if content.startswith(PARQUET) else _csv(path, content)
    if not any(table.columns.values()):
        raise PipelineError(f"{path} has no rows.")
    if len(table.columns) > MOST_COLUMNS:
        raise PipelineError(f"{path} has {len(table.columns)} columns; at most {MOST_COLUMNS} are taken: choose some.")
    for name, cells in table.columns.items():
        table.columns[name], table.marks[name] = _without_marks(cells)
    return table


def _without_marks(cells: Iterable[str]) -> tuple[list[str], Counter[str]]:
    """Cells with "" for each that says that its value is missing, and the words that say so."""
    stripped = [cell.strip() for cell in cells]
    marks = {cell for cell in set(stripped) if cell.lower() in MISSING_WORDS}
    counts = Counter(cell for cell in stripped if cell and cell in marks)
    return (["" if cell in marks else cell for cell in stripped] if counts else stripped), counts


def _csv(path: Path, content: bytes) -> RawTable:
    text, encoding = _decoded(path, content)
    # Excel reads and writes the separator in a line of its own.
    declared = _DECLARED(text)
    if declared:
        text = text[declared.end() :]
    if not text.strip():
        raise PipelineError(f"{path} is empty.")
    separator = declared[1] if declared else _separator(text)
    if separator is None:
        raise PipelineError(
            f"{path} has one column, or lines of different lengths: it must be a table whose cells are separated by "
            f"{', '.join(SEPARATORS.values())}."
        )
    header, *lines = _lines(path, text, separator)
    names = [" ".join(name.split()) for name in header]
    if lines and all(len(cells) == len(names) + 1 for cells in lines):
        names = ["", *names]  # R's write.table names no column of row names
    if not any(names) or all(is_number(name) for name in names):
        raise PipelineError(f"{path}, line 1: there is no header; the first line must name the columns.")
    names = [name or f"column {number}" for number, name in enumerate(names, start=1)]
    _check_names(path, names)
    for number, cells in enumerate(lines, start=2):
        if len(cells) != len(names):
            raise PipelineError(f"{path}, row {number - 1}: {len(cells)} cells, the header has {len(names)}.")
    notes = []
    if encoding not in ("utf-8", "utf-8-sig"):
        notes.append(f"The text is {encoding}; the copy is UTF-8.")
    if separator != ",":
        notes.append(f"The cells are separated by {SEPARATORS[separator]}; those of the copy by commas.")
    columns = dict(zip(names, map(list, zip(*lines, strict=True)), strict=True)) if lines else {}
    if separator != "," and _has_decimal_commas(columns.values()):
        columns = {name: _decimal_points(cells) for name, cells in columns.items()}
        notes.append("Numbers have decimal commas; those of the copy have points.")
    return RawTable(columns, notes)


def _decoded(path: Path, content: bytes) -> tuple[str, str]:
    """The text of a file, and its encoding."""
    encodings = [name for mark, name in _BOMS if content.startswith(mark)][:1]
    if not encodings:
        # Text in another encoding than UTF-16 has no zero bytes: without a mark, they show which half of it is which.
        zeros = [content[start:1000:2].count(0) for start in (0, 1)]
        encodings = ["utf-16-be" if zeros[0] > zeros[1] else "utf-16-le"] if any(zeros) else ["utf-8", "cp1252"]
    for encoding in encodings:
        with suppress(UnicodeDecodeError):
            return content.decode(encoding), encoding
    raise PipelineError(f"{path} is no text in UTF-8, UTF-16 or Windows' code page 1252: save it as UTF-8 CSV.")


def _separator(text: str) -> str | None:
    """The separator that splits the first lines into the most cells, and all of them into as many."""
    best, most = None, 1
    for separator in SEPARATORS:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        lengths = []
        with suppress(csv.Error):
            for cells in reader:
                if cells:
                    lengths.append(len(cells))
                if len(lengths) > SAMPLE_LINES:
                    break
        fits = len(set(lengths[1:])) <= 1 and (not lengths[1:] or lengths[1] - lengths[0] in (0, 1))
        if lengths and fits and lengths[0] > most:
            best, most = separator, lengths[0]
    if best is None:
        # Lines of different lengths are named by their number, later.
        header = text.partition("\n")[0]
        best = max(SEPARATORS, key=header.count)
        return best if best in header else None
    return best


def _lines(path: Path, text: str, separator: str) -> list[list[str]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        lines = [cells for cells in reader if any(map(str.strip, cells))]
    except csv.Error as error:
        raise PipelineError(f"{path}, line {reader.line_num}: {error}.") from error
    if not lines:
        raise PipelineError(f"{path} is empty.")
    return lines


def _check_names(path: Path, names: Sequence[str]) -> None:
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise PipelineError(f"{path}: the column {repeated[0]!r} is there more than once; rename or remove one.")


_DECLARED = re.compile(r"\ufeff?sep=([,;\t|])\r?\n", re.IGNORECASE).match
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE).fullmatch
_COMMA = re.compile(r"[+-]?(\d{1,3}(\.\d{3})+|\d+)?,\d+(e[+-]?\d+)?", re.ASCII | re.IGNORECASE).fullmatch
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?", re.ASCII).fullmatch


def is_number(cell: str) -> bool:
    """Whether a cell is a number, written with a decimal point."""
    return _NUMBER(cell) is not None


def _has_decimal_commas(columns: Iterable[Sequence[str]]) -> bool:
    """Whether a column has numbers that only a decimal comma explains."""
    for cells in columns:
        present = [cell.strip() for cell in cells if cell.strip().lower() not in MISSING_WORDS]
        with_comma = [cell for cell in present if "," in cell]
        if not with_comma or not all(_COMMA(cell) or (("," not in cell) and is_number(cell)) for cell in present):
            continue
        if not all(map(_THOUSANDS, with_comma)):
            return True
    return False


def _decimal_points(cells: list[str]) -> list[str]:
    """A column of numbers with decimal commas, with points; another one as it is."""
    stripped = [cell.strip() for cell in cells]
    if not all(cell.lower() in MISSING_WORDS or _COMMA(cell) or is_number(cell) for cell in stripped):
        return cells
    return [cell.replace(".", "").replace(",", ".") if "," in cell else cell for cell in stripped]


def without_thousands(cells: Sequence[str]) -> list[str] | None:
    """A column of numbers such as 1,234.5 without their commas; None if it is none."""
    if not all(not cell or _THOUSANDS(cell) or is_number(cell) for cell in cells):
        return None
    return [cell.replace(",", "") for cell in cells]


def _parquet(path: Path, content: bytes) -> RawTable:
    try:
        table = pq.read_table(io.BytesIO(content))
    except (pa.ArrowException, OSError) as error:
        raise PipelineError(f"{path} is damaged: {error}.") from error
    names = [" ".join(name.split()) or f"column {number}" for number, name in enumerate(table.column_names, start=1)]
    _check_names(path, names)
    columns, left_out = {}, {}
    for name, column in zip(names, table.columns, strict=True):
        if pa.types.is_nested(column.type) or pa.types.is_binary(column.type):
            left_out[name] = f"its values are no single ones ({column.type})"
        else:
            columns[name] = [_text(value) for value in column.to_pylist()]
    return RawTable(columns, left_out=left_out)


def _text(value: Any) -> str:
    """A value of Parquet as CSV has it."""
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, date | time):  # a datetime is a date
        return value.isoformat()
    if isinstance(value, Decimal):
        return format(value, "f")
    return repr(value) if isinstance(value, float) else str(value)
