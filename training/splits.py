"""The splits of a dataset, as feature_engineering left them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from contract.dataset import Dataset
from contract.table import FloatMatrix
from training.errors import PipelineError

WEIGHT, FROM_FEEDBACK = "sample weight", "from feedback"
"""Columns of a training split that has rows of the ledger: no feature can have such a name."""


@dataclass(frozen=True)
class Split:
    """Features of shape ``[N, F]`` in the contract's order; targets of shape ``[N]``, class indices for classes.

    ``weight`` is that of each row in the fit, ``[N]``; None where all weigh the same. Of a training split,
    ``from_feedback`` marks the rows that came from the ledger, ``[N]``; None without any.
    """

    features: FloatMatrix
    target: FloatMatrix
    weight: FloatMatrix | None = None
    from_feedback: NDArray[np.bool_] | None = None

    def take(self, rows: NDArray[np.intp]) -> "Split":
        """Some of the rows."""
        return Split(
            self.features[rows],
            self.target[rows],
            None if self.weight is None else self.weight[rows],
            None if self.from_feedback is None else self.from_feedback[rows],
        )


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
        target = frame[dataset.target.name].to_numpy(dtype=np.float64)
        if WEIGHT not in frame:
            return Split(features, target)
        weight = frame[WEIGHT].to_numpy(dtype=np.float64)
        return Split(features, target, weight, frame[FROM_FEEDBACK].to_numpy(dtype=np.bool_))
    except FileNotFoundError as error:
        raise PipelineError(f"{path} is missing. Run `dvc repro feature_engineering`.") from error
    except KeyError as error:
        raise PipelineError(f"{path} lacks a column: {error}. Run `dvc repro feature_engineering`.") from error


def row_keys(features: FloatMatrix) -> list[bytes]:
    """What tells whether rows ``[N, F]`` are the same: their features in single precision, as some clients send."""
    # Zero is added so that minus zero is zero.
    return [row.tobytes() for row in features.astype(np.float32) + np.float32(0)]
