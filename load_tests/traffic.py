"""The rows that are sent: from the real test split, and bad rows made from them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow.parquet
from numpy.typing import NDArray

from contract.dataset import Dataset
from contract.feature import Feature, Unknown
from contract.table import FloatMatrix, check_matrix
from load_tests.errors import LoadTestError

FEATURES = Path("data/features")
"""The pipeline's folder of splits."""


@dataclass(frozen=True)
class BadRows:
    """Rows ``[N, F]`` with one bad value, which the service must refuse by naming its feature."""

    rows: FloatMatrix
    feature: str


class Traffic:
    """Rows of one dataset, drawn with replacement.

    Args:
        dataset: the contract.
        rows: what to draw from, ``[N, F]``.
        targets: what came true for each, ``[N]``: the value, or the index of the class.
        seed: the same seed draws the same rows.
    """

    def __init__(self, dataset: Dataset, rows: FloatMatrix, targets: NDArray[np.float64], seed: int = 0) -> None:
        self.dataset = dataset
        self._rows = rows
        self._targets = targets
        self._draw = np.random.default_rng(seed)
        self._bad = [(column, values) for column, one in enumerate(dataset.features) if (values := _bad(one))]

    @classmethod
    def read(cls, dataset: Dataset, directory: Path, seed: int = 0, *, split: str = "test") -> Self:
        """Read the split that the pipeline wrote to ``directory/{dataset}/{split}.parquet``.

        Raises:
            LoadTestError: it is missing, or breaks the contract.
        """
        path = directory / dataset.name / f"{split}.parquet"
        if not path.is_file():
            raise LoadTestError(
                f"{path} is missing: the load tests send rows of the real {split} split. Run `make train`."
            )
        table = pyarrow.parquet.read_table(path)
        missing = [name for name in (*dataset.feature_names, dataset.target.name) if name not in table.column_names]
        if missing:
            raise LoadTestError(f"{path} lacks {', '.join(missing)}: it is of another contract. Run `make train`.")
        rows = np.column_stack([table[name].to_numpy() for name in dataset.feature_names]).astype(np.float64)
        broken = check_matrix(dataset, rows)
        if broken or not len(rows):
            reason = broken[0].message if broken else "it has no rows."
            raise LoadTestError(f"{path} does not hold the contract: {reason} Run `make train`.")
        return cls(dataset, rows, table[dataset.target.name].to_numpy().astype(np.float64), seed)

    @property
    def can_be_bad(self) -> bool:
        """Whether the contract refuses anything: not if any category may be sent, or left out, for every feature."""
        return bool(self._bad)

    @property
    def every(self) -> tuple[FloatMatrix, NDArray[np.float64]]:
        """All rows, ``[N, F]``, and what came true for each, ``[N]``."""
        return self._rows, self._targets

    def rows(self, count: int) -> FloatMatrix:
        """Draw rows that fulfil the contract, ``[count, F]``."""
        return self.labelled(count)[0]

    def labelled(self, count: int) -> tuple[FloatMatrix, NDArray[np.float64]]:
        """Draw such rows, ``[count, F]``, and what came true for them, ``[count]``."""
        drawn = self._draw.integers(len(self._rows), size=count)
        return self._rows[drawn], self._targets[drawn]

    def bad_rows(self, count: int) -> BadRows:
        """Draw ``count`` rows and set one value to NaN, too small or too large. Ask ``can_be_bad`` first."""
        rows = self.rows(count)
        row, (column, values) = self._draw.integers(count), self._bad[self._draw.integers(len(self._bad))]
        rows[row, column] = self._draw.choice(values)
        return BadRows(rows, self.dataset.features[column].name)


def _bad(feature: Feature) -> list[float]:
    """Encoded values that the contract refuses."""
    missing = [] if feature.optional else [np.nan]
    if feature.unknown is not Unknown.REFUSE:
        return missing
    width = max(feature.maximum - feature.minimum, 1)
    return [*missing, feature.minimum - width, feature.maximum + width]
