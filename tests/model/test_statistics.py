import math

import numpy as np
import pytest
from scipy import special, stats

from contract import deciles
from model import statistics


@pytest.mark.parametrize(("rows", "reference"), [(100, 120), (100, 5000), (500, 5000), (500, 120)])
@pytest.mark.parametrize("shift", [0.0, 0.05, 0.15, 0.5])
def test_kolmogorov_smirnov_is_that_of_scipy(rows: int, reference: int, shift: float) -> None:
    draws = np.random.default_rng(rows + reference)
    for _ in range(3):
        first, second = np.sort(draws.normal(shift, 1, rows)), np.sort(draws.normal(0, 1, reference))
        ours, theirs = statistics.kolmogorov_smirnov(first, second), stats.ks_2samp(first, second, method="exact")
        assert ours.statistic == pytest.approx(theirs.statistic, abs=1e-12)
        if theirs.pvalue > 1e-5:
            assert ours.p_value == pytest.approx(theirs.pvalue, rel=0.08)
        else:
            # That small, their logarithms: what counts is on which side of a level they are.
            assert math.log(ours.p_value) == pytest.approx(math.log(max(theirs.pvalue, 1e-300)), rel=0.1)


def test_tied_values_raise_no_false_alarms() -> None:
    draws = np.random.default_rng(0)
    found = [
        statistics.kolmogorov_smirnov(np.sort(draws.integers(0, 5, 300)), np.sort(draws.integers(0, 5, 2000))).p_value
        for _ in range(400)
    ]
    assert np.mean(np.array(found) < 0.05) < 0.05


@pytest.mark.parametrize("categories", range(2, 9))
def test_chi_square_is_that_of_scipy(categories: int) -> None:
    draws = np.random.default_rng(categories)
    for _ in range(20):
        shares = draws.dirichlet([5.0] * categories)
        counts = [draws.multinomial(rows, draws.dirichlet(shares * 400)) for rows in (400, 1000)]
        expected = stats.contingency.expected_freq(counts)
        if expected.min() < 5:
            continue
        theirs = stats.chi2_contingency(counts, correction=False)
        ours = statistics.chi_square(*counts)
        assert ours.statistic == pytest.approx(theirs.statistic)
        assert ours.p_value == pytest.approx(theirs.pvalue, rel=1e-9, abs=1e-300)


@pytest.mark.parametrize("freedom", range(1, 12))
def test_the_tail_of_chi_square_is_the_regularised_gamma_function(freedom: int) -> None:
    for value in (0.0, 1e-9, 0.3, 1.0, 7.5, 40.0, 200.0, 1e6):
        expected = special.gammaincc(freedom / 2, value / 2)
        assert statistics._chi_square_tail(value, freedom) == pytest.approx(expected, rel=1e-9, abs=1e-300)


def test_a_category_that_neither_has_counts_for_nothing() -> None:
    two, three = (statistics.chi_square(np.array([60, 40, *more]), np.array([2000, 2000, *more])) for more in ([], [0]))
    assert two == three
    assert statistics.chi_square(np.array([3, 0]), np.array([100, 0])) == (0, 1)
    assert statistics.chi_square(np.array([60, 0, 40]), np.array([2400, 1600, 0])).p_value < 1e-9


@pytest.mark.parametrize("trials", [1, 30, 500, 100_000, 3_000_000])
@pytest.mark.parametrize("share", [0.001, 0.01, 0.5])
def test_the_binomial_tail_is_that_of_scipy(trials: int, share: float) -> None:
    for times in (0, 0.5, 1, 1.01, 1.5, 3):
        successes = min(math.ceil(trials * share * times), trials)
        expected = stats.binom.sf(successes - 1, trials, share)
        assert statistics.binomial_tail(successes, trials, share) == pytest.approx(expected, rel=1e-6, abs=1e-250)


def test_holm_is_that_of_scipy() -> None:
    draws = np.random.default_rng(0)
    for size in (1, 2, 5, 9):
        p_values = draws.uniform(size=size) ** 3
        expected = np.minimum.accumulate(np.ones(size))
        order = np.argsort(p_values)
        expected[order] = np.minimum(np.maximum.accumulate((size - np.arange(size)) * p_values[order]), 1)
        assert statistics.holm(p_values.tolist()) == pytest.approx(expected.tolist())


def test_the_stability_index_of_a_shift() -> None:
    draws = np.random.default_rng(0)
    values = draws.normal(size=200_000)
    edges = deciles.edges(values)
    shares = deciles.shares(edges, values)
    still, moved = (
        statistics.population_stability_index(deciles.count(edges, draws.normal(shift, 1, 200_000)), shares)
        for shift in (0, 0.5)
    )
    assert still == pytest.approx(0, abs=0.001)
    # Of normal distributions it is the square of the shift, but for the width of the deciles.
    assert moved == pytest.approx(0.25, abs=0.02)


def test_the_stability_index_survives_empty_buckets() -> None:
    assert statistics.population_stability_index(np.zeros(3, dtype=np.int64), [0.5, 0.5, 0.0]) == pytest.approx(
        0, abs=0.01
    )
    assert statistics.population_stability_index(np.array([0, 0, 9]), [0.5, 0.5, 0.0]) > 1
