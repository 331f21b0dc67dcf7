import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract import deciles

EDGES = [float(edge) for edge in range(11)]
TIED = [0.0, 1.0, 2.0, 2.0, 2.0, 5.0, 6.0, 7.0, 9.0, 9.0, 9.0]


@pytest.mark.parametrize(
    ("edges", "value", "bucket"),
    [
        (EDGES, -1e9, 0),
        (EDGES, 0, 0),
        (EDGES, 0.5, 0),
        (EDGES, 1, 1),
        (EDGES, 8.9, 8),
        (EDGES, 9, 9),
        (EDGES, 10, 9),
        (EDGES, 1e9, 9),
        (TIED, 1.9, 1),
        (TIED, 2, 4),
        (TIED, 4.9, 4),
        (TIED, 5, 5),
        (TIED, 8.9, 7),
        (TIED, 9, 9),
        ([3.0] * 11, 2.9, 0),
        ([3.0] * 11, 3, 9),
    ],
)
def test_a_bucket_holds_its_lower_edge(edges: list[float], value: float, bucket: int) -> None:
    assert deciles.count(edges, [value]).tolist() == [int(index == bucket) for index in range(10)]


def test_distinct_values_are_a_tenth_each() -> None:
    values = np.random.default_rng(0).permutation(1000).astype(float)
    edges = deciles.edges(values)
    assert (edges[0], edges[5], edges[10]) == (0, 499.5, 999)
    assert deciles.shares(edges, values) == [0.1] * 10


@given(st.lists(st.integers(0, 12), min_size=1, max_size=60))
def test_shares_are_those_of_the_counts_whatever_is_tied(values: list[int]) -> None:
    edges = deciles.edges(values)
    counted = deciles.count(edges, values)
    assert counted.shape == (10,)
    assert counted.sum() == len(values)
    assert deciles.shares(edges, values) == pytest.approx((counted / len(values)).tolist())
    # Counted one by one, as they are served, or all together, as they were trained on.
    assert np.sum([deciles.count(edges, [value]) for value in values], axis=0).tolist() == counted.tolist()
