"""The population stability index, as ``rules/recording.yml`` computes it."""

from collections.abc import Mapping
from math import log

WATCH, ALERT = 0.1, 0.2
"""Below 0.1: no drift; above 0.2: drift (Siddiqi, Credit Risk Scorecards, 2006)."""
SMALLEST_SHARE = 0.0005
"""Replaces a training share of 0."""
IMAGINED_ROWS = 5
"""Rows with the training distribution, added to the recent rows so that no recent share is 0."""


def stability_index(reference: Mapping[str, float], rows: Mapping[str, float]) -> float:
    """Distance of recent rows from the training split: the sum over buckets of ``(p - q) * ln(p / q)``.

    Args:
        reference: share of the training split in each bucket, q.
        rows: recent rows in each bucket; p is their share.
    """
    total = sum(rows.get(bucket, 0) for bucket in reference) + IMAGINED_ROWS
    index = 0.0
    for bucket, share in reference.items():
        q = max(share, SMALLEST_SHARE)
        p = (rows.get(bucket, 0) + IMAGINED_ROWS * q) / total
        index += (p - q) * log(p / q)
    return index
