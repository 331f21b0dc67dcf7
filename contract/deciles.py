"""The deciles of a column: ten buckets that training and serving count values into by one rule.

Drift compares the shares of recent values in the buckets with those of the training split, for instance as a population
stability index: https://en.wikipedia.org/wiki/Population_Stability_Index
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

DECILES = 10


def edges(values: NDArray[np.floating[Any]] | Sequence[float]) -> list[float]:
    """The 0 %, 10 %, …, 100 % quantiles of values ``[N]``: 11 numbers, ascending, equal where values are tied."""
    quantiles: list[float] = np.quantile(values, np.linspace(0, 1, DECILES + 1)).tolist()
    return quantiles


def count(decile_edges: Sequence[float], values: ArrayLike) -> NDArray[np.intp]:
    """How many of values ``[N]`` are in each bucket, of shape ``[10]``.

    A bucket holds its lower edge and not its upper one. A value below all edges is in the first bucket, one above all
    in the last. Between equal edges a bucket is empty, and their value is in the last of those that share it.
    """
    buckets = np.searchsorted(np.asarray(decile_edges)[1:-1], values, side="right")
    return np.bincount(buckets, minlength=DECILES)


def shares(decile_edges: Sequence[float], values: ArrayLike) -> list[float]:
    """The share of values ``[N]``, N at least 1, in each bucket: a tenth each, but for ties. They sum to 1."""
    counts = count(decile_edges, values)
    fractions: list[float] = (counts / counts.sum()).tolist()
    return fractions
