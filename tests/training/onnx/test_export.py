from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import skops.io
from onnxruntime import InferenceSession
from sklearn.base import BaseEstimator
from sklearn.ensemble import BaggingRegressor
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import Pipeline

from contract import DATASETS
from contract.dataset import Target
from contract.table import FloatMatrix
from local_service import PROJECT
from model.card import ONNX_INPUT, PROBABILITIES_OUTPUT, REGRESSION_OUTPUT
from tests.training import test_kinds
from tests.training.conftest import tiny_splits
from training import params, selection
from training.boosters import BOOSTERS
from training.candidates import build
from training.errors import PipelineError
from training.features import RowFeatures
from training.onnx import export
from training.params import CandidateParams, Parameter, RowFeatureParams
from training.splits import Split

SHIPPED = params.load(PROJECT / "params.yaml")

CASES: list[tuple[str, str, dict[str, Parameter]]] = [
    ("housing", "linear", {}),
    ("housing", "random_forest", {"n_estimators": 5, "n_jobs": 1}),
    ("housing", "extra_trees", {"n_estimators": 5, "n_jobs": 1}),
    ("housing", "hist_gradient_boosting", {"max_iter": 30, "min_samples_leaf": 2, "max_features": 0.3}),
    ("housing", "hist_gradient_boosting", {"max_iter": 5, "loss": "absolute_error"}),
    ("housing", "gradient_boosting", {"n_estimators": 5}),
    ("housing", "lightgbm", {"n_estimators": 30, "min_child_samples": 2}),
    ("housing", "xgboost", {"n_estimators": 30}),
    ("iris", "lightgbm", {"n_estimators": 5, "min_child_samples": 5}),
    ("iris", "xgboost", {"n_estimators": 5}),
    ("iris", "logistic_regression", {"C": 10.0}),
    ("iris", "gradient_boosting", {"n_estimators": 5}),
    ("iris", "svc", {}),
    ("iris", "random_forest", {"n_estimators": 5, "n_jobs": 1}),
    ("iris", "extra_trees", {"n_estimators": 5, "n_jobs": 1}),
    ("iris", "hist_gradient_boosting", {"max_iter": 5, "min_samples_leaf": 5}),
]


@cache
def fitted(case: int) -> Pipeline:
    name, estimator, parameters = CASES[case]
    candidate = CandidateParams(estimator=estimator, parameters=parameters)
    dataset = DATASETS[name]
    pipeline = build(dataset, "mine", candidate, SHIPPED.training(name).features, random_state=0)
    return selection.fit(pipeline, tiny_splits(name).train, dataset.task)


def hard_rows(name: str) -> FloatMatrix:
    """Rows of the table and of the whole range, each also one bit off and rounded: around thresholds, that is."""
    low, high = DATASETS[name].bounds
    rows = np.concatenate(
        [tiny_splits(name).all.features, np.random.default_rng(0).uniform(low, high, (2000, len(low)))]
    )
    return np.concatenate(
        [rows, np.nextafter(rows, np.inf), np.nextafter(rows, -np.inf), rows.astype(np.float32).astype(np.float64)]
    )


@pytest.mark.parametrize("case", range(len(CASES)), ids=["-".join(case[:2]) for case in CASES])
def test_onnx_is_the_estimator(case: int) -> None:
    name = CASES[case][0]
    dataset, pipeline = DATASETS[name], fitted(case)
    content = export.convert(dataset, pipeline)
    # Double precision throughout, but for the kernel of the support vector machine; XGBoost adds in single precision.
    tolerance = {"svc": 1e-6, "xgboost": 5e-6}.get(CASES[case][1], 1e-11)
    card = export.compare(dataset, content, export.predictor(dataset, pipeline), hard_rows(name), tolerance)
    assert card.max_difference <= tolerance
    assert card.opset == {opset.domain: opset.version for opset in onnx.load_from_string(content).opset_import}[""]


@pytest.mark.parametrize("case", range(len(CASES)), ids=["-".join(case[:2]) for case in CASES])
def test_onnx_has_one_input_and_one_output(case: int) -> None:
    dataset = DATASETS[CASES[case][0]]
    session = InferenceSession(export.convert(dataset, fitted(case)), providers=["CPUExecutionProvider"])
    (given,), (answer,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, given.shape[1]) == (ONNX_INPUT, "tensor(double)", len(dataset.features))
    columns = len(dataset.target.classes) or 1
    name = PROBABILITIES_OUTPUT if dataset.target.classes else REGRESSION_OUTPUT
    assert (answer.name, answer.type, answer.shape[1]) == (name, "tensor(double)", columns)
    for rows in (1, 3):
        row = np.array([list(dataset.example.values())] * rows)
        assert session.run(None, {ONNX_INPUT: row})[0].shape == (rows, columns)


