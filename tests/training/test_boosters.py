"""LightGBM and XGBoost as candidates: what is refused, what is stored, and what happens without the packages."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.pipeline import Pipeline

from contract import DATASETS
from contract.dataset import Dataset, Task
from local_service import PROJECT
from tests.kinds.datasets import PARCEL, VOYAGE
from tests.training.conftest import tiny_splits
from tests.training.test_kinds import FARE, SALON, built, column, table
from training import selection
from training.boosters import BOOSTERS, make
from training.candidates import build, check_deployable
from training.errors import PipelineError
from training.features import RowFeatures
from training.onnx import export
from training.onnx.hard_rows import hard_rows
from training.params import CandidateParams, Parameter, RowFeatureParams
from training.splits import Split

Parameters = dict[str, Parameter]
QUICK: dict[str, Parameters] = {
    "lightgbm": {"n_estimators": 5, "min_child_samples": 3, "min_data_per_group": 3, "cat_smooth": 1.0},
    "xgboost": {"n_estimators": 5},
}


def candidate(dataset: Dataset, estimator: str, parameters: Parameters) -> Pipeline:
    params = CandidateParams(estimator=estimator, parameters=parameters)
    return build(dataset, "mine", params, RowFeatureParams(), random_state=7)


@pytest.mark.parametrize("objective", ["regression_l1", "huber", "fair", "quantile", "mape"])
def test_objectives_of_lightgbm_are_exact(objective: str) -> None:
    assert difference(FARE, "lightgbm", {"objective": objective}) == 0


@pytest.mark.parametrize(
    ("dataset", "estimator", "parameters"),
    [
        (FARE, "xgboost", {"objective": "reg:absoluteerror"}),
        (FARE, "xgboost", {"objective": "reg:pseudohubererror"}),
        (FARE, "xgboost", {"base_score": 3.0, "gamma": 1.0}),  # pruned trees
        (FARE, "xgboost", {"num_parallel_tree": 2, "subsample": 0.5}),
        (FARE, "xgboost", {"max_cat_to_onehot": 100}),  # one category against the rest
        (VOYAGE, "xgboost", {"base_score": 0.3}),
        (SALON, "xgboost", {"num_parallel_tree": 2, "subsample": 0.5}),
        (VOYAGE, "lightgbm", {"class_weight": "balanced"}),
        (SALON, "lightgbm", {"subsample": 0.5, "subsample_freq": 1, "max_cat_to_onehot": 100}),
    ],
)
def test_variants_answer_alike(dataset: Dataset, estimator: str, parameters: Parameters) -> None:
    assert difference(dataset, estimator, parameters) < (1e-5 if estimator == "xgboost" else 1e-12)


def difference(dataset: Dataset, estimator: str, parameters: Parameters) -> float:
    """The largest between ONNX and the estimator, whose training rows have weights."""
    split = table(dataset)
    split = Split(split.features, split.target, weight=np.linspace(0.5, 2, len(split.target)))
    fitted = selection.fit(candidate(dataset, estimator, QUICK[estimator] | parameters), split, dataset.task)
    rows = np.concatenate([split.features, hard_rows(dataset, fitted, split.features)])
    card = export.compare(dataset, export.convert(dataset, fitted), export.predictor(dataset, fitted), rows, 1)
    return card.max_difference


@pytest.mark.parametrize("missing_in_training", [True, False])
@pytest.mark.parametrize("estimator", BOOSTERS)
def test_missing_values_that_no_training_row_had(estimator: str, missing_in_training: bool) -> None:
    split = table(PARCEL)
    if not missing_in_training:
        weights = split.features[:, column(PARCEL, "weight")]
        weights[np.isnan(weights)] = 7.0
    fitted = selection.fit(candidate(PARCEL, estimator, QUICK[estimator]), split, PARCEL.task)
    rows = np.array([[weight, 3.0] for weight in (np.nan, 0.0, -0.0, 1e-35, -1e-35, 7.0)])
    predict = export.predictor(PARCEL, fitted)
    export.compare(PARCEL, export.convert(PARCEL, fitted), predict, rows, 1e-5)


def test_numbers_that_lightgbm_takes_for_zero() -> None:
    """It splits at both ends of that range."""
    split = table(PARCEL)
    split.features[:, 0] = np.resize([-3.0, -1.0, 0.0, 0.0, 2.0, 5.0], len(split.target))
    signed = Split(split.features, np.sign(split.features[:, 0]))
    fitted = selection.fit(candidate(PARCEL, "lightgbm", QUICK["lightgbm"]), signed, PARCEL.task)
    tiny = float(np.float32(1e-35))
    ends = np.array([-tiny, -tiny / 2, 0.0, tiny / 2, tiny])
    around = np.concatenate([ends, np.nextafter(ends, np.inf), np.nextafter(ends, -np.inf)])
    rows = np.column_stack([around, np.full_like(around, 3.0)])
    predict = export.predictor(PARCEL, fitted)
    assert len(np.unique(predict(rows))) == 3
    export.compare(PARCEL, export.convert(PARCEL, fitted), predict, rows, 1e-12)


@pytest.mark.parametrize(
    ("name", "estimator", "parameters", "said"),
    [
        ("housing", "lightgbm", {"objective": "poisson"}, r"LGBMRegressor: objective 'poisson' .* use regression or"),
        ("iris", "lightgbm", {"objective": "multiclassova"}, "objective 'multiclassova .*'.*; use multiclass"),
        ("housing", "lightgbm", {"boosting_type": "dart"}, "boosting_type 'dart' cannot be converted; use gbdt"),
        ("housing", "lightgbm", {"num_leaves": 1}, "num_leaves"),
        ("housing", "xgboost", {"objective": "count:poisson"}, "objective 'count:poisson' .*; use reg:squarederror or"),
        ("iris", "xgboost", {"objective": "multi:softmax"}, "objective 'multi:softmax' .*; use multi:softprob"),
        ("housing", "xgboost", {"booster": "gblinear"}, "booster 'gblinear' cannot be converted; use gbtree"),
        ("housing", "xgboost", {"booster": "dart"}, "booster 'dart' cannot be converted; use gbtree"),
        ("housing", "xgboost", {"missing": 0.0}, r"missing 0\.0 cannot be converted; use NaN"),
        ("iris", "xgboost", {"multi_strategy": "multi_output_tree"}, "use one_output_per_tree"),
        ("housing", "xgboost", {"max_depth": "deep"}, "max_depth"),
        ("housing", "xgboost", {"booster": "oracle"}, "Unknown gbm type oracle$"),
        ("housing", "xgboost", {"early_stopping_rounds": 3}, "validation dataset"),
    ],
)
def test_what_cannot_be_converted_is_refused_before_training(
    name: str, estimator: str, parameters: Parameters, said: str
) -> None:
    pipeline = candidate(DATASETS[name], estimator, parameters)
    with pytest.raises(PipelineError, match=rf"train\.{name}\.candidates\.mine cannot be deployed: .*{said}"):
        check_deployable(DATASETS[name], "mine", pipeline, tiny_splits(name).train, 1e-5)


@pytest.mark.parametrize("parameter", ["linear_tree", "zero_as_missing"])
def test_other_trees_of_lightgbm_are_refused(parameter: str) -> None:
    with pytest.raises(PipelineError, match=rf"LGBMRegressor has no {parameter}"):
        candidate(DATASETS["housing"], "lightgbm", {parameter: True})
    estimator = make("lightgbm", Task.REGRESSION).set_params(n_estimators=2, min_child_samples=2, **{parameter: True})
    pipeline = Pipeline([("features", RowFeatures()), ("estimator", estimator)])
    with pytest.raises(PipelineError, match="linear_tree and zero_as_missing cannot be converted"):
        check_deployable(DATASETS["housing"], "mine", pipeline, tiny_splits("housing").train, 1e-5)


@pytest.mark.parametrize("dataset", [FARE, SALON, VOYAGE], ids=lambda dataset: dataset.name)
@pytest.mark.parametrize("estimator", BOOSTERS)
def test_two_trainings_give_the_same_bytes(estimator: str, dataset: Dataset, tmp_path: Path) -> None:
    made = []
    for number in range(2):
        fitted = selection.fit(built(dataset, estimator), table(dataset), dataset.task)
        path = tmp_path / str(number)
        export.save_estimator(fitted, path)
        made.append((path.read_bytes(), export.convert(dataset, fitted)))
    assert made[0] == made[1]


def absent(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """As if a package were not installed."""
    for name in [name for name in sys.modules if name.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)


@pytest.mark.parametrize("package", BOOSTERS)
def test_without_the_package_a_sentence_says_how_to_get_it(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    absent(monkeypatch, package)
    said = rf"candidates\.mine\.estimator: {BOOSTERS[package].title} is not installed: `make boosters` adds it"
    with pytest.raises(PipelineError, match=said):
        candidate(DATASETS["iris"], package, {})
    # The others are not affected.
    pipeline = candidate(DATASETS["iris"], "logistic_regression", {})
    check_deployable(DATASETS["iris"], "mine", pipeline, tiny_splits("iris").train, 1e-6)


@pytest.mark.parametrize("package", BOOSTERS)
def test_a_stored_estimator_says_which_package_it_needs(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / export.ESTIMATOR_FILE
    export.save_estimator(selection.fit(built(PARCEL, package), table(PARCEL), PARCEL.task), path)
    absent(monkeypatch, package)
    with pytest.raises(PipelineError, match=rf"{BOOSTERS[package].title} is not installed: `make boosters`"):
        export.load_estimator(path)


def test_training_imports_them_only_if_a_candidate_names_them() -> None:
    code = (
        "import sys, training.train, training.model_evaluation\n"
        "from contract import DATASETS\n"
        "from tests.training.conftest import tiny_splits\n"
        "from training import candidates, params\n"
        "section = params.load().training('iris')\n"
        "for name, one in section.candidates.items():\n"
        "    made = candidates.build(DATASETS['iris'], name, one, section.features, random_state=0)\n"
        "    candidates.check_deployable(DATASETS['iris'], name, made, tiny_splits('iris').train, section.tolerance)\n"
        "print(sorted({'lightgbm', 'xgboost'} & set(sys.modules)))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"
