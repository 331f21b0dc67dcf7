"""A project folder that is moved or copied keeps its runs and its models."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from local_service import PROJECT

TRAIN = """
from tests.training.workspace import train, tiny_train_params, write_features
from training import tracking
write_features("iris")
tracking.promote(train("iris", tiny_train_params("iris")))
"""
AS_MLFLOW_DOES = """
from training.registry import local_store
local_store.make_paths_relative = lambda uri: None
"""
PREDICT = """
from pathlib import Path
from batch_predict.run import Options, predict_table
predict_table(Path("data/features/iris/test.parquet"), Path("out.parquet"), "iris@champion", Options(processes=1))
"""


def run(code: str, project: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    ended = subprocess.run(
        [sys.executable, "-c", code],
        cwd=project,
        env={**environment, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr


def artifacts(project: Path) -> int:
    return len(list((project / "mlruns").rglob("model.onnx")))


@pytest.mark.weekly
@pytest.mark.parametrize("how", ["moved", "copied"])
def test_batch_prediction_and_training_go_on(tmp_path: Path, how: str) -> None:
    first, second = tmp_path / "mlruns" / "first", tmp_path / "second"
    first.mkdir(parents=True)
    if how == "moved":
        run(TRAIN, first)
        first.rename(second)
    else:
        # Of an earlier release, which stored the paths as MLflow makes them.
        run(AS_MLFLOW_DOES + TRAIN, first)
        shutil.copytree(first, second)
        shutil.rmtree(first / "mlruns")  # the copy must not need it
    run(PREDICT + TRAIN, second)
    assert len(pq.read_table(second / "out.parquet")) == 30
    assert artifacts(second) == 2
    assert artifacts(first) == 0
