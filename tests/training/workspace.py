"""A project folder as the stages before training leave it, with tiny tables and parameters that train in a second."""

from pathlib import Path

import pandas as pd

from contract import DATASETS
from tests.training.conftest import RAW, tiny_splits, tiny_train_params
from training import selection
from training import train as stage
from training.feature_engineering import statistics
from training.files import write_json
from training.params import RowFeatureParams, TrainParams
from training.splits import Splits
from training.tracking import RegisteredModel


def write_features(name: str) -> Splits:
    """``data/features/<name>`` in the current directory, as feature_engineering leaves it."""
    dataset, splits = DATASETS[name], tiny_splits(name)
    directory = Path("data/features") / name
    directory.mkdir(parents=True, exist_ok=True)
    for part, rows in (("train", splits.train), ("test", splits.test)):
        frame = pd.DataFrame(rows.features, columns=list(dataset.feature_names))
        frame[dataset.target.name] = rows.target
        frame.to_parquet(directory / f"{part}.parquet", index=False)
        if part == "train":
            write_json(directory / "statistics.json", statistics(dataset, frame))
    return splits


def train(name: str, params: TrainParams) -> RegisteredModel:
    features, raw, metric = Path("data/features") / name, RAW / f"{name}.csv", selection.SCORES[DATASETS[name].task][0]
    return stage.train(DATASETS[name], features, raw, Path("models"), params, metric=metric)


def with_ratios(name: str) -> TrainParams:
    """Parameters with a derived feature for housing."""
    ratios = (("MedInc", "AveOccup"),) if name == "housing" else ()
    return tiny_train_params(name, features=RowFeatureParams(ratios=ratios))
