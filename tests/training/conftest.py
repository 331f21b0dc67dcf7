"""Small real tables, and parameters that train in a second."""

from collections.abc import Iterator

import pandas as pd
import pytest
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it has no types

from contract import DATASETS
from contract.dataset import Task
from contract.table import check_table
from local_service import PROJECT
from training.params import CandidateParams, RowFeatureParams, TrainParams
from training.splits import Split, Splits

RAW = PROJECT / "data/raw"


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Threads that wait for each other by spinning make tests slow on a machine that is busy.

    Those of a forest race for Python's warning filters (scikit-learn 1.9), and sometimes leave none: a warning is no
    error any more.
    """
    with threadpool_limits(limits=1), pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOKY_MAX_CPU_COUNT", "1")  # joblib's threads too
        yield


def raw_table(name: str, rows: int | None = None) -> pd.DataFrame:
    """The first rows of a raw file, evenly spread, as text."""
    table = pd.read_csv(RAW / f"{name}.csv", dtype=str, keep_default_na=False)
    return table if rows is None else table.iloc[:: max(1, len(table) // rows)].head(rows)


def tiny_splits(name: str, rows: int = 150) -> Splits:
    """Splits of a few rows of a real table, with rows of each class."""
    dataset, whole = DATASETS[name], raw_table(name)
    table = raw_table(name, rows)
    for each in set(dataset.target.classes) - set(table[dataset.target.name]):
        table = pd.concat([table, whole[whole[dataset.target.name] == each].head(10)])
    table = table.sample(frac=1, random_state=0)
    columns = {str(column): table[column].tolist() for column in table}
    checked = check_table(dataset, columns, maximum_duplicates=len(table))
    features, values = checked.features, checked.target
    cut = len(table) * 4 // 5
    return Splits(Split(features[:cut], values[:cut]), Split(features[cut:], values[cut:]))


def tiny_train_params(name: str, **changes: object) -> TrainParams:
    """Two quick candidates for a dataset."""
    simple = "linear" if DATASETS[name].task is Task.REGRESSION else "logistic_regression"
    params = TrainParams(
        folds=2,
        random_state=0,
        tolerance=1e-9,
        golden_rows=4,
        features=RowFeatureParams(),
        candidates={
            "simple": CandidateParams(estimator=simple),
            "forest": CandidateParams(estimator="random_forest", parameters={"n_estimators": 3, "n_jobs": 1}),
        },
    )
    return params.model_copy(update=changes)
