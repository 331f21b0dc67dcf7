import pytest

from training.evaluation.model_figures import curve_splits
from training.params import LearningCurveParams


@pytest.mark.parametrize(("rows", "splits"), [(120, 8), (1_250, 8), (8_000, 1), (2_000, 5), (100_000, 1)])
def test_large_table_is_split_fewer_times(rows: int, splits: int) -> None:
    sizes = LearningCurveParams(fractions=(1.0,), splits=8, held_out=0.2, rows_per_class=1)
    assert curve_splits(sizes, rows) == splits
