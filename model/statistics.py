"""The statistics of drift, in numpy: scipy would add 125 MB to an image of 320 MB.

``tests/model/test_statistics.py`` compares them with scipy's.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from contract.table import FloatMatrix

Counts = NDArray[np.integer]
_TERMS = 100
"""Of the series of Kolmogorov's distribution: where it is used, terms after the fourth are below 1e-16."""


class Outcome(NamedTuple):
    """A statistic, and the probability of one that is at least as large where nothing differs."""

    statistic: float
    p_value: float


def kolmogorov_smirnov(first: FloatMatrix, second: FloatMatrix) -> Outcome:
    """The two-sample Kolmogorov–Smirnov test of values ``[N]`` and ``[M]``, both sorted ascending.

    The statistic is the largest distance of the two distribution functions. Its probability is Kolmogorov's limit, with
    the correction of Stephens (1970, J. R. Stat. Soc. B 32) for samples that are small: from 100 rows on it is within
    5 % of the exact one. Tied values make it too large, never too small: there are fewer false alarms then.
    """
    both = np.concatenate([first, second])
    below = np.searchsorted(first, both, side="right") / len(first) - np.searchsorted(second, both, side="right") / len(
        second
    )
    distance = float(np.abs(below).max())
    root = math.sqrt(len(first) * len(second) / (len(first) + len(second)))
    return Outcome(distance, _kolmogorov((root + 0.12 + 0.11 / root) * distance))


def _kolmogorov(value: float) -> float:
    """Probability that Kolmogorov's limit is above a value."""
    if value < 0.2:
        return 1.0
    k = np.arange(1, _TERMS)
    terms = np.exp(-2.0 * (k * value) ** 2)
    return float(min(max(2 * (terms[::2].sum() - terms[1::2].sum()), 0.0), 1.0))


def chi_square(first: Counts, second: Counts) -> Outcome:
    """Pearson's chi-square test that two samples have the same shares of K categories, from their counts ``[K]``.

    Categories that neither sample has are left out. Where one is rare, the probability is too small: the alarm of
    ``model.drift`` asks for a large difference too.
    """
    table = np.array([first, second], dtype=np.float64)[:, first + second > 0]
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    statistic = float(((table - expected) ** 2 / expected).sum())
    return Outcome(statistic, _chi_square_tail(statistic, table.shape[1] - 1))


def _chi_square_tail(statistic: float, freedom: int) -> float:
    """Probability that chi-square is above a value: for whole degrees of freedom it is a finite sum.

    Abramowitz and Stegun, 26.4.4 and 26.4.5.
    """
    half = statistic / 2
    if half <= 0:
        return 1.0
    odd = freedom % 2
    exponents = [odd / 2 + step for step in range(freedom // 2)]
    terms = math.fsum(math.exp(exponent * math.log(half) - half - math.lgamma(exponent + 1)) for exponent in exponents)
    return min((math.erfc(math.sqrt(half)) if odd else 0.0) + terms, 1.0)


def binomial_tail(successes: int, trials: int, share: float) -> float:
    """Probability of at least so many successes, each with probability ``share``; 0 < ``share`` < 1."""
    if successes <= 0:
        return 1.0
    # From there away from the mean, the terms get smaller and smaller.
    if successes > trials * share:
        return _binomial_sum(successes, trials, share)
    return 1 - _binomial_sum(trials - successes + 1, trials, 1 - share)


def _binomial_sum(successes: int, trials: int, share: float) -> float:
    """The tail from above the mean on, as far as its terms matter."""
    log = math.lgamma(trials + 1) - math.lgamma(successes + 1) - math.lgamma(trials - successes + 1)
    term = math.exp(log + successes * math.log(share) + (trials - successes) * math.log1p(-share))
    total = 0.0
    odds = share / (1 - share)
    while term > total * 1e-17:
        total += term
        term *= (trials - successes) / (successes + 1) * odds
        successes += 1
    return min(total, 1.0)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values: whoever takes those below a level is wrong somewhere with at most that probability.

    Holm (1979), Scandinavian Journal of Statistics 6.
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min((len(p_values) - rank) * p_values[index], 1.0))
        adjusted[index] = largest
    return adjusted


def population_stability_index(counts: Counts, reference: Sequence[float]) -> float:
    """How far the shares of counts ``[B]`` are from reference shares ``[B]``, of the same buckets.

    The sum of (p - q) * ln(p / q), as the monitoring's rules compute it (``monitoring/rules/recording.yml``): five
    imagined rows that are distributed as the reference keep p above 0, and a q of 0 counts as 0.0005.
    """
    q = np.maximum(np.asarray(reference, dtype=np.float64), _SMALLEST_SHARE)
    p = (counts + _IMAGINED_ROWS * q) / (counts.sum() + _IMAGINED_ROWS)
    return float(((p - q) * np.log(p / q)).sum())


_SMALLEST_SHARE = 0.0005
_IMAGINED_ROWS = 5
