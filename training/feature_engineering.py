"""Stage ``feature_engineering``: split each prepared table, then compute statistics of its training split.

Features derived from a row are not computed here. They are a step of the fitted pipeline (``training/features.py``), so
that the service computes them too.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split

from contract import DATASETS, buckets, deciles
from contract.dataset import Dataset, Task
from contract.feature import Feature
from training import console, params
from training.data_preparation import PREPARED
from training.errors import PipelineError
from training.files import replaced_directory, write_json, write_parquet
from training.params import FeatureEngineeringParams
from training.splits import FROM_FEEDBACK, WEIGHT, row_keys

FEATURES = Path("data/features")
FEEDBACK = Path("data/feedback")
"""Rows of the ledger with what came true, one ``<name>.parquet`` a dataset; ``loop/retrain.py`` writes them. A fresh
clone has none."""


def split(
    dataset: Dataset, table: pd.DataFrame, split_params: FeatureEngineeringParams
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The training split and the test split, each in the order in which its rows were drawn.

    Classification: both have the same share of each class. Regression: scikit-learn's plain ``train_test_split`` of the
    rows in the order of the raw file, so that scores compare with published ones.

    Raises:
        PipelineError: if the table is too small for this split.
    """
    stratify = table[dataset.target.name] if dataset.task is Task.CLASSIFICATION else None
    try:
        train, test = train_test_split(
            table, test_size=split_params.test_size, random_state=split_params.random_state, stratify=stratify
        )
    except ValueError as error:
        raise PipelineError(f"{dataset.name}: {len(table)} rows cannot be split: {error}") from error
    return train.reset_index(drop=True), test.reset_index(drop=True)


def statistics(dataset: Dataset, train: pd.DataFrame) -> dict[str, Any]:
    """Reference statistics of the training split, for the model card and for drift.

    Per feature: ``deciles`` (the 0 %, 10 %, …, 100 % quantiles, 11 values; none of flags and categories),
    ``decile_shares`` (of the rows in each of the feature's buckets), ``minimum`` and ``maximum`` of the encoded values,
    ``mean`` and ``std`` (of a sample; None of flags and categories). Missing values count in their bucket alone. For a
    regression target the same, for classes the share of each.
    """
    target = train[dataset.target.name]
    if dataset.task is Task.CLASSIFICATION:
        shares = [float((target == index).mean()) for index in range(len(dataset.target.classes))]
        described: dict[str, Any] = {"shares": dict(zip(dataset.target.classes, shares, strict=True))}
    else:
        edges = deciles.edges(np.asarray(target, dtype=np.float64))
        described = _describe(target, edges, deciles.shares(edges, target))
    return {
        "rows": len(train),
        "features": {feature.name: _describe_feature(feature, train[feature.name]) for feature in dataset.features},
        "target": described,
    }


def _describe_feature(feature: Feature, column: "pd.Series[float]") -> dict[str, Any]:
    values = np.asarray(column, dtype=np.float64)
    edges = buckets.edges(feature, values)
    if column.isna().all():
        # JSON has no NaN.
        column = column.fillna(feature.minimum)
    return _describe(column, edges, buckets.shares(feature, edges, values))


def _describe(column: "pd.Series[float]", edges: list[float], shares: list[float]) -> dict[str, Any]:
    present = column.count()
    return {
        "deciles": edges,
        "decile_shares": shares,
        "mean": float(column.mean()) if edges else None,
        "std": float(column.std()) if edges and present > 1 else None,
        "minimum": float(column.min()),
        "maximum": float(column.max()),
    }


def add_feedback(dataset: Dataset, train: pd.DataFrame, test: pd.DataFrame, feedback: pd.DataFrame) -> pd.DataFrame:
    """The training split with the rows of the ledger below its own, but never with a row of the test split.

    Rows are the same if their features are. The result has the columns ``WEIGHT`` and ``FROM_FEEDBACK``; without a row
    to add it is the training split itself.

    Args:
        feedback: features, target and ``WEIGHT``.

    Raises:
        PipelineError: it lacks a column.
    """
    names = list(dataset.feature_names)
    wanted = [*names, dataset.target.name, WEIGHT]
    if missing := sorted(set(wanted) - set(feedback.columns)):
        raise PipelineError(
            f"{FEEDBACK / dataset.name}.parquet lacks {', '.join(missing)}: the contract has changed since it was "
            f"written. Remove it, or write it anew with `python -m loop.retrain --model {dataset.name}`."
        )
    known = set(row_keys(test[names].to_numpy(dtype=float)))
    new = [key not in known for key in row_keys(feedback[names].to_numpy(dtype=float))]
    if not any(new):
        return train
    added = feedback.loc[new, wanted].astype(train.dtypes.to_dict()).assign(**{FROM_FEEDBACK: True})
    return pd.concat([train.assign(**{WEIGHT: 1.0, FROM_FEEDBACK: False}), added], ignore_index=True)


def engineer(
    dataset: Dataset, prepared: Path, directory: Path, split_params: FeatureEngineeringParams, feedback: Path
) -> None:
    """Split a prepared table, then describe its training split.

    Args:
        dataset: the contract.
        prepared: the table, as data_preparation wrote it.
        directory: gets ``train.parquet``, ``test.parquet`` and ``statistics.json``; replaced as a whole.
        split_params: how to split.
        feedback: rows of the ledger to train on too; there may be none.
    """
    if not prepared.is_file():
        raise PipelineError(f"{prepared} is missing. Run `dvc repro data_preparation`.")
    train, test = split(dataset, pd.read_parquet(prepared), split_params)
    if feedback.is_file():
        train = add_feedback(dataset, train, test, pd.read_parquet(feedback))
    with replaced_directory(directory) as partial:
        write_parquet(partial / "train.parquet", train)
        write_parquet(partial / "test.parquet", test)
        write_json(partial / "statistics.json", statistics(dataset, train))


def main() -> None:
    """Split every dataset of the contract."""
    split_params = params.load().feature_engineering
    for name, dataset in DATASETS.items():
        with console.step(f"{name}: split and describe"):
            feedback = FEEDBACK / f"{name}.parquet"
            engineer(dataset, PREPARED / f"{name}.parquet", FEATURES / name, split_params, feedback)


if __name__ == "__main__":
    sys.exit(console.run(main))
