import os
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from contract.datasets.iris import IRIS
from load_tests.benchmark import batch_predict
from load_tests.benchmark.batch_predict import measure, write_table
from load_tests.errors import LoadTestError


@pytest.mark.parametrize("name", ["in.parquet", "in.csv"])
def test_a_table_has_rows_of_the_test_split_and_ids(
    features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(batch_predict, "FEATURES", features)
    monkeypatch.setattr(batch_predict, "CHUNK_ROWS", 40)
    write_table(IRIS, 100, tmp_path / name)
    table = pq.read_table(tmp_path / name) if name.endswith("parquet") else pyarrow.csv.read_csv(tmp_path / name)
    assert table["id"].to_pylist() == list(range(100))
    split = pq.read_table(features / "iris/test.parquet").select(list(IRIS.feature_names)).to_pylist()
    assert all(row in split for row in table.select(list(IRIS.feature_names)).to_pylist())
    assert isinstance(table, pa.Table)


def test_memory_of_a_command_is_that_of_its_largest_moment() -> None:
    # It holds the memory until it has been looked at some ten times.
    measured = measure([sys.executable, "-c", "import time; held = bytearray(200_000_000); time.sleep(1)"])
    assert 200e6 < measured.peak_bytes < 300e6
    assert measured.seconds > 1


def test_a_command_that_fails_is_told(tmp_path: Path) -> None:
    code = "import os, sys; sys.exit(os.getcwd() == sys.argv[1] and os.environ['KEY'] == 'x' and 3)"
    with pytest.raises(LoadTestError, match="exit status 3"):
        measure([sys.executable, "-c", code, str(tmp_path)], tmp_path, {**os.environ, "KEY": "x"})