def test_the_order_in_the_file_does_not_depend_on_hashes() -> None:
    """skl2onnx lists the operator sets in the order of a set of strings."""
    case = len(CASES) - 1
    content = export.convert(DATASETS[CASES[case][0]], fitted(case))
    domains = [opset.domain for opset in onnx.load_from_string(content).opset_import]
    assert domains == ["", "ai.onnx.ml"]


def test_forest_rows_on_a_threshold_go_the_same_way() -> None:
    """A forest compares in single precision; a double just beside the threshold must not go another way."""
    case = 1
    dataset, pipeline = DATASETS["housing"], fitted(case)
    tree = pipeline["estimator"].estimators_[0].tree_
    inner = np.flatnonzero((tree.children_left >= 0) & (tree.feature < len(dataset.features)))
    rows = np.repeat(tiny_splits("housing").train.features[:1], len(inner), axis=0)
    rows[np.arange(len(inner)), tree.feature[inner]] = tree.threshold[inner]
    around = np.concatenate([rows * (1 + step) for step in (-1e-9, 0, 1e-9)])
    export.compare(dataset, export.convert(dataset, pipeline), export.predictor(dataset, pipeline), around, 1e-12)


@pytest.mark.parametrize("estimator", ["random_forest", "hist_gradient_boosting", "lightgbm", "xgboost"])
def test_tree_without_a_split_is_converted(estimator: str) -> None:
    dataset, rows = DATASETS["housing"], tiny_splits("housing").train
    parameters: dict[str, Parameter] = {"max_iter": 2} if estimator == "hist_gradient_boosting" else {"n_jobs": 1}
    candidate = CandidateParams(estimator=estimator, parameters=parameters)
    pipeline = build(dataset, "mine", candidate, SHIPPED.training("housing").features, random_state=0)
    constant = selection.fit(pipeline, Split(rows.features, np.full_like(rows.target, 2.5)), dataset.task)
    session = InferenceSession(export.convert(dataset, constant), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {ONNX_INPUT: rows.features})[0], 2.5)


def test_two_classes_are_converted() -> None:
    dataset = replace(DATASETS["iris"], target=Target("species", "class", "Species.", classes=("setosa", "other")))
    rows = tiny_splits("iris").train
    two = Split(rows.features, np.minimum(rows.target, 1))
    candidate = CandidateParams(estimator="hist_gradient_boosting", parameters={"max_iter": 5, "min_samples_leaf": 5})
    pipeline = build(dataset, "mine", candidate, SHIPPED.training("iris").features, random_state=0)
    estimator = selection.fit(pipeline, two, dataset.task)
    content = export.convert(dataset, estimator)
    export.compare(dataset, content, export.predictor(dataset, estimator), hard_rows("iris"), 1e-12)


def test_loss_with_a_link_is_refused() -> None:
    dataset = DATASETS["housing"]
    candidate = CandidateParams(estimator="hist_gradient_boosting", parameters={"max_iter": 2, "loss": "poisson"})
    pipeline = build(dataset, "mine", candidate, SHIPPED.training("housing").features, random_state=0)
    estimator = selection.fit(pipeline, tiny_splits("housing").train, dataset.task)
    with pytest.raises(PipelineError, match="loss 'poisson' has a link function"):
        export.convert(dataset, estimator)


@pytest.mark.parametrize(
    "estimator",
    [
        BaggingRegressor(n_estimators=2),  # its trees are converted by skl2onnx, in operators that no longer exist
        KernelRidge(),  # skl2onnx does not know it
    ],
)
def test_estimator_that_cannot_be_converted_is_refused_in_a_sentence(estimator: BaseEstimator) -> None:
    dataset, rows = DATASETS["housing"], tiny_splits("housing").train
    fitted = Pipeline([("features", RowFeatures()), ("estimator", estimator)]).fit(rows.features, rows.target)
    with pytest.raises(PipelineError, match=f"{type(estimator).__name__} cannot be converted to ONNX"):
        export.convert(dataset, fitted)


