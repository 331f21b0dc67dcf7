from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from contract import DATASETS
from contract.dataset import Dataset, Target
from contract.datasets.housing import HOUSING
from contract.datasets.iris import IRIS
from contract.feature import Unknown
from contract.row import Row, category
from contract.table import check_matrix
from load_tests.errors import LoadTestError
from load_tests.traffic import Traffic
from tests.serving import tiny_models

EVERY = pytest.mark.parametrize("dataset", DATASETS.values(), ids=lambda dataset: dataset.name)


@EVERY
def test_good_rows_are_rows_of_the_split(dataset: Dataset, features: Path) -> None:
    rows = Traffic.read(dataset, features).rows(200)
    assert rows.shape == (200, len(dataset.features))
    # A missing value is not equal to itself.
    split = {tuple(row) for row in np.nan_to_num(tiny_models.table(dataset).features, nan=-1e9).tolist()}
    assert {tuple(row) for row in np.nan_to_num(rows, nan=-1e9).tolist()} <= split
    assert len(np.unique(rows, axis=0)) > 50


@pytest.mark.parametrize("dataset", [HOUSING, IRIS], ids=lambda dataset: dataset.name)
def test_bad_rows_break_the_contract_in_the_feature_that_is_named(dataset: Dataset, features: Path) -> None:
    traffic = Traffic.read(dataset, features)
    broken = [traffic.bad_rows(5) for _ in range(300)]
    for bad in broken:
        violations = check_matrix(dataset, bad.rows)
        assert [violation.column for violation in violations] == [bad.feature]
    assert {bad.feature for bad in broken} == set(dataset.feature_names)
    assert {violation.rule for bad in broken for violation in check_matrix(dataset, bad.rows)} == {"nan", "range"}
    # What was spoilt is a copy: the rows drawn later are good.
    assert check_matrix(dataset, traffic.rows(500)) == []


class OpenRow(Row):
    port: str | None = category("A", "B", description="Port.", example="A", unknown=Unknown.OTHER)


class PartlyOpenRow(OpenRow):
    deck: str = category("C", "D", description="Deck.", example="C", unknown=Unknown.OTHER)


@pytest.mark.parametrize(("row", "bad"), [(OpenRow, None), (PartlyOpenRow, "deck")])
def test_of_an_open_vocabulary_a_missing_value_alone_is_bad(row: type[Row], bad: str | None) -> None:
    target = Target(name="price", unit="USD", description="Price.", minimum=0, maximum=1)
    dataset = Dataset(name="open", description="Open.", row=row, target=target)
    traffic = Traffic(dataset, np.zeros((3, len(dataset.features))), np.zeros(3))
    assert traffic.can_be_bad == (bad is not None)
    if bad is not None:
        broken = traffic.bad_rows(3)
        assert broken.feature == bad
        assert [violation.column for violation in check_matrix(dataset, broken.rows)] == [bad]


def test_one_seed_draws_the_same_rows(features: Path) -> None:
    one, same, other = (Traffic.read(HOUSING, features, seed).rows(50) for seed in (1, 1, 2))
    assert (one == same).all()
    assert (one != other).any()


def test_without_a_split_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(LoadTestError, match=r"housing.test\.parquet is missing.*`make train`"):
        Traffic.read(HOUSING, tmp_path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda frame: frame.drop(columns="petal_width"), "lacks petal_width"),
        (lambda frame: frame.assign(petal_width=-1.0), "petal_width, row 0: -1.0 is outside"),
        (lambda frame: frame.head(0), "it has no rows"),
    ],
)
def test_a_split_of_another_contract_is_refused(
    change: Callable[[pd.DataFrame], pd.DataFrame], reason: str, features: Path, tmp_path: Path
) -> None:
    (tmp_path / "iris").mkdir()
    change(pd.read_parquet(features / "iris" / "test.parquet")).to_parquet(tmp_path / "iris" / "test.parquet")
    with pytest.raises(LoadTestError, match=f"{reason}.*`make train`"):
        Traffic.read(IRIS, tmp_path)
