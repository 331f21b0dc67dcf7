"""Training over every kind of feature: text, dates, flags, missing values."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.pipeline import Pipeline

from contract import buckets
from contract.dataset import Dataset, Target
from contract.feature import Kind, Unknown
from contract.row import Row, category, feature
from contract.table import FloatMatrix
from tests.kinds import models
from tests.kinds.datasets import PARCEL, VOYAGE
from training import data_preparation, selection
from training.candidates import ESTIMATORS, build, check_deployable
from training.errors import PipelineError
from training.feature_engineering import statistics
from training.features import BoostingRows, KindEncoder
from training.onnx import export
from training.onnx.hard_rows import hard_rows
from training.params import CandidateParams, RotationParams, RowFeatureParams, TableParams
from training.splits import Split

SALON = Dataset("salon", "Class.", VOYAGE.row, Target("salon", "class", "Class.", classes=("first", "second", "third")))
FARE = Dataset("fare", "Fare.", VOYAGE.row, Target("price", "USD", "Price.", minimum=0, maximum=1000))
DATASETS = (VOYAGE, SALON, FARE, PARCEL)
CASES = [(dataset, name) for dataset in DATASETS for name in ESTIMATORS[dataset.task]]
ROWS = 120
# Of the support vector machine, ONNX computes the kernel in single precision. XGBoost itself adds in single precision.
TOLERANCE = {"svc": 1e-6, "xgboost": 1e-5}
QUICK: dict[str, CandidateParams] = {
    "hist_gradient_boosting": CandidateParams(
        estimator="hist_gradient_boosting", parameters={"max_iter": 8, "min_samples_leaf": 5}
    ),
    "lightgbm": CandidateParams(
        estimator="lightgbm",
        parameters={"n_estimators": 8, "min_child_samples": 5, "min_data_per_group": 3, "cat_smooth": 1.0},
    ),
    "neural_network": CandidateParams(estimator="neural_network", parameters={"max_iter": 5}),
    **{
        name: CandidateParams(estimator=name, parameters={"n_estimators": 5})
        for name in ("random_forest", "extra_trees", "gradient_boosting", "xgboost")
    },
}

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def table(dataset: Dataset) -> Split:
    """Rows whose target depends on every feature; a third of the optional values is missing."""
    features = models.matrix(dataset, models.rows(dataset, ROWS))
    low, high = dataset.bounds
    random = np.random.default_rng(0)
    score = np.nan_to_num((features - low) / (high - low), nan=0.3) @ random.normal(size=len(low))
    classes = len(dataset.target.classes)
    if not classes:
        return Split(features, 10 * score)
    return Split(features, np.digitize(score, np.quantile(score, np.arange(1, classes) / classes)).astype(float))


def column(dataset: Dataset, name: str) -> int:
    return dataset.feature_names.index(name)


def built(dataset: Dataset, name: str, features: RowFeatureParams | None = None) -> Pipeline:
    candidate = QUICK.get(name, CandidateParams(estimator=name))
    return build(dataset, "mine", candidate, features or RowFeatureParams(), random_state=7)


def assert_converts(dataset: Dataset, name: str, pipeline: Pipeline, split: Split, *rows: FloatMatrix) -> None:
    """The ONNX model answers as the estimator does, to these rows and to hard ones."""
    fitted = selection.fit(pipeline, split, dataset.task)
    content, predict = export.convert(dataset, fitted), export.predictor(dataset, fitted)
    every = np.concatenate([split.features, hard_rows(dataset, fitted, split.features), *rows])
    assert np.isfinite(predict(every)).all()
    export.compare(dataset, content, predict, every, TOLERANCE.get(name, 1e-12))


@pytest.mark.parametrize(("dataset", "name"), CASES, ids=[f"{dataset.name}-{name}" for dataset, name in CASES])
def test_onnx_answers_as_the_estimator_does(dataset: Dataset, name: str) -> None:
    """Unseen categories, missing values, the ends of the ranges, thresholds and their neighbours included."""
    split = table(dataset)
    # Half of the categories are in no row of the training; one column holds nothing.
    if dataset is not PARCEL:
        seen = split.features[:, column(dataset, "Home district (1912)")]
        split.features[:, column(dataset, "Home district (1912)")] = np.where(seen > 30, np.nan, seen)
        split.features[:, column(dataset, "deck")] = np.nan
        split.features[:, column(dataset, "age")] = np.nan
    unseen = models.matrix(dataset, models.rows(dataset, 100, seed=1))
    assert_converts(dataset, name, built(dataset, name), split, unseen)


@pytest.mark.parametrize("dataset", DATASETS, ids=lambda dataset: dataset.name)
def test_candidates_can_be_deployed(dataset: Dataset) -> None:
    for name in ESTIMATORS[dataset.task]:
        check_deployable(dataset, name, built(dataset, name), table(dataset), TOLERANCE.get(name, 1e-9))


@pytest.mark.parametrize("name", ["linear", "random_forest", "hist_gradient_boosting", "lightgbm", "xgboost"])
def test_what_is_computed_from_a_missing_value_is_missing(name: str) -> None:
    wanted = RowFeatureParams(
        rotations=RotationParams(columns=("fare", "age"), degrees=(30,)),
        ratios=(("weight", "pieces"),),
        decimals={"weight": 1},
    )
    parcel_like = wanted.model_copy(update={"rotations": None})
    assert_converts(PARCEL, name, built(PARCEL, name, parcel_like), table(PARCEL))
    rotated = wanted.model_copy(update={"ratios": (), "decimals": {"age": 0}})
    assert_converts(FARE, name, built(FARE, name, rotated), table(FARE))


@pytest.mark.parametrize(
    "wanted", [RowFeatureParams(decimals={"port": 1}), RowFeatureParams(ratios=(("fare", "insured"),))]
)
def test_nothing_is_computed_from_a_code(wanted: RowFeatureParams) -> None:
    with pytest.raises(PipelineError, match=r"train\.voyage\.features: (port|insured) is no number"):
        built(VOYAGE, "svc", wanted)


class CityRow(Row):
    city: str | None = category(
        *(f"city {number}" for number in range(400)), description="City.", example="city 1", unknown=Unknown.OTHER
    )
    size: float = feature(unit="km", minimum=0, maximum=9, description="Size.", example=1)


CITY = Dataset("city", "Rent.", CityRow, Target("rent", "USD", "Rent.", minimum=0, maximum=1000))


@pytest.mark.parametrize("name", ESTIMATORS[CITY.task])
def test_more_categories_than_gradient_boosting_takes(name: str) -> None:
    codes = np.append(np.repeat(np.arange(300.0), 2), np.arange(300.0, 400))
    rent = np.sin(codes)
    features = np.column_stack([codes, np.random.default_rng(0).uniform(0, 9, len(codes))])
    assert_converts(CITY, name, built(CITY, name), Split(features, rent))


def test_rare_categories_count_as_missing() -> None:
    rows = np.array([[2.0, 7, np.nan], [2, 8, np.nan], [5, 9, np.nan], [5, 1, np.nan], [3, 1, np.nan]])
    kept = BoostingRows([0], most=2).fit_transform(rows)
    np.testing.assert_array_equal(kept[:, 0], [2, 2, 5, 5, np.nan])
    np.testing.assert_array_equal(kept[:, 1], rows[:, 1])
    np.testing.assert_array_equal(kept[:, 2], 0)


def test_missing_values_and_categories_become_numbers() -> None:
    rows = np.array([[1.0, 0], [3, 2], [np.nan, np.nan], [4, 2]])
    one_hot = KindEncoder([1], [0], one_hot=True).fit(rows)
    assert one_hot.get_feature_names_out(["age", "port"]).tolist() == [
        *("age", "age is missing", "port is -1", "port is 0", "port is 2")
    ]
    np.testing.assert_array_equal(
        one_hot.transform([*rows[:3], [2, 1]]),
        # The last one's category was in no row of the training.
        [[1, 0, 0, 1, 0], [3, 0, 0, 0, 1], [3, 1, 1, 0, 0], [2, 0, 0, 0, 0]],
    )
    codes = KindEncoder([1], [0]).fit(rows)
    np.testing.assert_array_equal(codes.transform(rows[1:3]), [[3, 2, 0], [3, -1, 1]])


def test_statistics_of_kinds() -> None:
    split = table(VOYAGE)
    split.features[:, column(VOYAGE, "married")] = np.nan
    frame = pd.DataFrame(split.features, columns=list(VOYAGE.feature_names)).assign(survived=split.target)
    described = json.loads(json.dumps(statistics(VOYAGE, frame), allow_nan=False))["features"]
    for each in VOYAGE.features:
        assert len(described[each.name]["decile_shares"]) == buckets.size(each)
        assert sum(described[each.name]["decile_shares"]) == pytest.approx(1)
        assert (described[each.name]["mean"] is None) == (each.kind in (Kind.CATEGORY, Kind.BOOLEAN))
    deck = described["deck"]
    assert deck["decile_shares"][-1] == pytest.approx(frame["deck"].isna().mean())
    assert (deck["minimum"], deck["maximum"]) == (0, 2)
    assert described["married"]["decile_shares"][-1] == 1


PARCELS = b"weight,pieces,price\n1.5,3,10\n,3,12\nNA,1,9\nNA,1,9\n"


def test_raw_table_with_missing_values(tmp_path: Path) -> None:
    path = tmp_path / "parcel.csv"
    path.write_bytes(PARCELS)
    found = data_preparation.inspect(
        PARCEL, path, tmp_path / "SHA256SUMS", TableParams(minimum_rows=1, maximum_duplicates=1)
    )
    assert found.error is None
    assert found.table is not None
    prepared = data_preparation.frame(PARCEL, found.table)
    np.testing.assert_array_equal(prepared["weight"], [1.5, np.nan, np.nan, np.nan])
    assert found.report["columns"]["weight"] == {"min": 1.5, "max": 1.5, "mean": 1.5, "missing": 3}
    refused = data_preparation.inspect(
        PARCEL, path, tmp_path / "SHA256SUMS", TableParams(minimum_rows=1, maximum_duplicates=0)
    )
    assert refused.report["violation_counts"] == {"duplicate": 1}


def test_report_shows_what_a_column_holds(tmp_path: Path) -> None:
    cells = pd.DataFrame(models.rows(VOYAGE, 30), dtype=object).map(lambda value: "" if value is None else str(value))
    path = tmp_path / "voyage.csv"
    cells.assign(survived="lost").to_csv(path, index=False)
    found = data_preparation.inspect(
        VOYAGE, path, tmp_path / "SHA256SUMS", TableParams(minimum_rows=1, maximum_duplicates=0)
    )
    assert found.error is None
    columns = found.report["columns"]
    assert columns["port"] == {"values": cells["port"].value_counts().to_dict()}
    assert columns["deck"]["missing"] == (cells["deck"] == "").sum()
    assert columns["born"] == {"min": cells["born"].min(), "max": cells["born"].max()}
