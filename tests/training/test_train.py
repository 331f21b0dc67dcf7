"""The stage from end to end: real tables, tiny models, a real MLflow store in a temporary SQLite file."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from onnxruntime import InferenceSession
from sklearn.neighbors import KNeighborsClassifier

from contract import DATASETS, deciles
from contract.dataset import Task
from local_service import PROJECT
from model.card import CARD_FILE, ONNX_FILE, ONNX_INPUT, REFERENCE_FILE, ModelCard
from tests.mlflow_store import empty_store
from tests.training.conftest import RAW, tiny_splits, tiny_train_params
from tests.training.workspace import train, with_ratios, write_features
from training import tracking
from training import train as stage
from training.candidates import ESTIMATORS
from training.errors import PipelineError
from training.evaluation.scores import CANDIDATES_FILE
from training.files import sha256
from training.onnx.export import ESTIMATOR_FILE, TRUSTED_TYPES, load_estimator, predictor
from training.params import CandidateParams
from training.registry import archives
from training.tracking import RegisteredModel

pytestmark = [  # of MLflow 3.17's own code: its tables, and its input examples
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
    pytest.mark.filterwarnings("ignore:Operation with range is deprecated"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType"),
    pytest.mark.usefixtures("examples_only"),
]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with features and an empty store. One for the module, as making its tables takes seconds."""
    root = tmp_path_factory.mktemp("workspace")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("MLFLOW_TRACKING_URI", empty_store(root))
        for name in DATASETS:
            write_features(name)
        yield root


@pytest.fixture(scope="module")
def trained(workspace: Path) -> dict[str, RegisteredModel]:
    assert workspace == Path.cwd()
    return {name: train(name, with_ratios(name)) for name in DATASETS}


