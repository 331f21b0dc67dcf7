"""The table to predict: a file or a folder of files, Parquet or CSV, with one set of columns."""

import csv
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from batch_predict.columns import REJECTED_SCHEMA, prediction_columns
from contract.dataset import Dataset
from contract.errors import PipelineError


class Format(StrEnum):
    """How a table is stored."""

    PARQUET = "parquet"
    CSV = "csv"


@dataclass(frozen=True)
class InputFile:
    """A file of the table. ``name`` is relative to the folder that was asked for; ``schema`` in the file's order."""

    path: Path
    name: str
    schema: pa.Schema
    size: int
    modified_ns: int


@dataclass(frozen=True)
class Source:
    """The files in the order of their names; ``schema`` holds for all of them. The columns of a CSV file are text."""

    format: Format
    files: tuple[InputFile, ...]
    schema: pa.Schema

    def extra_columns(self, dataset: Dataset) -> list[str]:
        """The columns that are no features."""
        return [name for name in self.schema.names if name not in dataset.feature_names]


def find(path: Path) -> Source:
    """The table at a path. Of a folder all files count, its own folders' too, but for names that begin with . or _.

    Raises:
        PipelineError: there is none, or its files do not belong together.
    """
    base = path if path.is_dir() else path.parent
    files = _files(path)
    formats = {file.suffix.lower().removeprefix(".") for file in files}
    if not files or not formats <= set(Format):
        raise PipelineError(
            f"{path} is no table: a file that ends in .parquet or .csv is needed, or a folder with such files."
        )
    if len(formats) > 1:
        raise PipelineError(f"{path} has Parquet and CSV files: put them into a folder each.")
    table_format = Format(formats.pop())
    read = _parquet_schema if table_format is Format.PARQUET else _csv_schema
    found = []
    for file in files:
        state = file.stat()
        name = file.relative_to(base).as_posix()
        found.append(InputFile(file.resolve(), name, read(file), state.st_size, state.st_mtime_ns))
    return Source(table_format, tuple(found), found[0].schema)


def check(source: Source, dataset: Dataset) -> None:
    """Refuse, before any row is read, what cannot be predicted.

    Raises:
        PipelineError: names the file and the column.
    """
    for file in source.files:
        _check_features(file, dataset)
        _check_alike(source, file)
    for name in (*prediction_columns(dataset), *REJECTED_SCHEMA.names):
        if name in source.schema.names:
            raise PipelineError(
                f"{source.files[0].path} has a column {name}, which the output has too. Give the column another name."
            )


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise PipelineError(f"{path} does not exist. Name a Parquet or CSV file, or a folder of such files.")
    if path.is_file():
        return [path]
    return [
        file
        for file in sorted(path.rglob("*"))
        if file.is_file()
        and file.suffix.lower() in (".parquet", ".csv")
        and not any(part.startswith((".", "_")) for part in file.relative_to(path).parts)
    ]


def _parquet_schema(path: Path) -> pa.Schema:
    try:
        return pq.read_schema(path).remove_metadata()
    except (pa.ArrowInvalid, OSError) as error:
        raise PipelineError(f"{path} cannot be read as Parquet: {error}") from error


def _csv_schema(path: Path) -> pa.Schema:
    try:
        # Of the header alone is UTF-8 asked here: a row that is not will be rejected.
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            header = next(csv.reader(file), [])
        ",".join(header).encode("utf-8")
    except (UnicodeEncodeError, csv.Error, OSError) as error:
        raise PipelineError(f"{path}: the header cannot be read as CSV in UTF-8: {error}") from error
    if not header:
        raise PipelineError(f"{path} does not begin with a header: the names of its columns, separated by commas.")
    return pa.schema([(name, pa.string()) for name in header])


def _check_features(file: InputFile, dataset: Dataset) -> None:
    repeated = [name for name, count in Counter(file.schema.names).items() if count > 1]
    if repeated:
        raise PipelineError(f"{file.path}: the column {repeated[0]} is there twice. Give one another name.")
    missing = [name for name in dataset.feature_names if name not in file.schema.names]
    if missing:
        raise PipelineError(
            f"{file.path}: the column {missing[0]} is missing. A row of {dataset.name} has "
            f"{', '.join(dataset.feature_names)}; the file has {', '.join(file.schema.names) or 'no columns'}."
        )
    for name in dataset.feature_names:
        kind = file.schema.field(name).type
        if not _is_numbers_or_text(kind):
            raise PipelineError(
                f"{file.path}: the column {name} is of type {kind}; numbers are needed, or text of them."
            )


def _is_numbers_or_text(kind: pa.DataType) -> bool:
    types = pa.types
    if types.is_dictionary(kind):
        kind = kind.value_type
    return bool(
        types.is_integer(kind)
        or types.is_floating(kind)
        or types.is_decimal(kind)
        or types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_null(kind)
    )


def _check_alike(source: Source, file: InputFile) -> None:
    first = source.files[0]
    for one, other in ((first, file), (file, first)):
        odd = [name for name in one.schema.names if name not in other.schema.names]
        if odd:
            raise PipelineError(f"{one.path} has a column {odd[0]}, {other.path} has not: predict them apart.")
    for name in first.schema.names:
        ours, theirs = first.schema.field(name).type, file.schema.field(name).type
        if ours != theirs:
            raise PipelineError(f"The column {name} is {ours} in {first.path} and {theirs} in {file.path}.")