def test_class_without_rows_is_refused() -> None:
    dataset, rows = DATASETS["iris"], tiny_splits("iris").train
    two = Split(rows.features[rows.target > 0], rows.target[rows.target > 0])
    pipeline = build(
        dataset,
        "mine",
        CandidateParams(estimator="logistic_regression"),
        SHIPPED.training("iris").features,
        random_state=0,
    )
    with pytest.raises(PipelineError, match="Each class needs rows"):
        export.convert(dataset, selection.fit(pipeline, two, dataset.task))


def test_difference_over_the_tolerance_is_refused_with_its_row() -> None:
    dataset, pipeline = DATASETS["housing"], fitted(0)
    predict, rows = export.predictor(dataset, pipeline), tiny_splits("housing").test.features

    def off(given: FloatMatrix) -> FloatMatrix:
        answer = predict(given)
        answer[3] += 1e-3
        return answer

    content = export.convert(dataset, pipeline)
    with pytest.raises(PipelineError, match=r"differ by 0\.001 in row 3.*train\.housing\.tolerance allows 1e-09"):
        export.compare(dataset, content, off, rows, 1e-9)
    assert export.compare(dataset, content, off, rows, 1e-2).max_difference == pytest.approx(1e-3)


def test_nan_is_a_difference() -> None:
    dataset, pipeline = DATASETS["housing"], fitted(0)
    rows = tiny_splits("housing").test.features
    with pytest.raises(PipelineError, match="differ by inf"):
        export.compare(
            dataset, export.convert(dataset, pipeline), lambda given: np.full((len(given), 1), np.nan), rows, 1.0
        )


@pytest.mark.parametrize("case", range(len(CASES)), ids=["-".join(case[:2]) for case in CASES])
def test_stored_estimator_answers_as_before(case: int, tmp_path: Path) -> None:
    dataset, pipeline = DATASETS[CASES[case][0]], fitted(case)
    export.save_estimator(pipeline, tmp_path / export.ESTIMATOR_FILE)
    loaded = export.load_estimator(tmp_path / export.ESTIMATOR_FILE)
    rows = tiny_splits(dataset.name).test.features
    np.testing.assert_array_equal(export.predictor(dataset, loaded)(rows), export.predictor(dataset, pipeline)(rows))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_every_trusted_type_is_needed(tmp_path: Path) -> None:
    held: set[str] = set()
    network = CandidateParams(estimator="neural_network", parameters={"solver": "sgd", "max_iter": 1})
    kinds = [
        test_kinds.built(test_kinds.FARE, name) for name in ("linear", "neural_network", "hist_gradient_boosting")
    ] + [build(test_kinds.FARE, "sgd", network, RowFeatureParams(), random_state=0)]
    split = test_kinds.table(test_kinds.FARE)
    for pipeline in [
        *map(fitted, range(len(CASES))),
        *(pipeline.fit(split.features, split.target) for pipeline in kinds),
    ]:
        export.save_estimator(pipeline, tmp_path / export.ESTIMATOR_FILE)
        held.update(skops.io.get_untrusted_types(file=tmp_path / export.ESTIMATOR_FILE))
    assert held == {*export.TRUSTED_TYPES, *BOOSTERS["lightgbm"].trusted, *BOOSTERS["xgboost"].trusted}


class Unknown(Ridge):  # type: ignore[misc]  # scikit-learn has no types
    """An estimator that nobody vouched for."""


def test_untrusted_type_is_neither_written_nor_read(tmp_path: Path) -> None:
    path = tmp_path / export.ESTIMATOR_FILE
    untrusted = Pipeline([("features", RowFeatures()), ("estimator", Unknown())])
    with pytest.raises(PipelineError, match=r"Unknown.*does not trust"):
        export.save_estimator(untrusted, path)
    skops.io.dump(untrusted, path)
    with pytest.raises(PipelineError, match=r"Unknown.*does not trust"):
        export.load_estimator(path)


def test_every_type_of_skops_own_list_still_loads(tmp_path: Path) -> None:
    """What skops vouches for needs no entry of ours."""
    path = tmp_path / export.ESTIMATOR_FILE
    export.save_estimator(KNeighborsRegressor(algorithm="brute").fit([[0.0], [1.0]], [0.0, 1.0]), path)
    assert isinstance(export.load_estimator(path), KNeighborsRegressor)


def test_missing_estimator_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="dvc repro"):
        export.load_estimator(tmp_path / export.ESTIMATOR_FILE)
