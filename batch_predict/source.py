"""The table to predict: a file or a folder of files, Parquet or CSV, with one set of columns."""

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pyarrow as pa

from batch_predict import csv_file, parquet_file
from contract.dataset import Dataset
from training.errors import PipelineError

HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
"""The value in a folder's name that stands for null."""


class Format(StrEnum):
    """How a table is stored."""

    PARQUET = "parquet"
    CSV = "csv"


@dataclass(frozen=True)
class InputFile:
    """A file of the table.

    ``name`` is relative to the folder that was asked for, ``schema`` in the file's order. ``folders`` are the columns
    given by the names of its folders, such as ``region=CA/``; None is null. ``first_byte`` is where the rows of a CSV
    file begin.
    """

    path: Path
    name: str
    schema: pa.Schema
    folders: tuple[tuple[str, str | None], ...]
    first_byte: int
    size: int
    modified_ns: int

    @property
    def columns(self) -> list[str]:
        """The columns inside the file."""
        names: list[str] = self.schema.names
        return names[: len(names) - len(self.folders)]


@dataclass(frozen=True)
class Layout:
    """How the files are read: ``schema`` holds for all of them; ``int96_unit`` is that of INT96 timestamps."""

    format: Format
    schema: pa.Schema
    int96_unit: str


@dataclass(frozen=True)
class Source:
    """The files in the order of their names."""

    files: tuple[InputFile, ...]
    layout: Layout

    def extra_columns(self, dataset: Dataset) -> list[str]:
        """The columns that are no features."""
        return [name for name in self.layout.schema.names if name not in dataset.feature_names]


def find(path: Path, dataset: Dataset) -> Source:
    """The table at a path. A folder is read with its subfolders, except names that begin with . or _.

    The columns of a CSV file and those of folder names are text.

    Raises:
        PipelineError: there is no table, it lacks a feature, or its files do not fit together; names file and column.
    """
    base = path if path.is_dir() else path.parent
    paths = _paths(path)
    formats = {file.suffix.lower().removeprefix(".") for file in paths}
    if not paths or not formats <= set(Format):
        raise PipelineError(f"{path} is no table: name a .parquet or .csv file, or a folder of such files.")
    if len(formats) > 1:
        raise PipelineError(f"{path} has Parquet and CSV files: put them into separate folders.")
    table_format = Format(formats.pop())
    unit = parquet_file.int96_unit(paths) if table_format is Format.PARQUET else ""
    files = tuple(_input_file(file, base, table_format, unit) for file in paths)
    for file in files:
        _check_features(file, dataset)
        _check_same_columns(files[0], file)
    layout = Layout(table_format, _common_schema(files), unit)
    if table_format is Format.PARQUET:
        _check_values(files, layout)
    return Source(files, layout)


def _paths(path: Path) -> list[Path]:
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


def _input_file(path: Path, base: Path, table_format: Format, int96_unit: str) -> InputFile:
    if table_format is Format.PARQUET:
        schema, first_byte = parquet_file.read_schema(path, int96_unit), 0
    else:
        names, first_byte = csv_file.read_header(path)
        schema = pa.schema([(name, pa.string()) for name in names])
    name = path.relative_to(base)
    pairs = [folder.partition("=") for folder in name.parts[:-1]]
    folders = tuple((key, None if value == HIVE_NULL else unquote(value)) for key, equals, value in pairs if equals)
    for key, value in folders:
        if key in schema.names:
            raise PipelineError(f"{path} has a column {key}, and a folder {key}={value}: rename one of them.")
        schema = schema.append(pa.field(key, pa.string()))
    state = path.stat()
    return InputFile(path.resolve(), name.as_posix(), schema, folders, first_byte, state.st_size, state.st_mtime_ns)


def _check_features(file: InputFile, dataset: Dataset) -> None:
    repeated = [name for name, count in Counter(file.schema.names).items() if count > 1]
    if repeated:
        raise PipelineError(f"{file.path} has the column {repeated[0]} twice: rename one of them.")
    missing = [name for name in dataset.feature_names if name not in file.schema.names]
    if missing:
        raise PipelineError(
            f"{file.path}: the column {missing[0]} is missing. A row of {dataset.name} has "
            f"{', '.join(dataset.feature_names)}; the file has {', '.join(file.schema.names) or 'no columns'}."
        )
    for name in dataset.feature_names:
        kind = file.schema.field(name).type
        if not _is_numbers_or_text(kind):
            raise PipelineError(f"{file.path}: the column {name} is of type {kind}; it must be numbers, or text.")


