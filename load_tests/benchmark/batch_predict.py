"""``python -m load_tests.benchmark.batch_predict``: rows a second and memory of batch prediction.

The table is drawn, with replacement, from the test split, and has an id in each row.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from rich.console import Console

from contract import DATASETS
from contract.dataset import Dataset
from load_tests.benchmark import processes
from load_tests.errors import LoadTestError
from load_tests.traffic import FEATURES, Traffic
from local_service import PROJECT

CHUNK_ROWS = 250_000
SAMPLE_SECONDS = 0.1


@dataclass(frozen=True)
class Measured:
    """What a run took: wall time and CPU time of its processes in seconds, and most memory (PSS) in bytes."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int


def write_table(dataset: Dataset, rows: int, path: Path) -> None:
    """Draw a table of so many rows; Parquet or CSV by the name of the file.

    Raises:
        LoadTestError: the pipeline has not run.
    """
    traffic = Traffic.read(dataset, FEATURES)
    schema = pa.schema([("id", pa.int64()), *((name, pa.float64()) for name in dataset.feature_names)])
    chunks = _chunks(traffic, rows, schema)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        with pyarrow.csv.CSVWriter(path, schema) as writer:
            for chunk in chunks:
                writer.write_table(chunk)
    else:
        with pyarrow.parquet.ParquetWriter(path, schema) as writer:
            for chunk in chunks:
                writer.write_table(chunk)


def _chunks(traffic: Traffic, rows: int, schema: pa.Schema) -> Iterator[pa.Table]:
    for start in range(0, rows, CHUNK_ROWS):
        count = min(CHUNK_ROWS, rows - start)
        drawn = traffic.rows(count)
        columns = [np.arange(start, start + count), *drawn.T]
        yield pa.table([pa.array(column) for column in columns], schema=schema)


def measure(command: Sequence[str], folder: Path = PROJECT, environment: Mapping[str, str] | None = None) -> Measured:
    """Run a command in a folder, with this environment or the process' own, and watch its whole process tree.

    Raises:
        LoadTestError: it failed; what it says is on the screen.
    """
    started = time.perf_counter()
    peak = 0
    with subprocess.Popen(command, cwd=folder, env=environment) as process:  # noqa: S603 # our own command
        cpu = 0.0
        while process.poll() is None:
            try:
                peak = max(peak, processes.memory(process.pid).total)
                cpu = max(cpu, processes.cpu_seconds(process.pid))
            except psutil.NoSuchProcess:
                continue  # it just ended
            time.sleep(SAMPLE_SECONDS)
    if process.returncode:
        raise LoadTestError(f"`{' '.join(command)}` failed: exit status {process.returncode}.")
    return Measured(time.perf_counter() - started, cpu, peak)


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw a table, predict it, tell rate and memory."""
    parser = argparse.ArgumentParser(prog="python -m load_tests.benchmark.batch_predict", description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--model", default="housing@champion")
    parser.add_argument("--format", choices=["parquet", "csv"], default="parquet")
    parser.add_argument("--options", default="", help="of batch prediction, as in --options '--processes 1'")
    asked = parser.parse_args(arguments)
    screen = Console()
    with tempfile.TemporaryDirectory(prefix="batch-") as folder:
        table, target = Path(folder) / f"in.{asked.format}", Path(folder) / f"out.{asked.format}"
        try:
            write_table(DATASETS[asked.model.partition("@")[0]], asked.rows, table)
            screen.print(f"{asked.rows:,} rows, {table.stat().st_size / 1e6:,.0f} MB of {asked.format}")
            measured = measure(
                [
                    *(sys.executable, "-m", "batch_predict", str(table), str(target)),
                    *("--model", asked.model, *asked.options.split()),
                ]
            )
        except LoadTestError as error:
            screen.print(str(error))
            return 1
        screen.print(
            f"{measured.seconds:.1f} s, {asked.rows / measured.seconds:,.0f} rows/s, "
            f"{measured.cpu_seconds * 1e6 / asked.rows:.2f} CPU-s a million rows, "
            f"peak {measured.peak_bytes / 1e6:,.0f} MB, {target.stat().st_size / 1e6:,.0f} MB out"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
