"""The stage from end to end: tiny models, a real MLflow registry in a temporary SQLite file."""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from numpy.typing import NDArray
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import Pipeline

from contract.dataset import Dataset, Task
from model.card import CARD_FILE, ONNX_FILE, REFERENCE_FILE, GoldenRow, ModelCard
from tests.mlflow_store import empty_store
from tests.training.tiny_models import PEBBLES, PLOTS, card, splits
from training import params, tracking
from training.errors import PipelineError
from training.features import RowFeatures
from training.model_evaluation import evaluate_models
from training.onnx import export
from training.params import ModelEvaluationParams
from training.registry import registration
from training.splits import Split
from training.tracking import RegisteredModel

pytestmark = [  # of MLflow 3.17's own code: its tables, and its input examples
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
    pytest.mark.filterwarnings("ignore:Operation with range is deprecated"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType"),
]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A workspace with an empty registry. One for the module, as making its tables takes seconds."""
    root = tmp_path_factory.mktemp("workspace")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("MLFLOW_TRACKING_URI", empty_store(root))
        yield root


@pytest.fixture
def dataset(registry: Path, request: pytest.FixtureRequest) -> Dataset:
    """A dataset of this test alone, with its splits on disk."""
    assert registry == Path.cwd()
    return prepare(PLOTS, request.node.name.partition("[")[0].removeprefix("test_"))


@pytest.fixture
def settings() -> ModelEvaluationParams:
    """The project's own parameters, with a quick learning curve and nothing special for any dataset."""
    project = params.load(Path(__file__).parents[2] / "params.yaml").model_evaluation
    curve = project.learning_curve.model_copy(update={"splits": 1})
    return project.model_copy(update={"datasets": {}, "learning_curve": curve})


def with_map(settings: ModelEvaluationParams, dataset: Dataset, latitude: str) -> ModelEvaluationParams:
    drawn = params.MapParams(latitude=latitude, longitude="longitude", cells=4, minimum_rows=1)
    return settings.model_copy(update={"datasets": {dataset.name: params.DatasetEvaluationParams(map=drawn)}})


def prepare(dataset: Dataset, name: str) -> Dataset:
    dataset = replace(dataset, name=name)
    rows = splits(dataset)
    directory = Path("data/features") / name
    directory.mkdir(parents=True)
    for part, split in (("train", rows.train), ("test", rows.test)):
        frame(dataset, split).assign(**{dataset.target.name: split.target}).to_parquet(directory / f"{part}.parquet")
    return dataset


def frame(dataset: Dataset, split: Split) -> pd.DataFrame:
    return pd.DataFrame(split.features, columns=list(dataset.feature_names))


def train(
    dataset: Dataset,
    rows: int = 96,
    *,
    contract_version: str | None = None,
    decimals: Sequence[int] = (),
    golden_off: float = 0.0,
) -> RegisteredModel:
    """A model fitted on the first ``rows`` rows, in ``models/{name}`` and in the registry, as ``train`` leaves it.

    The answers to its golden rows are ``golden_off`` too large in the card.
    """
    learned: NDArray[np.float64] = splits(dataset).train.features[:rows]
    target = splits(dataset).train.target[:rows]
    regression = dataset.task is Task.REGRESSION
    estimator = LinearRegression() if regression else LogisticRegression()
    pipeline = Pipeline([("features", RowFeatures(decimals=decimals)), ("estimator", estimator)]).fit(
        learned, target if regression else target.astype(np.int64)
    )
    directory = Path("models") / dataset.name
    directory.mkdir(parents=True, exist_ok=True)
    content = export.convert(dataset, pipeline)
    predict = export.predictor(dataset, pipeline)
    golden = splits(dataset).test.features[:2]
    made = card(
        dataset,
        onnx_sha256=export.compare(dataset, content, predict, learned, 1e-4).sha256,
        contract_version=contract_version or dataset.contract_version,
        golden=[
            GoldenRow(row=dict(zip(dataset.feature_names, row.tolist(), strict=True)), output=output.tolist())
            for row, output in zip(golden, predict(golden) + golden_off, strict=True)
        ],
    )
    (directory / ONNX_FILE).write_bytes(content)
    (directory / CARD_FILE).write_text(made.model_dump_json(), encoding="utf-8")
    (directory / REFERENCE_FILE).touch()
    export.save_estimator(pipeline, directory / export.ESTIMATOR_FILE)
    with tracking.run(dataset.name, "test", {}):
        return registration.register(dataset, directory, made, {})


def champions() -> dict[str, str]:
    found: dict[str, str] = json.loads(Path("reports/champions.json").read_text(encoding="utf-8"))
    return found


def metrics(dataset: Dataset) -> dict[str, float]:
    found: dict[str, float] = json.loads(Path(f"metrics/{dataset.name}.json").read_text(encoding="utf-8"))
    return found


def lose_files(model: RegisteredModel) -> None:
    for path in list(Path("mlruns").rglob(ONNX_FILE)):
        card = ModelCard.model_validate_json(path.with_name(CARD_FILE).read_bytes())
        if (card.name, card.content_version) == (model.name, model.content_version):
            shutil.rmtree(path.parent)


def test_both_tasks(dataset: Dataset, settings: ModelEvaluationParams) -> None:
    pebbles = prepare(PEBBLES, "pebbles")
    first, second = train(dataset), train(pebbles)
    assert tracking.champion(dataset.name) is None

    evaluate_models([dataset, pebbles], with_map(settings, dataset, "latitude"))

    assert champions() == {model.name: model.content_version for model in (first, second)}
    assert tracking.champion(dataset.name) == first
    assert tracking.champion("pebbles") == second
    assert metrics(dataset)["rmse"] < 5
    assert metrics(dataset)["cv_rmse"] == 0.75
    assert metrics(pebbles)["accuracy"] > 0.7
    page = Path("reports/evaluation.html").read_text(encoding="utf-8")
    images = sorted(Path("reports/plots").rglob("*.png"))
    assert page.count("<img ") == len(images) == 10
    assert {path.with_suffix(".csv") for path in images} == set(Path("reports/plots").rglob("*.csv"))
    assert not list(Path("reports").rglob(".*"))


def test_same_model_again_changes_nothing(dataset: Dataset, settings: ModelEvaluationParams) -> None:
    train(dataset)
    evaluate_models([dataset], settings)
    paths = [
        *Path("reports/plots").rglob("*.*"),
        Path(f"metrics/{dataset.name}.json"),
        Path("reports/champions.json"),
        Path("reports/evaluation.html"),
    ]
    before = {path: path.read_bytes() for path in paths}
    # Equal bits: the new version is the champion's model.
    train(dataset)

    evaluate_models([dataset], settings)

    assert {path: path.read_bytes() for path in paths} == before


def test_worse_challenger_leaves_the_champion(dataset: Dataset, settings: ModelEvaluationParams) -> None:
    good = train(dataset)
    evaluate_models([dataset], settings)
    best = metrics(dataset)
    train(dataset, rows=4)

    evaluate_models([dataset], settings)

    assert champions()[dataset.name] == good.content_version
    assert tracking.champion(dataset.name) == good
    assert metrics(dataset)["rmse"] > best["rmse"]
    assert f"Version {good.content_version} stays the champion" in Path("reports/evaluation.html").read_text(
        encoding="utf-8"
    )


def test_better_challenger_takes_over(dataset: Dataset, settings: ModelEvaluationParams) -> None:
    train(dataset, rows=4)
    evaluate_models([dataset], settings)
    better = train(dataset)

    evaluate_models([dataset], settings)

    assert tracking.champion(dataset.name) == better


@pytest.mark.parametrize("trouble", ["contract", "files"])
def test_champion_that_cannot_be_served_is_replaced(
    registry: Path, settings: ModelEvaluationParams, trouble: str
) -> None:
    assert registry == Path.cwd()
    dataset = prepare(PLOTS, f"unusable_{trouble}")
    former = train(dataset, contract_version="old" if trouble == "contract" else None)
    tracking.promote(former)
    if trouble == "files":
        lose_files(former)
    challenger = train(dataset, rows=4)

    evaluate_models([dataset], settings)

    assert champions()[dataset.name] == challenger.content_version
    assert tracking.champion(dataset.name) == challenger
    reason = "was trained under contract old" if trouble == "contract" else "can no longer be loaded"
    assert reason in Path("reports/evaluation.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("lost", ["files", "everything"])
def test_a_model_that_the_registry_lost_is_registered_anew(
    registry: Path, settings: ModelEvaluationParams, lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = prepare(PLOTS, f"lost_{lost}")
    trained = train(dataset)
    if lost == "files":
        lose_files(trained)
    else:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{registry}/another.db")

    evaluate_models([dataset], settings)

    champion = tracking.champion(dataset.name)
    assert champion is not None
    assert champions()[dataset.name] == champion.content_version == trained.content_version
    assert champion.run_id != trained.run_id
    tracking.download(champion, registry / "downloaded")


@pytest.mark.parametrize("whose", ["challenger", "champion"])
def test_a_model_that_answers_differently_than_in_training_is_not_used(
    registry: Path, settings: ModelEvaluationParams, whose: str
) -> None:
    assert registry == Path.cwd()
    dataset = prepare(PLOTS, f"different_{whose}")
    first = train(dataset, golden_off=1.0)
    if whose == "challenger":
        with pytest.raises(PipelineError, match=f"golden rows are off by 1.*train_{dataset.name}"):
            evaluate_models([dataset], settings)
        return
    tracking.promote(first)
    second = train(dataset, rows=4)
    evaluate_models([dataset], settings)
    assert tracking.champion(dataset.name) == second
    assert "answers differently than in training" in Path("reports/evaluation.html").read_text(encoding="utf-8")


def test_model_of_an_old_contract(dataset: Dataset, settings: ModelEvaluationParams) -> None:
    train(dataset, contract_version="old")

    with pytest.raises(PipelineError, match=f"under contract old, .* train_{dataset.name}"):
        evaluate_models([dataset], settings)


def test_a_champion_that_is_nowhere_is_told(dataset: Dataset) -> None:
    gone = train(dataset)
    lose_files(gone)
    train(dataset, rows=10)

    with pytest.raises(PipelineError, match=f"no version {gone.content_version} of .*dvc repro -f -s model_evaluation"):
        registration.find(dataset, gone.content_version, Path("models") / dataset.name)


def test_a_champion_registered_by_hand_is_known_by_its_content(
    dataset: Dataset, settings: ModelEvaluationParams
) -> None:
    mine = train(dataset)
    client = MlflowClient()
    other = client.create_model_version(dataset.name, mine.model_uri, run_id=mine.run_id)
    tracking.promote(tracking.get(dataset.name, str(other.version)))
    train(dataset, rows=4)

    evaluate_models([dataset], settings)

    champion = tracking.champion(dataset.name)
    assert champion is not None
    assert champion.version == str(other.version)
    assert champions()[dataset.name] == champion.content_version == mine.content_version


def test_what_a_person_chose_stays_until_another_model_is_trained(
    dataset: Dataset, settings: ModelEvaluationParams
) -> None:
    chosen = train(dataset, rows=4)
    train(dataset, rows=90)
    evaluate_models([dataset], settings)
    tracking.promote(chosen)
    tracking.mark_chosen(chosen, "A person made it the champion.")

    evaluate_models([dataset], settings)

    assert champions()[dataset.name] == chosen.content_version
    assert "a person chose it when" in Path("reports/evaluation.html").read_text(encoding="utf-8")
    better = train(dataset)
    evaluate_models([dataset], settings)
    assert tracking.champion(dataset.name) == better
    former = tracking.by_alias(dataset.name, tracking.PREVIOUS)
    assert former is not None
    assert former.version == chosen.version


@pytest.mark.parametrize("missing", ["models/{}/card.json", "data/features/{}/test.parquet"])
def test_missing_input(registry: Path, settings: ModelEvaluationParams, missing: str) -> None:
    assert registry == Path.cwd()
    dataset = prepare(PLOTS, f"missing_{missing[:4]}")
    train(dataset)
    Path(missing.format(dataset.name)).unlink()

    with pytest.raises(PipelineError, match="dvc repro"):
        evaluate_models([dataset], settings)


def test_map_of_unknown_coordinates(dataset: Dataset, settings: ModelEvaluationParams) -> None:
    train(dataset)

    with pytest.raises(PipelineError, match=r"map\.latitude is 'Breite', which is no feature"):
        evaluate_models([dataset], with_map(settings, dataset, "Breite"))


def with_limit(settings: ModelEvaluationParams, limit: float) -> ModelEvaluationParams:
    """Every change counts, however small: a linear model changes for almost every row."""
    change = params.ChangeParams(regression=1e-15, classification=1e-15)
    limits = {"change": change, "float32_limit": limit, "perturbed_limit": limit}
    return settings.model_copy(update={"stability": settings.stability.model_copy(update=limits)})


def test_unstable_model_is_not_deployed_but_reported(dataset: Dataset, settings: ModelEvaluationParams) -> None:
    version = train(dataset).content_version

    with pytest.raises(PipelineError) as refusal:
        evaluate_models([dataset], with_limit(settings, 0.5))

    for said in (
        f"{dataset.name}: Version {version} gives",
        f"train.{dataset.name}.features.decimals",
        "evaluation.html",
    ):
        assert said in str(refusal.value)
    assert tracking.champion(dataset.name) is None
    assert "over the limit" in Path("reports/evaluation.html").read_text(encoding="utf-8")
    # A dataset may have limits of its own.
    own = params.DatasetEvaluationParams(stability=settings.stability)
    evaluate_models([dataset], with_limit(settings, 0.5).model_copy(update={"datasets": {dataset.name: own}}))
    assert tracking.champion(dataset.name) is not None


def test_champion_that_a_new_limit_refuses_is_told_why(dataset: Dataset, settings: ModelEvaluationParams) -> None:
    version = train(dataset).content_version
    evaluate_models([dataset], settings)

    with pytest.raises(PipelineError, match=f"Version {version} gives .* of the test rows another answer"):
        evaluate_models([dataset], with_limit(settings, 0.5))


def test_unstable_champion_is_replaced(dataset: Dataset, settings: ModelEvaluationParams) -> None:
    unstable = train(dataset)
    evaluate_models([dataset], settings)
    stable = train(dataset, rows=4, decimals=[1, 1, 1])

    evaluate_models([dataset], with_limit(settings, 0.5))

    assert tracking.champion(dataset.name) == stable
    page = Path("reports/evaluation.html").read_text(encoding="utf-8")
    assert f"{stable.content_version} becomes the champion: version {unstable.content_version} gives" in page
