"""Many values for a histogram at once."""

import numpy as np
from numpy.typing import ArrayLike
from prometheus_client import Histogram


def observe_all(histogram: Histogram, values: ArrayLike) -> None:
    """Count finite values ``[N]``; ``observe`` would take 2 µs for each.

    A bucket holds its upper bound, as ``observe`` has it.
    """
    array = np.asarray(values, dtype=np.float64)
    buckets = np.searchsorted(histogram._upper_bounds, array, side="left")
    for bucket, count in enumerate(np.bincount(buckets).tolist()):
        if count:
            histogram._buckets[bucket].inc(count)
    histogram._sum.inc(float(array.sum()))