@pytest.fixture(params=["housing", "iris"])
def name(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


def read_card(name: str) -> ModelCard:
    return ModelCard.model_validate_json((Path("models") / name / CARD_FILE).read_bytes())


def children(parent: str, name: str) -> dict[str, Any]:
    """The runs of a dataset's experiment that are nested in a run, by name."""
    experiment = MlflowClient().get_experiment_by_name(name)
    assert experiment is not None
    found = MlflowClient().search_runs([experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{parent}'")
    return {run.info.run_name: run for run in found}


def parents(name: str) -> list[Any]:
    """The training runs of a dataset's experiment, the latest first."""
    experiment = MlflowClient().get_experiment_by_name(name)
    assert experiment is not None
    found = MlflowClient().search_runs([experiment.experiment_id], order_by=["attributes.start_time DESC"])
    return [run for run in found if "mlflow.parentRunId" not in run.data.tags]


def test_artifact_is_whole(trained: dict[str, RegisteredModel], name: str) -> None:
    directory = Path("models") / name
    files = {ONNX_FILE, CARD_FILE, REFERENCE_FILE, ESTIMATOR_FILE, CANDIDATES_FILE}
    assert {path.name for path in directory.iterdir()} == files
    assert trained[name] in tracking.with_content(name, read_card(name).content_version)
    assert trained[name].model_uri == f"models:/{name}/{trained[name].version}"


def test_card_is_complete(trained: dict[str, RegisteredModel], name: str) -> None:
    dataset, splits, card = DATASETS[name], tiny_splits(name), read_card(name)
    card.check(dataset)
    assert card.content_version == trained[name].content_version
    run = trained[name].training_run
    assert run.run_id == trained[name].run_id
    assert run.trained_at is not None
    assert datetime.now(UTC) - run.trained_at < timedelta(minutes=10)
    assert run.git_revision == "unknown"  # the workspace is no git repository
    assert card.training_rows == len(splits.train.target)
    assert card.data_sha256 == sha256(RAW / f"{name}.csv")
    assert card.onnx.sha256 == sha256(Path("models") / name / ONNX_FILE)
    assert card.onnx.max_difference <= card.onnx.tolerance == 1e-9
    assert [feature.name for feature in card.features] == list(dataset.feature_names)
    np.testing.assert_allclose([f.maximum for f in card.features], splits.train.features.max(axis=0))
    for feature, column in zip(card.features, splits.train.features.T, strict=True):
        assert feature.decile_shares == deciles.shares(feature.deciles, column)
    assert set(card.libraries) == {"scikit-learn", "numpy", "onnx", "skl2onnx", "onnxruntime"}
    assert card.algorithm in ("simple", "forest")
    assert card.parameters["estimator"]
    assert set(card.cross_validation) == set(card.metrics)
    if name == "housing":
        assert card.parameters["ratios"] == "MedInc/AveOccup"
        assert len(card.prediction_deciles) == 11
        assert card.prediction_decile_shares == pytest.approx([0.1] * 10, abs=0.02)
        assert card.class_shares == {}
    else:
        assert card.prediction_deciles == card.prediction_decile_shares == []
        assert sum(card.class_shares.values()) == pytest.approx(1)
        assert list(card.class_shares) == list(dataset.target.classes)


def test_golden_rows_are_test_rows_with_the_answer_of_estimator_and_onnx(
    trained: dict[str, RegisteredModel], name: str
) -> None:
    assert name in trained
    dataset, directory, card = DATASETS[name], Path("models") / name, read_card(name)
    rows = np.array([[golden.row[feature] for feature in dataset.feature_names] for golden in card.golden])
    outputs = np.array([golden.output for golden in card.golden])
    assert len(rows) == 4
    known = {tuple(row) for row in tiny_splits(name).test.features.tolist()}
    assert {tuple(row) for row in rows.tolist()} <= known
    # The last bit of a linear model's matrix product depends on the number of rows.
    again = predictor(dataset, load_estimator(directory / ESTIMATOR_FILE))(rows)
    np.testing.assert_allclose(again, outputs, rtol=1e-14)
    session = InferenceSession(directory / ONNX_FILE, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {ONNX_INPUT: rows})[0], outputs, atol=1e-9)


def test_each_candidate_has_a_run_below_the_training(trained: dict[str, RegisteredModel], name: str) -> None:
    parent = MlflowClient().get_run(trained[name].run_id)
    assert parent.info.run_name == read_card(name).algorithm
    assert parent.info.status == "FINISHED"
    found = children(parent.info.run_id, name)
    assert list(found) in (["simple", "forest"], ["forest", "simple"])
    for candidate in ("simple", "forest"):
        run = found[candidate]
        assert run.info.status == "FINISHED"
        assert run.data.params["estimator"]
        metric = "rmse" if name == "housing" else "accuracy"
        assert {f"cv_{metric}", f"cv_{metric}_std", f"{metric}_fold"} <= set(run.data.metrics)
        assert len(MlflowClient().get_metric_history(run.info.run_id, f"{metric}_fold")) == 2
        assert [file.path for file in MlflowClient().list_artifacts(run.info.run_id, "plots")] == [
            "plots/out_of_fold.png"
        ]
    for run in (parent, *found.values()):
        assert run.data.tags["data_sha256"] == sha256(RAW / f"{name}.csv")
        assert run.data.tags["git_revision"] == "unknown"  # the workspace is no git repository
    assert f"test_{metric}" in parent.data.metrics
    assert parent.data.params["algorithm"] == read_card(name).algorithm


def test_registered_version_holds_everything(trained: dict[str, RegisteredModel], name: str, tmp_path: Path) -> None:
    model = tracking.download(trained[name], tmp_path / "model")
    assert {path.name for path in model.iterdir()} == {ONNX_FILE, CARD_FILE, REFERENCE_FILE, ESTIMATOR_FILE}
    archives.normalise_skops(model / ESTIMATOR_FILE)
    trained_files = snapshot(Path("models") / name)
    assert trained_files.pop(CANDIDATES_FILE)
    assert snapshot(model) == trained_files
    rows = tiny_splits(name).test.features
    stored, local = (load_estimator(place / ESTIMATOR_FILE) for place in (model, Path("models") / name))
    np.testing.assert_array_equal(stored.predict(rows), local.predict(rows))


def test_registered_version_has_signature_example_and_tags(trained: dict[str, RegisteredModel], name: str) -> None:
    info = mlflow.models.get_model_info(trained[name].model_uri)
    assert info.signature is not None
    assert info.signature.inputs.input_names() == list(DATASETS[name].feature_names)
    assert info.saved_input_example_info is not None
    assert set(info.flavors) == {"python_function", "sklearn"}
    assert info.flavors["sklearn"]["serialization_format"] == "skops"
    assert info.flavors["sklearn"]["skops_trusted_types"] == list(TRUSTED_TYPES)
    version = MlflowClient().get_model_version(name, trained[name].version)
    assert version.tags["algorithm"] == read_card(name).algorithm
    assert version.tags["data_sha256"] == read_card(name).data_sha256


def test_the_registry_tells_people_what_a_run_and_a_version_are(trained: dict[str, RegisteredModel], name: str) -> None:
    client, card, splits = MlflowClient(), read_card(name), tiny_splits(name)
    run = client.get_run(trained[name].run_id)
    assert run.info.run_name == card.algorithm
    assert run.inputs is not None
    inputs = {one.tags[0].value: one.dataset for one in run.inputs.dataset_inputs}
    assert {context: json.loads(data.profile or "")["num_rows"] for context, data in inputs.items()} == {
        "training": len(splits.train.target),
        "testing": len(splits.test.target),
    }
    assert {data.name for data in inputs.values()} == {name}
    described = client.get_registered_model(name).description or ""
    assert DATASETS[name].target.name in described
    assert all(feature in described for feature in DATASETS[name].feature_names)
    version = client.get_model_version(name, trained[name].version).description or ""
    assert f"`{card.algorithm}`, trained on {card.training_rows:,} rows" in version
    assert card.content_version in version


def test_mlflow_loads_the_registered_version(trained: dict[str, RegisteredModel], name: str) -> None:
    rows = pd.DataFrame(tiny_splits(name).test.features, columns=list(DATASETS[name].feature_names))
    loaded = mlflow.pyfunc.load_model(trained[name].model_uri)
    expected = load_estimator(Path("models") / name / ESTIMATOR_FILE).predict(rows.to_numpy())
    np.testing.assert_array_equal(loaded.predict(rows), expected)


LOAD_AND_PREDICT = """
import json, sys, warnings
import mlflow, pandas as pd
model = mlflow.pyfunc.load_model(sys.argv[1])
rows = pd.read_json(sys.stdin, orient="split", dtype=False)
print(json.dumps([model.predict(given).tolist() for given in (rows, rows.astype("int64"), rows.iloc[:, ::-1])]))
"""


@pytest.mark.integration  # MLflow in a process of its own: 6 s
@pytest.mark.parametrize("name", ["iris"])  # the other differs in nothing that matters here
def test_mlflow_loads_the_registered_version_without_the_project(
    trained: dict[str, RegisteredModel], name: str, tmp_path: Path
) -> None:
    rows = pd.DataFrame(tiny_splits(name).test.features.round() + 1, columns=list(DATASETS[name].feature_names))
    environment = {variable: value for variable, value in os.environ.items() if variable != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", LOAD_AND_PREDICT, trained[name].model_uri],
        cwd=tmp_path,
        env=environment,
        input=rows.to_json(orient="split", double_precision=15),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    floats, integers, reordered = json.loads(done.stdout)
    expected = load_estimator(Path("models") / name / ESTIMATOR_FILE).predict(rows.to_numpy())
    np.testing.assert_allclose(floats, expected)
    assert floats == integers == reordered


@pytest.mark.parametrize("name", ["housing"])  # trees: most of what could differ from process to process
def test_second_training_is_a_second_version_with_the_same_bytes(
    workspace: Path, trained: dict[str, RegisteredModel], name: str
) -> None:
    before = snapshot(workspace / "models" / name)
    # In another process, where nothing has the same address or the same hash. MLflow loads a model in it first, which
    # brings a `training` of its own that must not hide the project's.
    code = (
        f"import mlflow; mlflow.pyfunc.load_model({trained[name].model_uri!r}); "
        f"from tests.training.workspace import train, with_ratios; train({name!r}, with_ratios({name!r}))"
    )
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "PYTHONHASHSEED": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=workspace, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    first = trained[name]
    latest, former = tracking.with_content(name, first.content_version)
    assert former == first
    assert int(latest.version) > int(first.version)
    assert latest.run_id != first.run_id
    assert snapshot(workspace / "models" / name) == before
    # For the tests after this one.
    trained[name] = latest


def snapshot(directory: Path) -> dict[str, str]:
    return {path.relative_to(directory).as_posix(): sha256(path) for path in directory.rglob("*") if path.is_file()}


def versions(name: str) -> int:
    return len(MlflowClient().search_model_versions(f"name = '{name}'"))


def test_failed_training_changes_nothing_and_ends_its_run(workspace: Path, trained: dict[str, RegisteredModel]) -> None:
    before, count = snapshot(workspace / "models"), versions("housing")
    params = tiny_train_params("housing", folds=1000)
    with pytest.raises(PipelineError, match=r"train\.housing\.folds"):
        train("housing", params)
    parent, *_ = parents("housing")
    assert parent.info.run_id != trained["housing"].run_id
    assert parent.info.status == "FAILED"
    assert mlflow.active_run() is None
    assert snapshot(workspace / "models") == before
    assert versions("housing") == count


def test_candidate_that_cannot_be_built_fails_before_any_run(trained: dict[str, RegisteredModel]) -> None:
    assert trained
    before = len(parents("iris"))
    with pytest.raises(PipelineError, match="no 'oracle'"):
        train("iris", tiny_train_params("iris", candidates={"odd": CandidateParams(estimator="oracle")}))
    assert len(parents("iris")) == before


def test_missing_statistics_say_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="dvc repro feature_engineering"):
        stage.describe_features(DATASETS["iris"], tmp_path / "statistics.json")


def test_unknown_dataset_is_named() -> None:
    with pytest.raises(PipelineError, match=r"no dataset 'nobody'; there is housing, iris"):
        stage.main("nobody")


def git(directory: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=Somebody", "-c", "user.email=somebody@example.com"]
    subprocess.run(["git", *identity, *arguments], cwd=directory, check=True, capture_output=True)


def test_git_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert stage.git_revision() == "unknown"
    git(tmp_path, "init")
    (tmp_path / "params.yaml").write_text("a: 1")
    git(tmp_path, "add", "params.yaml")
    git(tmp_path, "commit", "-m", "First")
    clean = stage.git_revision()
    assert len(clean) == 40
    (tmp_path / "dvc.lock").write_text("what the pipeline writes")
    assert stage.git_revision() == clean
    (tmp_path / "params.yaml").write_text("a: 2")
    assert stage.git_revision() == f"{clean}+dirty"


def test_training_without_git_is_of_unknown_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert stage.git_revision() == "unknown"


def test_candidate_that_answers_otherwise_in_onnx_fails_before_any_run(trained: dict[str, RegisteredModel]) -> None:
    assert trained
    before = len(parents("housing"))
    with pytest.raises(PipelineError, match=r"simple cannot be deployed: .*train\.housing\.tolerance allows 1e-30"):
        train("housing", tiny_train_params("housing", tolerance=1e-30))
    assert len(parents("housing")) == before


def test_candidate_that_cannot_be_deployed_fails_before_any_run(
    trained: dict[str, RegisteredModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert trained
    before = len(parents("iris"))
    known = ESTIMATORS[Task.CLASSIFICATION]
    monkeypatch.setitem(known, "neighbours", (KNeighborsClassifier, lambda estimator, _: [("estimator", estimator)]))
    chosen = CandidateParams(estimator="neighbours", parameters={"algorithm": "kd_tree"})
    with pytest.raises(PipelineError, match=r"train\.iris\.candidates\.odd cannot be deployed: .*KDTree"):
        train("iris", tiny_train_params("iris", candidates={"odd": chosen}))
    assert len(parents("iris")) == before
