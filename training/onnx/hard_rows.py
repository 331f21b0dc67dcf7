"""Rows at which a converted model is most likely to differ from its estimator."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from contract.dataset import Dataset
from contract.feature import Feature, Kind
from contract.table import FloatMatrix

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

BASES = 7
"""Rows of the table in which one value at a time is made hard."""
THRESHOLDS = 2000
"""Most thresholds that are tried, evenly taken from all of a model's trees."""


def hard_rows(dataset: Dataset, estimator: "Pipeline", rows: FloatMatrix) -> FloatMatrix:
    """Rows ``[H, F]`` made from rows ``[N, F]``: each value of a category, the unseen ones too; the ends of each range;
    values that are missing, one at a time and all at once; and the thresholds of trees, with their neighbours in double
    and in single precision.
    """
    bases = rows[np.unique(np.linspace(0, len(rows) - 1, BASES).astype(int))]
    optional = [column for column, feature in enumerate(dataset.features) if feature.optional]
    bare = bases.copy()
    bare[:, optional] = np.nan
    hard = [bases, bare]
    for column, feature in enumerate(dataset.features):
        hard.append(_with(bases, column, _values(feature)))
    for column, thresholds in _thresholds(dataset, estimator):
        hard.append(_with(bases, column, thresholds))
    return np.concatenate(hard)


def _with(bases: FloatMatrix, column: int, values: FloatMatrix) -> FloatMatrix:
    """The values ``[V]`` in one column of as many rows, taken in turn."""
    rows = bases[np.arange(len(values)) % len(bases)]
    rows[:, column] = values
    return rows


def _values(feature: Feature) -> FloatMatrix:
    ends = np.array([feature.minimum, feature.maximum])
    every = np.arange(feature.maximum + 1) if feature.kind is Kind.CATEGORY else ends
    # Each of them in more than one row.
    return np.tile(np.append(every, np.nan) if feature.optional else every, 2)


def _thresholds(dataset: Dataset, estimator: "Pipeline") -> list[tuple[int, FloatMatrix]]:
    """By column of the rows, the thresholds that the trees compare it with, each with its neighbours."""
    from training.onnx import boosters, trees

    names = list(estimator[:-1].get_feature_names_out(dataset.feature_names))
    columns, values = trees.thresholds(trees.trees_of(estimator[-1]) + boosters.trees_of(estimator[-1]))
    # A split between missing and other values has an infinite threshold.
    pairs = np.unique(np.column_stack([columns, values])[np.isfinite(values)], axis=0)
    pairs = pairs[np.unique(np.linspace(0, len(pairs) - 1, THRESHOLDS).astype(int))] if len(pairs) else pairs
    return [
        (column, _neighbours(pairs[pairs[:, 0] == names.index(name), 1]))
        for column, name in enumerate(dataset.feature_names)
        if name in names
    ]


def _neighbours(values: FloatMatrix) -> FloatMatrix:
    single: NDArray[np.float32] = values.astype(np.float32)
    every = [np.nextafter(values, -np.inf), values, np.nextafter(values, np.inf), single]
    every += [np.nextafter(single, np.float32(direction)) for direction in (-np.inf, np.inf)]
    return np.concatenate(every, dtype=np.float64)
