"""The buckets of a feature: few of them, in which training and serving count its values by one rule.

Numbers and times have the ten deciles of the training split, flags have two buckets, categories one each up to
``CATEGORIES`` and one for the rest. Where a value may be missing, there is one more for those that are.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from contract import deciles
from contract.deciles import DECILES
from contract.feature import MISSING, OTHER_CATEGORY, REST, Feature, Kind

CATEGORIES = 50
"""Most categories that have a bucket of their own: the first of the vocabulary."""


def has_deciles(feature: Feature) -> bool:
    """Whether the buckets are the deciles of the training split."""
    return feature.kind not in (Kind.BOOLEAN, Kind.CATEGORY)


def labels(feature: Feature) -> tuple[str, ...]:
    """The names of the buckets ``[B]``, in order: a decile's is its number from 0."""
    if has_deciles(feature):
        names = [str(decile) for decile in range(DECILES)]
    elif feature.kind is Kind.BOOLEAN:
        names = ["false", "true"]
    else:
        names = list(feature.vocabulary[:CATEGORIES])
        if feature.maximum >= len(names):
            names.append(REST if len(feature.vocabulary) > CATEGORIES else OTHER_CATEGORY)
    return (*names, MISSING) if feature.optional else tuple(names)


def edges(feature: Feature, values: NDArray[np.float64]) -> list[float]:
    """The quantiles of encoded values ``[N]`` without the missing ones: 11 numbers; none if there are no deciles."""
    present = values[~np.isnan(values)]
    if not has_deciles(feature):
        return []
    return deciles.edges(present) if len(present) else [0.0] * (DECILES + 1)


def count(feature: Feature, decile_edges: Sequence[float], values: NDArray[np.float64]) -> NDArray[np.intp]:
    """How many of valid encoded values ``[N]`` are in each bucket, of shape ``[B]``."""
    return recount(decile_edges, size(feature), values)


def size(feature: Feature) -> int:
    """B, the number of buckets."""
    if has_deciles(feature):
        return DECILES + feature.optional
    return min(int(feature.maximum), CATEGORIES) + 1 + feature.optional


def recount(decile_edges: Sequence[float], buckets: int, values: NDArray[np.float64]) -> NDArray[np.intp]:
    """As ``count``, of a feature that is known by its edges, if it has some, and by B: the last may be the missing."""
    missing = np.isnan(values)
    absent = np.count_nonzero(missing)
    present = values[~missing] if absent else values
    if not decile_edges:
        counts = np.bincount(np.minimum(present.astype(np.intp), CATEGORIES), minlength=buckets)
        counts[-1] += absent
        return counts
    counts = deciles.count(decile_edges, present)
    return np.append(counts, absent) if buckets > DECILES else counts


def shares(feature: Feature, decile_edges: Sequence[float], values: NDArray[np.float64]) -> list[float]:
    """The share of values ``[N]``, N at least 1, in each bucket. They sum to 1."""
    counts = count(feature, decile_edges, values)
    fractions: list[float] = (counts / counts.sum()).tolist()
    return fractions
