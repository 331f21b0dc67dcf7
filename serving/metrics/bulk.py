"""A histogram that takes many values at once."""

import numpy as np
from numpy.typing import ArrayLike
from prometheus_client import Histogram


class BulkHistogram(Histogram):
    """prometheus_client's histogram; ``observe`` alone would cost 2 µs for each value."""

    def observe_all(self, values: ArrayLike) -> None:
        """Count finite values ``[N]``. A bucket holds its upper bound, as ``observe`` has it."""
        array = np.asarray(values, dtype=np.float64)
        buckets = np.searchsorted(self._upper_bounds, array, side="left")
        for bucket, count in enumerate(np.bincount(buckets).tolist()):
            if count:
                self._buckets[bucket].inc(count)
        self._sum.inc(float(array.sum()))
