"""The rows of a model as a CSV or a Parquet file."""

import csv
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from contract.feature import Feature
from contract.table import FloatMatrix
from ledger.errors import LedgerError
from ledger.reader import ModelVersion, Rows
from ledger.times import iso

ROW_GROUP = 100_000
"""Rows per row group of Parquet."""

Columns = dict[str, Sequence[Any]]
"""Columns by name, each ``[N]``; None where there is no value."""
Write = Callable[[Columns], None]


def export(path: Path, models: Sequence[ModelVersion], chunks: Iterable[Rows]) -> int:
    """Write chunks of rows to a file, which appears once it is complete; return the number of rows.

    Columns: ``prediction_id``, ``row``, ``time``, ``request_id``, ``version``, ``protocol``, the features by name,
    ``prediction``, ``probability_<class>`` and ``actual``. Classes and categories are named, times are ISO 8601.

    Args:
        path: ends with ``.csv`` or ``.parquet``; an older file is replaced.
        models: the versions whose rows are written.
        chunks: of these versions.

    Raises:
        LedgerError: the format is not known, its library is not installed, or there are no rows.
    """
    writers: dict[str, Callable[[Path, Collection[str]], AbstractContextManager[Write]]] = {
        ".csv": _csv,
        ".parquet": _parquet,
    }
    if path.suffix not in writers:
        raise LedgerError(f"{path.name} ends with neither .csv nor .parquet: the ending decides the format.")
    # A feature that a version does not have is empty in its rows.
    features = {feature.name: feature for model in models for feature in model.kinds}
    classes = list(dict.fromkeys(name for model in models if model.edges is None for name in model.outputs))
    texts = {_column_name(feature.name) for model in models for feature in model.kinds if not feature.numeric}
    unfinished = path.with_name(f".{path.name}.unfinished")
    total = 0
    try:
        with writers[path.suffix](unfinished, texts) as write:
            for rows in chunks:
                write(_columns(rows, list(features), classes, texts))
                total += len(rows)
        if not total:
            raise LedgerError(f"There are no such rows: {path} was not written.")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return total


def _columns(rows: Rows, features: Sequence[str], classes: Sequence[str], texts: Collection[str]) -> Columns:
    model = rows.model
    by_feature = {
        feature.name: _values(feature, column, as_text=_column_name(feature.name) in texts)
        for feature, column in zip(model.kinds, rows.features.T, strict=True)
    }
    columns: Columns = {
        "prediction_id": rows.ids,
        "row": rows.index.tolist(),
        "time": rows.time_us.tolist(),
        "request_id": rows.request_ids,
        "version": [model.version] * len(rows),
        "protocol": rows.protocols,
    }
    for name in features:
        # The ledger's own columns come first; a feature of the same name gets another one.
        columns[_column_name(name)] = by_feature.get(name, [None] * len(rows))
    if model.edges is None:
        columns["prediction"] = [model.outputs[number] for number in rows.outputs.argmax(axis=1).tolist()]
        columns["actual"] = [
            None if np.isnan(number) else model.outputs[int(number)] for number in rows.actuals.tolist()
        ]
    else:
        columns["prediction"] = rows.outputs[:, 0].tolist()
        columns["actual"] = _numbers(rows.actuals)
    by_class = dict(zip(model.outputs, rows.outputs.T, strict=True)) if model.edges is None else {}
    for name in classes:
        columns[f"probability_{name}"] = _numbers(by_class.get(name, np.full(len(rows), np.nan)))
    return columns


RESERVED = {"prediction_id", "row", "time", "request_id", "version", "protocol", "prediction", "actual"}


def _column_name(feature: str) -> str:
    return f"feature_{feature}" if feature in RESERVED else feature


def _values(feature: Feature, column: FloatMatrix, *, as_text: bool) -> list[Any]:
    """The values of a feature: numbers, or text; None where there is none, or it is not on record."""
    if not as_text:
        return _numbers(column)
    return [None if number != number else feature.show(number) for number in column.tolist()]


def _numbers(column: FloatMatrix) -> list[float | None]:
    return [None if number != number else number for number in column.tolist()]


@contextmanager
def _csv(path: Path, _: Collection[str]) -> Iterator[Write]:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        header: list[str] = []

        def write(columns: Columns) -> None:
            if not header:
                header.extend(columns)
                writer.writerow(header)
            shown = {**columns, "time": [iso(time_us) for time_us in columns["time"]]}
            writer.writerows(zip(*shown.values(), strict=True))

        yield write


@contextmanager
def _parquet(path: Path, of_text: Collection[str]) -> Iterator[Write]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise LedgerError(
            "Parquet needs pyarrow, which the service's image does not have: `pip install pyarrow`, or write a .csv."
        ) from None
    types = {"row": pa.int32(), "time": pa.timestamp("us", tz="UTC")}
    texts = {"prediction_id", "request_id", "version", "protocol", *of_text}
    file: Any = None
    waiting: list[Any] = []

    def flush() -> None:
        nonlocal file
        table = pa.concat_tables(waiting)
        file = file or parquet.ParquetWriter(path, table.schema)
        file.write_table(table, row_group_size=ROW_GROUP)
        waiting.clear()

    def write(columns: Columns) -> None:
        text = texts | ({"prediction", "actual"} if isinstance(columns["prediction"][0], str) else set())
        of_column = {name: types.get(name, pa.string() if name in text else pa.float64()) for name in columns}
        waiting.append(pa.table(dict(columns), schema=pa.schema(list(of_column.items()))))
        if sum(len(table) for table in waiting) >= ROW_GROUP:
            flush()

    try:
        yield write
        if waiting:
            flush()
    finally:
        if file is not None:
            file.close()