def _check_same_columns(first: InputFile, file: InputFile) -> None:
    for one, other in ((first, file), (file, first)):
        odd = [name for name in one.schema.names if name not in other.schema.names]
        if odd:
            raise PipelineError(f"{one.path} has a column {odd[0]}, {other.path} has not: predict them separately.")


def _common_schema(files: tuple[InputFile, ...]) -> pa.Schema:
    """The columns of the first file, in types that can hold the values of all files."""
    first = files[0]
    fields = []
    for name in first.schema.names:
        kind = _plain(first.schema.field(name).type)
        for file in files[1:]:
            other = _plain(file.schema.field(name).type)
            common = _common_type(kind, other)
            if common is None:
                raise PipelineError(
                    f"The column {name} is {kind} in {first.path} and {other} in {file.path}: convert one of them."
                )
            kind = common
        fields.append(pa.field(name, kind))
    return pa.schema(fields)


def _plain(kind: pa.DataType) -> pa.DataType:
    """Arrow cannot select rows of view types: the same values as ordinary text or bytes."""
    if pa.types.is_string_view(kind):
        return pa.large_string()
    return pa.large_binary() if pa.types.is_binary_view(kind) else kind


def _common_type(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """A type for the values of both, which may still have to be checked one by one; None if there is none."""
    if one == other:
        return one
    one, other = (kind.value_type if pa.types.is_dictionary(kind) else kind for kind in (one, other))
    if one == other or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    if all(pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in (one, other)):
        schemas = [pa.schema([("", kind)]) for kind in (one, other)]
        return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    if all(pa.types.is_string(kind) or pa.types.is_large_string(kind) for kind in (one, other)):
        return pa.large_string()
    return None


def _check_values(files: tuple[InputFile, ...], layout: Layout) -> None:
    """Read the columns whose values might not pass through unchanged.

    Raises:
        PipelineError: they would not; names file and column.
    """
    for file in files:
        for name in file.columns:
            kind, common = file.schema.field(name).type, layout.schema.field(name).type
            joined = kind != common and (pa.types.is_integer(kind) or pa.types.is_floating(kind))
            # Arrow writes fixed-size lists that it cannot read again: those with nulls.
            if not joined and not _has_fixed_size_list(kind):
                continue
            for piece in parquet_file.column(file.path, name, layout.int96_unit):
                try:
                    _ = piece.cast(common) if joined else piece
                except pa.ArrowInvalid as error:
                    raise PipelineError(
                        f"{file.path}: the column {name} is {kind}, and with the other files {common}, which cannot "
                        f"hold all of its values: {error}"
                    ) from error


def check_csv_values(source: Source) -> None:
    """Refuse dates that Arrow's CSV writer replaces by an error text, or writes in a form that few programs read.

    Raises:
        PipelineError: names file and column.
    """
    if source.layout.format is Format.CSV:
        return
    first, last = np.datetime64("0001-01-01"), np.datetime64("9999-12-31")
    for file in source.files:
        for field in source.layout.schema:
            if not (pa.types.is_date(field.type) or pa.types.is_timestamp(field.type)):
                continue
            for piece in parquet_file.column(file.path, field.name, source.layout.int96_unit):
                days = piece.drop_null().to_numpy(zero_copy_only=False).astype("datetime64[D]")
                if len(days) and not (days.min() >= first and days.max() <= last):
                    raise PipelineError(
                        f"{file.path}: the column {field.name} has dates outside of the years 1 to 9999, for which CSV "
                        "has no common form: use --format parquet."
                    )


def _has_fixed_size_list(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    if pa.types.is_fixed_size_list(kind):
        return True
    return any(_has_fixed_size_list(kind.field(index).type) for index in range(kind.num_fields))


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
        or types.is_string_view(kind)
        or types.is_null(kind)
    )
