"""Promotion by hand, with a real MLflow registry: what a person decides is deployed, wherever it is decided."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from contract import DATASETS
from model.card import CARD_FILE, ONNX_FILE, ModelCard
from model.deployed import Deployment, DeploymentError, unpack
from model.session import Artifact
from tests.mlflow_store import empty_store
from tests.training.conftest import tiny_train_params
from tests.training.workspace import train, write_features
from training import promote, tracking
from training.import_models import CHAMPIONS_FILE, MODELS, find_champion, import_models
from training.params import CandidateParams, TrainParams
from training.tracking import RegisteredModel

pytestmark = [  # of MLflow 3.17's own code: its tables, and its input examples
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
    pytest.mark.filterwarnings("ignore:Operation with range is deprecated"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType"),
    pytest.mark.usefixtures("examples_only"),
]


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RegisteredModel]]:
    """Three versions of Iris in a registry of their own, and one of Housing."""
    root = tmp_path_factory.mktemp("workspace")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("MLFLOW_TRACKING_URI", empty_store(root))
        for name in DATASETS:
            write_features(name)
        train("housing", tiny_train_params("housing"))
        yield [train("iris", with_trees(number)) for number in (5, 6, 7)]


def with_trees(number: int) -> TrainParams:
    forest = CandidateParams(estimator="random_forest", parameters={"n_estimators": number, "n_jobs": 1})
    return tiny_train_params("iris", candidates={"forest": forest})


@pytest.fixture
def deployed(versions: list[RegisteredModel]) -> list[RegisteredModel]:
    """As the pipeline leaves it: the third version is champion, and before it the second was."""
    for model in versions[1:]:
        tracking.promote(model)
    for name in ("deployed.json", "previous.json"):
        (MODELS / name).unlink(missing_ok=True)
    housing = Artifact.read(MODELS / "housing").card.content_version
    champions = {"housing": housing, "iris": versions[2].content_version}
    CHAMPIONS_FILE.parent.mkdir(exist_ok=True)
    CHAMPIONS_FILE.write_text(json.dumps(champions))
    import_models({one.name: find_champion(one, champions) for one in DATASETS.values()}, MODELS)
    return versions


def told(text: str) -> dict[str, str]:
    found: dict[str, str] = json.loads(text)
    return found


def state() -> tuple[str | None, str | None, str, str]:
    """Champion, previous, what is deployed, and what the pipeline believes is."""
    champion, previous = (tracking.by_alias("iris", alias) for alias in (tracking.CHAMPION, tracking.PREVIOUS))
    return (
        champion.version if champion else None,
        previous.version if previous else None,
        Deployment(MODELS).tags()["iris"].removeprefix("iris:"),
        told(CHAMPIONS_FILE.read_text())["iris"],
    )


@pytest.mark.parametrize("by", ["number", "content"])
def test_a_promoted_version_is_deployed(
    deployed: list[RegisteredModel], by: str, caplog: pytest.LogCaptureFixture
) -> None:
    first, _, third = deployed
    with caplog.at_level("INFO", "training"):
        assert promote.main(["iris", first.version if by == "number" else first.content_version]) == 0
    assert state() == (first.version, third.version, first.content_version, first.content_version)
    assert f"version {first.version} ({first.content_version}) is the champion instead of" in caplog.text
    assert "make rollback MODEL=iris" in caplog.text
    # The service can go back too.
    assert Deployment(MODELS).way_back("iris") == f"iris:{third.content_version}"


def test_a_rollback_goes_back_once(
    deployed: list[RegisteredModel], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    _, second, third = deployed
    assert promote.main(["iris", "--rollback"]) == 0
    assert state() == (second.version, second.version, second.content_version, second.content_version)
    assert promote.main(["iris", "--rollback"]) == 1
    assert "iris is rolled back to" in caplog.text
    # Nor does the service go forward to what was left.
    with pytest.raises(DeploymentError, match=r"rolled back to .* already"):
        Deployment(MODELS).way_back("iris")
    assert unpack(Deployment(MODELS).export_path(f"iris:{second.content_version}"), tmp_path) == (
        f"iris:{second.content_version}"
    )
    assert "make promote MODEL=iris VERSION=" in caplog.text
    assert promote.main(["iris", third.version]) == 0
    assert state()[0::2] == (third.version, third.content_version)


def test_a_rollback_needs_a_version_before(deployed: list[RegisteredModel], caplog: pytest.LogCaptureFixture) -> None:
    assert deployed
    assert promote.main(["housing", "--rollback"]) == 1
    assert "There is nothing to roll housing back to" in caplog.text


def test_what_is_not_there_is_told_and_changes_nothing(
    deployed: list[RegisteredModel], caplog: pytest.LogCaptureFixture
) -> None:
    assert deployed
    before = state()
    assert promote.main(["iris", "99"]) == 1
    assert "has no version 99 of iris" in caplog.text
    assert state() == before


def test_a_version_that_cannot_be_served_is_refused(
    deployed: list[RegisteredModel], caplog: pytest.LogCaptureFixture
) -> None:
    before, first = state(), deployed[0]
    (card,) = [path for path in Path("mlruns").rglob(CARD_FILE) if is_of(first, path)]
    good = card.with_name(ONNX_FILE).read_bytes()
    card.with_name(ONNX_FILE).write_bytes(b"half")
    try:
        assert promote.main(["iris", first.version]) == 1
    finally:
        card.with_name(ONNX_FILE).write_bytes(good)
    assert f"version {first.version} ({first.content_version}) of iris cannot be served: The checksum" in caplog.text
    assert state() == before


def is_of(model: RegisteredModel, card: Path) -> bool:
    return ModelCard.model_validate_json(card.read_bytes()).content_version == model.content_version


def test_a_moved_alias_is_followed(deployed: list[RegisteredModel], caplog: pytest.LogCaptureFixture) -> None:
    first, _, third = deployed
    tracking.set_alias(first, tracking.CHAMPION)  # as MLflow's page does
    with caplog.at_level("INFO", "training"):
        assert promote.main(["--follow"]) == 0
    assert "the alias champion was moved to" in caplog.text
    # The pipeline deploys it: one of its outputs has changed.
    assert state() == (first.version, third.version, third.content_version, first.content_version)
    before = CHAMPIONS_FILE.stat().st_mtime_ns
    assert promote.main(["--follow"]) == 0
    assert CHAMPIONS_FILE.stat().st_mtime_ns == before


def test_an_experiment_moves_no_alias_until_it_is_applied(
    deployed: list[RegisteredModel], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    better, _, champion = deployed
    with monkeypatch.context() as experiment:
        experiment.setenv("DVC_ROOT", str(Path.cwd().parent))
        tracking.promote(better)
    assert tracking.champion("iris") == champion
    promote.follow()
    assert tracking.champion("iris") == champion
    # What `dvc exp apply` brings:
    champions = json.loads(CHAMPIONS_FILE.read_text()) | {"iris": better.content_version}
    CHAMPIONS_FILE.write_text(json.dumps(champions))
    with caplog.at_level("INFO"):
        promote.follow()
    assert "of an experiment that was applied is champion" in caplog.text
    assert tracking.champion("iris") == better
    assert json.loads(CHAMPIONS_FILE.read_text()) == champions


def test_a_rollback_over_http_is_followed(deployed: list[RegisteredModel], caplog: pytest.LogCaptureFixture) -> None:
    _, second, _ = deployed
    second_tag = f"iris:{second.content_version}"
    assert promote.main(["iris", second.version]) == 0
    assert promote.main(["iris", deployed[0].version]) == 0
    assert Deployment(MODELS).roll_back("iris") == second_tag
    with caplog.at_level("INFO", "training"):
        assert promote.main(["--follow"]) == 0
    assert "the service was rolled back to" in caplog.text
    assert state() == (second.version, second.version, second.content_version, second.content_version)


def test_without_a_pipeline_there_is_nothing_to_follow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert promote.main(["--follow"]) == 0
    assert caplog.text == ""


def test_a_person_stands_against_models_that_were_there(deployed: list[RegisteredModel]) -> None:
    first, second, _ = deployed
    assert promote.main(["iris", first.version]) == 0
    champion = tracking.champion("iris")
    assert champion is not None
    assert tracking.was_chosen_over(champion, second.content_version)
    assert not tracking.was_chosen_over(champion, train("iris", with_trees(8)).content_version)


@pytest.mark.parametrize("arguments", [[], ["iris"], ["--follow", "iris"], ["iris", "8", "--rollback"], ["wine", "1"]])
def test_half_a_command_is_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        promote.main(arguments)
