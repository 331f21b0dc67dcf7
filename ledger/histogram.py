"""Histograms in a few bytes: latencies and predictions of a minute, which add up to those of a window.

Counts ``[B]`` are kept as pairs of bucket and count, those that are 0 left out: 8 bytes each, little-endian, the bucket
in the upper 16 bits.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from contract.dataset import Target

Counts = NDArray[np.int64]
"""How many are in each bucket, ``[B]``."""

FIRST_MILLISECONDS = 0.01
BUCKETS_PER_DOUBLING = 8
"""Quantiles are exact to 5 %."""
LATENCY_BUCKETS = 24 * BUCKETS_PER_DOUBLING
"""Buckets reach up to 168 seconds; the last one holds all above."""

_COUNT_BITS = np.uint64(48)
_COUNT_MASK = np.uint64((1 << 48) - 1)


def pack_counts(counts: Counts) -> bytes:
    """The bytes of counts ``[B]``."""
    (buckets,) = np.nonzero(counts)
    return _pack(buckets.astype("<u8"), counts[buckets])


def add_packed(packed: Iterable[bytes]) -> bytes:
    """The bytes of the sum of packed counts."""
    buckets, counts = _unpack(packed)
    found, places = np.unique(buckets, return_inverse=True)
    sums = np.zeros(len(found), dtype=np.int64)
    np.add.at(sums, places, counts)
    return _pack(found, sums)


def sum_counts(packed: Iterable[bytes], buckets: int) -> Counts:
    """The sum ``[B]`` of packed counts; ``buckets`` is B."""
    sums = np.zeros(buckets, dtype=np.int64)
    np.add.at(sums, *_unpack(packed))
    return sums


def _pack(buckets: NDArray[np.uint64], counts: Counts) -> bytes:
    pairs: NDArray[np.uint64] = (buckets << _COUNT_BITS) | counts.astype("<u8")
    return pairs.tobytes()


def _unpack(packed: Iterable[bytes]) -> tuple[NDArray[np.uint64], Counts]:
    """Buckets and their counts, ``[P]`` each; a bucket may be there several times."""
    pairs = np.frombuffer(b"".join(packed), dtype="<u8")
    return pairs >> _COUNT_BITS, (pairs & _COUNT_MASK).astype(np.int64)


def count_latencies(milliseconds: ArrayLike) -> Counts:
    """Latencies ``[N]`` by bucket."""
    times = np.maximum(np.asarray(milliseconds, dtype=np.float64), FIRST_MILLISECONDS)
    buckets = np.log2(times / FIRST_MILLISECONDS) * BUCKETS_PER_DOUBLING
    return np.bincount(np.minimum(buckets.astype(np.int64), LATENCY_BUCKETS - 1), minlength=LATENCY_BUCKETS)


def latency_quantiles(counts: Counts, shares: Sequence[float]) -> list[float]:
    """The quantiles in milliseconds of latencies by bucket; NaN where there are none."""
    cumulated = np.cumsum(counts)
    quantiles = []
    for share in shares:
        rank = share * cumulated[-1]
        bucket = int(np.searchsorted(cumulated, rank))
        if not cumulated[-1]:
            quantiles.append(math.nan)
            continue
        before = cumulated[bucket] - counts[bucket]
        within = bucket + (rank - before) / counts[bucket]
        quantiles.append(float(FIRST_MILLISECONDS * 2 ** (within / BUCKETS_PER_DOUBLING)))
    return quantiles


MOST_BINS = 100


def bin_edges(target: Target | None) -> list[float]:
    """The inner edges of the bins of predicted values: the outermost bins are open.

    Where the target is bounded, they are equally wide: the smallest round width that makes no more than ``MOST_BINS``
    between the bounds. Else they grow with the distance from 0.
    """
    if target is None or not (math.isfinite(target.minimum) and math.isfinite(target.maximum)):
        powers = [float(f"{digit}e{power}") for power in range(-3, 13) for digit in (1, 2, 5)]
        return [-value for value in reversed(powers)] + [0.0] + powers
    least = (target.maximum - target.minimum) / MOST_BINS
    power = 10.0 ** math.floor(math.log10(least))
    width = next(step * power for step in (1, 2, 5, 10) if step * power >= least * (1 - 1e-9))
    first = math.floor(target.minimum / width + 1e-9) + 1
    last = math.ceil(target.maximum / width - 1e-9) - 1
    return [float(f"{step * width:.9g}") for step in range(first, last + 1)]


def count_predictions(outputs: NDArray[np.float64], edges: Sequence[float] | None) -> Counts:
    """Outputs ``[N, K]`` by bin of the value, or by likeliest class where there are no ``edges``."""
    if edges is None:
        return np.bincount(outputs.argmax(axis=1), minlength=outputs.shape[1])
    return np.bincount(np.searchsorted(np.asarray(edges), outputs[:, 0], side="right"), minlength=len(edges) + 1)
