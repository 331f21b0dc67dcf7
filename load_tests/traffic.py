"""What is sent: rows of the real test split, and bad rows made of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow.parquet

from contract.dataset import Dataset
from contract.errors import LoadTestError
from contract.table import FloatMatrix, check_matrix

FEATURES = Path("data/features")
"""Where the pipeline leaves the splits."""


@dataclass(frozen=True)
class BadRows:
    """Rows ``[N, F]``, one value of which the service must refuse by the name of its feature."""

    rows: FloatMatrix
    feature: str


class Traffic:
    """Rows of one dataset, drawn with replacement.

    Args:
        dataset: the contract.
        rows: what to draw from, ``[N, F]``.
        seed: the same seed draws the same rows.
    """

    def __init__(self, dataset: Dataset, rows: FloatMatrix, seed: int = 0) -> None:
        self.dataset = dataset
        self._rows = rows
        self._draw = np.random.default_rng(seed)

    @classmethod
    def read(cls, dataset: Dataset, directory: Path, seed: int = 0) -> Self:
        """The test split, as the pipeline wrote it to ``directory/{dataset}/test.parquet``.

        Raises:
            LoadTestError: there is none, or it does not hold the contract.
        """
        path = directory / dataset.name / "test.parquet"
        if not path.is_file():
            raise LoadTestError(
                f"{path} is missing: the load tests send rows of the real test split. Run `make train`."
            )
        table = pyarrow.parquet.read_table(path)
        missing = [name for name in dataset.feature_names if name not in table.column_names]
        if missing:
            raise LoadTestError(f"{path} lacks {', '.join(missing)}: it is of another contract. Run `make train`.")
        rows = np.column_stack([table[name].to_numpy() for name in dataset.feature_names]).astype(np.float64)
        broken = check_matrix(dataset, rows)
        if broken or not len(rows):
            reason = broken[0].message if broken else "it has no rows."
            raise LoadTestError(f"{path} does not hold the contract: {reason} Run `make train`.")
        return cls(dataset, rows, seed)

    def rows(self, count: int) -> FloatMatrix:
        """Rows that hold the contract, ``[count, F]``."""
        return self._rows[self._draw.integers(len(self._rows), size=count)]

    def bad_rows(self, count: int) -> BadRows:
        """``count`` rows, one value of which is NaN, too small or too large."""
        rows = self.rows(count)
        row, column = self._draw.integers(count), self._draw.integers(len(self.dataset.features))
        feature = self.dataset.features[column]
        width = feature.maximum - feature.minimum
        rows[row, column] = self._draw.choice([np.nan, feature.minimum - width, feature.maximum + width])
        return BadRows(rows, feature.name)
