"""Small real tables, and parameters that train in a second."""

import numpy as np
import pandas as pd
import pytest
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it has no types

from contract import DATASETS
from contract.dataset import Task
from local_service import PROJECT
from training.params import CandidateParams, RowFeatureParams, TrainParams
from training.splits import Split, Splits

RAW = PROJECT / "data/raw"


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> object:
    """Threads that wait for each other by spinning make tests slow on a machine that is busy."""
    return threadpool_limits(limits=1)


def raw_table(name: str, rows: int | None = None) -> pd.DataFrame:
    """The first rows of a raw file, evenly spread, as text."""
    table = pd.read_csv(RAW / f"{name}.csv", dtype=str)
    return table if rows is None else table.iloc[:: max(1, len(table) // rows)].head(rows)


def tiny_splits(name: str, rows: int = 150) -> Splits:
    """Splits of a few rows of a real table."""
    dataset = DATASETS[name]
    table = raw_table(name, rows).sample(frac=1, random_state=0)
    features = table[list(dataset.feature_names)].to_numpy(dtype=np.float64)
    target = table[dataset.target.name]
    if dataset.task is Task.CLASSIFICATION:
        target = target.map(dataset.target.classes.index)
    values = target.to_numpy(dtype=np.float64)
    cut = len(table) * 4 // 5
    return Splits(Split(features[:cut], values[:cut]), Split(features[cut:], values[cut:]))


def tiny_train_params(name: str, **changes: object) -> TrainParams:
    """Two quick candidates for a dataset."""
    simple, forest = ("linear", "random_forest") if name == "housing" else ("logistic_regression", "random_forest")
    params = TrainParams(
        folds=2,
        random_state=0,
        tolerance=1e-9,
        golden_rows=4,
        features=RowFeatureParams(),
        candidates={
            "simple": CandidateParams(estimator=simple),
            "forest": CandidateParams(estimator=forest, parameters={"n_estimators": 3, "n_jobs": 1}),
        },
    )
    return params.model_copy(update=changes)
