import numpy as np
import pytest

from contract.table import FloatMatrix
from model.row_independence import VECTOR_ROWS, filled_up, row_multiple
from tests.training.tiny_models import PLOTS, card


def sums(rows: FloatMatrix) -> FloatMatrix:
    return np.asarray(rows.sum(axis=1, keepdims=True))


def sums_with_a_remainder(rows: FloatMatrix) -> FloatMatrix:
    """As vectorised kernels are: the last rows, which fill no vector, have other last bits."""
    answer = sums(rows)
    whole = len(rows) // VECTOR_ROWS * VECTOR_ROWS
    answer[whole:] *= 1 + 2**-50
    return answer


def test_a_multiple_is_needed_only_where_bits_depend_on_it() -> None:
    assert row_multiple(sums, card(PLOTS)) == 1
    assert row_multiple(sums_with_a_remainder, card(PLOTS)) == VECTOR_ROWS


@pytest.mark.parametrize("size", [1, 2, 7, 8, 9, 16, 100])
def test_a_row_has_the_same_bits_whatever_is_beside_it(size: int) -> None:
    rows = np.random.default_rng(0).uniform(0, 1, (100, 3))
    parts = [filled_up(sums_with_a_remainder, rows[start : start + size], VECTOR_ROWS) for start in range(0, 100, size)]
    assert np.array_equal(np.concatenate(parts), sums(rows))
