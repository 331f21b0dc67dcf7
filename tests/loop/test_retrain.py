"""What a retraining refuses before it changes anything; the whole is in ``test_story`` and ``test_retraining`` of
``tests/integration``.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from contract.datasets.housing import HOUSING
from ledger import database
from loop import retrain, workspace
from loop.errors import LoopError
from loop.retrain import REFUSED_STATUS, progress
from loop.worker import STAGE
from model.session import Artifact
from tests.mlflow_store import empty_store
from tests.training.tiny_models import PLOTS, PLOTS_WEIGHTS, write_model
from training import params
from training.tracking import RegisteredModel

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")  # of MLflow


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an empty registry."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", empty_store(tmp_path))
    monkeypatch.setenv("STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def engine(project: Path) -> Iterator[Engine]:
    engine = database.connect(database.default_url(project / "state"))
    database.migrate(engine)
    yield engine
    engine.dispose()


def test_without_a_ledger_it_says_what_to_do(project: Path) -> None:
    assert project.is_dir()
    with pytest.raises(LoopError, match=r"There is no ledger: .* Start the service and send predictions"):
        retrain.main(["--model", "housing"])


def test_without_a_champion_it_says_what_to_do(engine: Engine, project: Path) -> None:
    settings = params.load(Path(__file__).parents[2] / "params.yaml")
    with pytest.raises(LoopError, match=r"housing has no champion to compare with: run `make train` first\."):
        retrain.retrain(HOUSING, engine, settings, trigger="person")
    assert not (project / "data").exists()


@pytest.mark.parametrize("arguments", [[], ["--model", "wine"]])
def test_a_wrong_model_is_refused_by_the_command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        retrain.main(arguments)
    # Not the status that says that the champion stays.
    assert ended.value.code not in (0, REFUSED_STATUS)
    assert "--model" in capsys.readouterr().err


def test_one_retraining_at_a_time_in_a_project(project: Path) -> None:
    with workspace.alone():
        assert (project / "data").is_dir()
        with pytest.raises(LoopError, match="Another retraining is at work"), workspace.alone():
            pass
    with workspace.alone():
        pass


def test_a_command_that_fails_is_named() -> None:
    with pytest.raises(LoopError, match=r"`no\.such\.module now` failed with status 1"):
        workspace.run(["no.such.module", "now"])


def test_nothing_was_kept_and_nothing_is_put_back(project: Path) -> None:
    assert not workspace.recover()
    assert [path.name for path in project.iterdir()] == ["mlflow.db"]


@pytest.mark.parametrize(("share", "stage"), [(0, "begin"), (0.05, "read rows"), (1, "the champion stays")])
def test_the_worker_understands_how_far_it_is(share: float, stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    progress(share, stage)
    match = STAGE.match(capsys.readouterr().out.rstrip("\n"))
    assert match is not None
    assert (int(match[1]) / 100, match[2]) == (share, stage)


def registered(version: str, **tags: str) -> RegisteredModel:
    return RegisteredModel("plots", version, "run", f"models:/plots/{version}", {"content_version": version, **tags})


@pytest.mark.parametrize(
    ("former", "champion", "said"),
    [
        ({}, registered("1"), ""),
        ({}, registered("2"), "the same model came out again"),
        (
            {"data_sha256": "e" * 64},
            registered("1"),
            "raw table was replaced .* fairly. `make promote",
        ),
        ({"contract_version": "c0ffee"}, registered("1"), "another contract, .* VERSION=2` deploys the challenger"),
    ],
)
def test_what_cannot_be_compared_fairly_is_said(
    tmp_path: Path, former: dict[str, str], champion: RegisteredModel, said: str
) -> None:
    model = Artifact.read(write_model(tmp_path / "new", PLOTS, PLOTS_WEIGHTS))
    other = Artifact.read(write_model(tmp_path / "former", PLOTS, PLOTS_WEIGHTS, **former))
    unfair = retrain._unfair(PLOTS, model, other, registered("2"), champion)
    assert bool(unfair) == bool(said)
    assert re.search(said, unfair)
