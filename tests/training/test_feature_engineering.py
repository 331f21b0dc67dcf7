import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import train_test_split

from contract import DATASETS, deciles
from tests.training.conftest import raw_table
from training.errors import PipelineError
from training.feature_engineering import engineer, split, statistics
from training.params import FeatureEngineeringParams

PARAMS = FeatureEngineeringParams(test_size=0.2, random_state=42)
NO_FEEDBACK = Path("no such file")


def table(name: str, rows: int = 150) -> pd.DataFrame:
    raw = raw_table(name, rows)
    target = DATASETS[name].target
    if target.classes:
        raw = raw.assign(**{target.name: raw[target.name].map(target.classes.index)})
    return raw.astype(float).reset_index(drop=True)


def test_housing_split_is_the_plain_one() -> None:
    rows = table("housing")
    train, test = split(DATASETS["housing"], rows, PARAMS)
    expected_train, expected_test = train_test_split(rows, test_size=0.2, random_state=42)
    np.testing.assert_array_equal(train, expected_train)
    np.testing.assert_array_equal(test, expected_test)


def test_iris_split_has_equal_shares_of_the_classes() -> None:
    train, test = split(DATASETS["iris"], table("iris"), PARAMS)
    assert train["species"].value_counts().to_dict() == {0: 40, 1: 40, 2: 40}
    assert test["species"].value_counts().to_dict() == {0: 10, 1: 10, 2: 10}


@pytest.mark.parametrize("name", ["housing", "iris"])
def test_statistics_know_nothing_of_the_test_split(name: str, tmp_path: Path) -> None:
    """Whatever stands in the test rows, the statistics and the training rows stay as they are."""
    rows = table(name)
    _, test = train_test_split(
        rows, test_size=0.2, random_state=42, stratify=rows["species"] if name == "iris" else None
    )
    changed = rows.copy()
    changed.loc[test.index, DATASETS[name].feature_names[0]] = 1e6
    written = []
    for number, content in enumerate((rows, changed)):
        content.to_parquet(tmp_path / "table.parquet", index=False)
        engineer(DATASETS[name], tmp_path / "table.parquet", tmp_path / str(number), PARAMS, NO_FEEDBACK)
        written.append((tmp_path / str(number) / "statistics.json").read_text())
    assert written[0] == written[1]
    assert (pd.read_parquet(tmp_path / "1/test.parquet").iloc[:, 0] == 1e6).all()


def test_statistics() -> None:
    rows = table("housing")
    found = statistics(DATASETS["housing"], rows)
    assert found["rows"] == len(rows)
    assert list(found["features"]) == list(DATASETS["housing"].feature_names)
    for name, described in [*found["features"].items(), ("MedHouseVal", found["target"])]:
        assert described["deciles"][0] == described["minimum"] == rows[name].min()
        assert described["deciles"][5] == pytest.approx(rows[name].median())
        assert described["deciles"][10] == described["maximum"] == rows[name].max()
        assert described["decile_shares"] == deciles.shares(described["deciles"], rows[name])
        assert described["mean"] == pytest.approx(rows[name].mean())
        assert described["std"] == pytest.approx(rows[name].std())
    assert len(found["target"]["deciles"]) == 11


def test_statistics_of_classes_are_their_shares(tmp_path: Path) -> None:
    table("iris").to_parquet(tmp_path / "iris.parquet")
    engineer(DATASETS["iris"], tmp_path / "iris.parquet", tmp_path / "iris", PARAMS, NO_FEEDBACK)
    found = json.loads((tmp_path / "iris/statistics.json").read_text())
    assert found["target"] == {"shares": pytest.approx({"setosa": 1 / 3, "versicolor": 1 / 3, "virginica": 1 / 3})}


def test_too_few_rows_are_told(tmp_path: Path) -> None:
    table("iris").head(3).assign(species=[0, 1, 2]).to_parquet(tmp_path / "iris.parquet")
    with pytest.raises(PipelineError, match="3 rows cannot be split"):
        engineer(DATASETS["iris"], tmp_path / "iris.parquet", tmp_path / "iris", PARAMS, NO_FEEDBACK)
    assert not (tmp_path / "iris").exists()


def test_missing_table_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="dvc repro data_preparation"):
        engineer(DATASETS["iris"], tmp_path / "iris.parquet", tmp_path / "iris", PARAMS, NO_FEEDBACK)
