"""The stages over every kind of feature, from the raw CSV file to the evaluation page, in a real MLflow store."""

import json
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest

from contract.dataset import Dataset
from model.session import Artifact
from tests.kinds import models
from tests.kinds.datasets import VOYAGE
from tests.mlflow_store import empty_store
from tests.training.evaluation.test_page import Page
from tests.training.test_kinds import FARE, SALON
from training import data_preparation, params, tracking
from training.evaluation.scores import CANDIDATES_FILE
from training.feature_engineering import engineer
from training.model_evaluation import evaluate_models
from training.params import CandidateParams, FeatureEngineeringParams, RowFeatureParams, TableParams, TrainParams
from training.registry import registration
from training.train import train

pytestmark = [  # of MLflow 3.17's own code: its tables, and its input examples
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
    pytest.mark.filterwarnings("ignore:Operation with range is deprecated"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType"),
]
DATASETS = (SALON, FARE, VOYAGE)
ROWS = 300
BOOSTED = {
    SALON.name: CandidateParams(estimator="hist_gradient_boosting", parameters={"max_iter": 20}),
    FARE.name: CandidateParams(estimator="xgboost", parameters={"n_estimators": 20}),
    VOYAGE.name: CandidateParams(estimator="lightgbm", parameters={"n_estimators": 20, "min_data_per_group": 10}),
}


def raw_table(dataset: Dataset) -> pd.DataFrame:
    """Rows as a CSV file has them; the target follows from port, deck and fare, and from whether the age is known."""
    rows = models.rows(dataset, ROWS)
    score = [
        (row["port"] == "Cherbourg") + row["fare"] / 600 + (row["age"] is None) - (row["deck"] == "B") for row in rows
    ]
    table = pd.DataFrame(rows, dtype=object).map(lambda value: "" if value is None else str(value))
    if dataset.target.classes:
        classes = list(dataset.target.classes)
        return table.assign(**{dataset.target.name: pd.qcut(score, len(classes), labels=classes)})
    return table.assign(**{dataset.target.name: 100 * np.array(score) + 200})


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which all stages before the deployment have run."""
    root = tmp_path_factory.mktemp("workspace")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("MLFLOW_TRACKING_URI", empty_store(root))
        for dataset in DATASETS:
            prepare_and_train(dataset)
        settings = params.load(Path(__file__).parents[2] / "params.yaml").model_evaluation
        curve = settings.learning_curve.model_copy(update={"splits": 1, "fractions": (0.5, 1.0)})
        quick = {"datasets": {}, "learning_curve": curve, "permutation_repeats": 1}
        quick["cross_validation"] = settings.cross_validation.model_copy(update={"folds": 2})
        evaluate_models(DATASETS, settings.model_copy(update=quick))
        yield root


def prepare_and_train(dataset: Dataset) -> None:
    raw = Path(f"{dataset.name}.csv")
    raw_table(dataset).to_csv(raw, index=False)
    limits = TableParams(minimum_rows=ROWS, maximum_duplicates=0)
    found = data_preparation.inspect(dataset, raw, Path("SHA256SUMS"), limits)
    assert found.table is not None, found.error
    prepared = Path(f"{dataset.name}.parquet")
    data_preparation.frame(dataset, found.table).to_parquet(prepared, index=False)
    features = Path("data/features") / dataset.name
    engineer(dataset, prepared, features, FeatureEngineeringParams(test_size=0.2, random_state=0), Path("none"))
    train(
        dataset,
        features,
        raw,
        Path("models"),
        TrainParams(
            folds=2,
            random_state=0,
            tolerance=1e-3 if dataset is FARE else 1e-9,
            golden_rows=8,
            features=RowFeatureParams(),
            candidates={
                # Weak, since the other is to be chosen.
                "simple": CandidateParams(estimator="logistic_regression", parameters={"C": 0.01})
                if dataset.target.classes
                else CandidateParams(estimator="linear", parameters={"alpha": 1000.0}),
                "boosted": BOOSTED[dataset.name],
            },
        ),
        metric="log_loss" if dataset.target.classes else "rmse",
    )


@pytest.fixture(params=DATASETS, ids=lambda dataset: dataset.name)
def dataset(request: pytest.FixtureRequest, workspace: Path) -> Dataset:
    assert workspace == Path.cwd()
    found: Dataset = request.param
    return found


def test_artifact_answers_golden_rows_as_json_has_them(dataset: Dataset) -> None:
    artifact = Artifact.verified(Path("models") / dataset.name, dataset)
    golden = [one.row for one in artifact.card.golden]
    assert {type(row["port"]) for row in golden} == {str}
    assert None in {row["deck"] for row in golden}
    assert np.isnan(artifact.golden_rows(dataset)).any()
    assert artifact.row_multiple >= 1


def test_model_is_far_better_than_a_guess(dataset: Dataset) -> None:
    metrics = json.loads(Path(f"metrics/{dataset.name}.json").read_text(encoding="utf-8"))
    assert metrics["accuracy"] > 0.7 if dataset.target.classes else metrics["r2"] > 0.7


def test_estimator_is_loaded_from_the_registry(dataset: Dataset) -> None:
    champion = tracking.champion(dataset.name)
    assert champion is not None
    assert registration.find(dataset, champion.content_version, Path("nowhere")) == champion
    loaded = mlflow.pyfunc.load_model(champion.model_uri)
    rows = pd.read_parquet(f"data/features/{dataset.name}/test.parquet")[list(dataset.feature_names)]
    assert len(loaded.predict(rows)) == len(rows)


def test_what_the_estimator_needs_is_written_down(dataset: Dataset) -> None:
    card, champion = Artifact.read(Path("models") / dataset.name).card, tracking.champion(dataset.name)
    assert champion is not None
    assert card.algorithm == "boosted"
    package = {FARE.name: "xgboost-cpu", VOYAGE.name: "lightgbm"}.get(dataset.name)
    needed = set(Path(mlflow.pyfunc.get_model_dependencies(champion.model_uri)).read_text(encoding="utf-8").split())
    others = {"xgboost-cpu", "lightgbm"} - {package}
    assert not others & {one.partition("==")[0] for one in needed}
    assert not others & set(card.libraries)
    if package:
        assert f"{package}=={card.libraries[package]}" in needed


def test_page_compares_candidates_classes_and_the_baseline(workspace: Path) -> None:
    text = " ".join(Page((workspace / "reports/evaluation.html").read_text(encoding="utf-8")).text.split())
    for dataset in DATASETS:
        (chosen,) = {Artifact.read(Path("models") / dataset.name).card.algorithm}
        assert f"{chosen} chosen" in text
    assert "Naive: the mean" in text
    assert "Naive: the shares of the classes" in text
    assert "Class Rows Predicted Precision Recall F1 first" in text


def test_candidates_are_beside_the_model(dataset: Dataset) -> None:
    found = json.loads((Path("models") / dataset.name / CANDIDATES_FILE).read_text(encoding="utf-8"))
    metric = "log_loss" if dataset.target.classes else "rmse"
    card = Artifact.read(Path("models") / dataset.name).card
    assert card.algorithm == min(found, key=lambda name: found[name][metric][0])
    assert set(found[card.algorithm]) == set(card.cross_validation)
    for name, score in card.cross_validation.items():
        assert found[card.algorithm][name] == pytest.approx(score, abs=1e-6)
