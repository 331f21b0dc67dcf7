"""The splits of a dataset, as feature_engineering left them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd

from contract.dataset import Dataset
from contract.table import FloatMatrix
from training.errors import PipelineError


@dataclass(frozen=True)
class Split:
    """Features of shape ``[N, F]`` in the contract's order; targets of shape ``[N]``, class indices for classes."""

    features: FloatMatrix
    target: FloatMatrix


@dataclass(frozen=True)
class Splits:
    """The rows to train on and the rows to test on."""

    train: Split
    test: Split

    @classmethod
    def read(cls, dataset: Dataset, directory: Path) -> Self:
        """Read ``train.parquet`` and ``test.parquet``.

        Raises:
            PipelineError: if one is missing or lacks a column.
        """
        return cls(_read(dataset, directory / "train.parquet"), _read(dataset, directory / "test.parquet"))

    @property
    def all(self) -> Split:
        """Every row, training rows first."""
        return Split(
            np.concatenate([self.train.features, self.test.features]),
            np.concatenate([self.train.target, self.test.target]),
        )


def _read(dataset: Dataset, path: Path) -> Split:
    try:
        frame = pd.read_parquet(path)
        features = frame[list(dataset.feature_names)].to_numpy(dtype=np.float64)
        return Split(features, frame[dataset.target.name].to_numpy(dtype=np.float64))
    except FileNotFoundError as error:
        raise PipelineError(f"{path} is missing. Run `dvc repro feature_engineering`.") from error
    except KeyError as error:
        raise PipelineError(f"{path} lacks a column: {error}. Run `dvc repro feature_engineering`.") from error
