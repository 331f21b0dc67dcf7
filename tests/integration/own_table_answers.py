"""Whether every way to ask a served model gives the same answer: run as a command in a project that serves a table.

``python -m tests.integration.own_table_answers NAME URL GRPC_ADDRESS PREDICTIONS`` asks for rows of the test split and
for hard rows, and compares with the estimator, and with what batch prediction wrote for the raw table.
"""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from contract import DATASETS
from contract.dataset import Dataset, Task
from contract.table import FloatMatrix, check_features
from tests.kinds import models as drawn
from tests.kinds.test_protocols import PROTOCOLS
from training import params
from training.data_preparation import RAW, read_csv
from training.onnx.export import ESTIMATOR_FILE, load_estimator, predictor
from training.splits import Splits

ROWS = 40


def main(name: str, url: str, address: str, predictions: Path) -> None:
    """Compare all of them."""
    dataset = DATASETS[name]
    predict = predictor(dataset, load_estimator(Path("models") / name / ESTIMATOR_FILE))
    worker: Any = SimpleNamespace(url=url, target=address)
    test = Splits.read(dataset, Path("data/features") / name).test.features[:ROWS]
    for rows in (test, drawn.matrix(dataset, drawn.rows(dataset, ROWS))):
        bodies = [dataset.decode(row) for row in rows.tolist()]
        answers = {protocol: ask(worker, dataset, bodies) for protocol, ask in PROTOCOLS.items()}
        first = answers["flat"]
        for protocol, found in answers.items():
            np.testing.assert_array_equal(found, first, err_msg=f"{name}, {protocol}")
        tolerance = params.load().training(name).tolerance
        np.testing.assert_allclose(first, predict(rows).reshape(first.shape), rtol=0, atol=tolerance, err_msg=name)
    written = pd.read_parquet(predictions).head(ROWS)
    raw, broken = check_features(dataset, {key: cells[:ROWS] for key, cells in read_csv(RAW / f"{name}.csv").items()})
    assert not broken
    bodies = [dataset.decode(row) for row in raw.tolist()]
    np.testing.assert_array_equal(_of_batch(dataset, written), PROTOCOLS["batch"](worker, dataset, bodies))


def _of_batch(dataset: Dataset, written: pd.DataFrame) -> FloatMatrix:
    columns = [f"probability_{each}" for each in dataset.target.classes]
    found: FloatMatrix = written[columns if dataset.task is Task.CLASSIFICATION else ["prediction"]].to_numpy()
    return found


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4]))
