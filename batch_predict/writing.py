"""Tables to files, always with the same bytes for the same rows."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from batch_predict.source import Format


def write(table: pa.Table, path: Path, table_format: Format) -> None:
    """Write a table to a file."""
    if table_format is Format.PARQUET:
        pq.write_table(table, path)
    else:
        pyarrow.csv.write_csv(table, str(path))


def join(parts: Sequence[Path], path: Path, table_format: Format) -> None:
    """Write the rows of files of one schema, at least one, into one file; one of them is in memory at a time."""
    if table_format is Format.PARQUET:
        with pq.ParquetWriter(path, pq.read_schema(parts[0])) as writer:
            for part in parts:
                writer.write_table(pq.read_table(part, use_threads=False))
        return
    with path.open("wb") as joined:
        for number, part in enumerate(parts):
            with part.open("rb") as file:
                if number:
                    file.seek(_header_bytes(part))
                while chunk := file.read(1 << 20):
                    joined.write(chunk)


def _header_bytes(path: Path) -> int:
    """The length of the header: of the file's columns without its rows."""
    with pyarrow.csv.open_csv(path, read_options=pyarrow.csv.ReadOptions(use_threads=False)) as file:
        names = file.schema.names
    sink = pa.BufferOutputStream()
    pyarrow.csv.write_csv(pa.table([pa.array([], pa.string())] * len(names), names=names), sink)
    return len(sink.getvalue())
