import math

import numpy as np
import pytest

from contract.dataset import Target
from contract.datasets.housing import HOUSING
from ledger.histogram import (
    LATENCY_BUCKETS,
    MOST_BINS,
    add_packed,
    bin_edges,
    count_latencies,
    count_predictions,
    latency_quantiles,
    pack_counts,
    sum_counts,
)


def test_packed_counts_add_up() -> None:
    draws = np.random.default_rng(1)
    counts = draws.integers(0, 1 << 40, (50, 300)) * (draws.random((50, 300)) < 0.1)
    packed = [pack_counts(one) for one in counts]
    assert sum_counts(packed, 300).tolist() == counts.sum(axis=0).tolist()
    assert sum_counts([add_packed(packed)], 300).tolist() == counts.sum(axis=0).tolist()
    assert len(packed[0]) == 8 * np.count_nonzero(counts[0])


def test_nothing_adds_up_to_nothing() -> None:
    assert add_packed([b"", b""]) == b""
    assert sum_counts([], 3).tolist() == [0, 0, 0]
    assert all(math.isnan(one) for one in latency_quantiles(sum_counts([], LATENCY_BUCKETS), [0.5, 0.99]))


def test_quantiles_are_right_within_five_percent() -> None:
    times = np.random.default_rng(1).lognormal(1, 1.5, 20_000)
    found = latency_quantiles(count_latencies(times), [0.5, 0.95, 0.99])
    assert found == pytest.approx(np.quantile(times, [0.5, 0.95, 0.99]), rel=0.05)


@pytest.mark.parametrize(("milliseconds", "expected"), [(0, 0.01), (-1, 0.01), (3.0, 3.0), (1e9, 168_000)])
def test_extreme_latencies_are_counted(milliseconds: float, expected: float) -> None:
    counts = count_latencies([milliseconds])
    assert counts.sum() == 1
    assert latency_quantiles(counts, [0.5])[0] == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize(
    ("low", "high", "width"),
    [(0, 20, 0.2), (0, 1, 0.01), (-50, 50, 1), (0, 300, 5), (-0.5, 999, 10), (1e6, 1e6 + 1, 0.01)],
)
def test_bins_of_a_bounded_target_are_round(low: float, high: float, width: float) -> None:
    edges = bin_edges(Target("y", "unit", "A target.", minimum=low, maximum=high))
    assert np.diff(edges) == pytest.approx(width)
    assert low < edges[0] <= low + width * 1.001
    assert high > edges[-1] >= high - width * 1.001
    assert len(edges) < MOST_BINS + 1


@pytest.mark.parametrize("target", [None, Target("y", "unit", "A target.", minimum=0)])
def test_bins_of_other_targets_hold_any_number(target: Target | None) -> None:
    edges = bin_edges(target)
    assert edges == sorted(edges)
    values = np.array([[-1e300], [-3.0], [0.0], [1e-9], [2.5], [1e300]])
    counts = count_predictions(values, edges)
    assert counts.sum() == 6
    assert counts[0] == counts[-1] == 1


def test_predictions_are_counted_by_bin_and_by_class() -> None:
    edges = bin_edges(HOUSING.target)
    counts = count_predictions(np.array([[-1.0], [0.1], [0.2], [0.3], [25.0]]), edges)
    assert counts[[0, 1, -1]].tolist() == [2, 2, 1]
    probabilities = np.array([[0.2, 0.8, 0.0], [0.1, 0.0, 0.9], [0.3, 0.4, 0.3]])
    assert count_predictions(probabilities, None).tolist() == [0, 2, 1]
