import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import bentoml
import numpy as np
import pytest
from sqlalchemy import Engine

from contract import DATASETS
from contract.dataset import Dataset
from contract.datasets.housing import HOUSING
from contract.datasets.iris import IRIS
from ledger import database
from ledger import drift as record
from ledger.record import ErrorCount, Record
from ledger.store import Store
from ledger.times import now_us
from ledger.values import pack
from local_service import PROJECT
from loop import drift
from loop.deployed import deployed_model
from loop.errors import LoopError
from model.drift import Drift, Verdict
from tests.ledger.records import a_record
from tests.serving import tiny_models

pytestmark = pytest.mark.usefixtures("examples_only")
MINUTE_US = 60_000_000


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ``MODELS_DIR`` that names tiny models."""
    directory = tmp_path_factory.mktemp("models")
    tiny_models.pin(directory, {name: str(tiny_models.store(one).tag.version) for name, one in DATASETS.items()})
    return directory


@pytest.fixture
def workspace(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the command runs: with models and the state of a service."""
    shutil.copy(PROJECT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MODELS_DIR", str(models))
    monkeypatch.setenv("STATE_DIR", "state")
    monkeypatch.delenv("DATABASE_URL", raising=False)
    return tmp_path


@pytest.fixture
def engine(workspace: Path) -> Iterator[Engine]:
    engine = database.connect(database.default_url(workspace / "state"))
    database.migrate(engine)
    yield engine
    engine.dispose()


def predict(engine: Engine, models: Path, dataset: Dataset, hours: int, *, shifted_hours: int = 0) -> None:
    """60 rows an hour up to now; in the last hours, of the second feature, a standard deviation more."""
    table = tiny_models.table(dataset).features
    version = json.loads((models / "deployed.json").read_text())[dataset.name].partition(":")[2]
    draws = np.random.default_rng(0)
    now = now_us()
    records: list[Record] = []
    for hour in range(hours, 0, -1):
        for call in range(6):
            rows = table[draws.integers(0, len(table), 10)]
            outputs = tiny_models.expected(dataset, rows)
            if hour <= shifted_hours:
                rows[:, 1] += table[:, 1].std()
            one = a_record(
                now - hour * 60 * MINUTE_US + call * MINUTE_US, model=dataset.name, outputs=outputs, version=version
            )
            one.feature_bytes = pack(rows)
            records.append(one)
    errors = [ErrorCount(now // MINUTE_US - 10, dataset.name, "http", 400, 1)]
    Store(engine).insert(f"segment of {dataset.name}", 1, records, errors)


def test_the_command_tells_shows_and_records_what_has_drifted(
    engine: Engine, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predict(engine, models, HOUSING, 20, shifted_hours=8)
    predict(engine, models, IRIS, 10)
    with pytest.raises(SystemExit) as ended:
        drift.main(["--fail"])
    assert ended.value.code == drift.DRIFT_STATUS
    told = capsys.readouterr().out
    assert re.search(r"^housing \w+: DRIFT of HouseAge; 1,200 rows from", told, re.MULTILINE)
    assert re.search(r"^HouseAge +yes ", told, re.MULTILINE)
    assert re.search(r"^iris \w+: no drift, 600 rows from", told, re.MULTILINE)

    results = {name: Drift.model_validate_json(Path(f"reports/drift/{name}.json").read_text()) for name in DATASETS}
    assert results["housing"].changes[0].name == "HouseAge"
    since = results["housing"].changes[0].since
    assert since is not None
    parts = [part.since for part in results["housing"].parts]
    assert abs(parts.index(since) - len(parts) * 12 / 20) <= 1
    assert results["iris"].verdict is Verdict.NO_DRIFT
    recorded = {one.model: one for one in record.newest(engine)}
    assert {name: one.verdict for name, one in recorded.items()} == {"housing": "drift", "iris": "no drift"}
    assert Drift.model_validate_json(recorded["housing"].result) == results["housing"]

    page = Path("reports/drift/report.html").read_text()
    assert "Drift of HouseAge, since" in page
    # The map, when, each feature and the prediction of housing; when, and as many of iris.
    assert page.count('src="data:image/png;base64,') == 2 + 9 + 1 + 5
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    assert page.index('id="housing-HouseAge"') < page.index('id="housing-MedInc"')


def test_the_newest_rows_are_those_of_the_last_hours(
    engine: Engine, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predict(engine, models, HOUSING, 6, shifted_hours=2)
    drift.main(["--model", "housing", "--rows", "100"])
    found = Drift.model_validate_json(Path("reports/drift/housing.json").read_text())
    assert (found.rows, [change.name for change in found.drifted]) == (100, ["HouseAge"])
    assert "reports/drift/report.html" in capsys.readouterr().out


def test_of_few_rows_nothing_is_said(engine: Engine, models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predict(engine, models, IRIS, 3)
    drift.main(["--model", "iris", "--hours", "1.01", "--fail"])
    assert "too few rows to say: 60, and 100 are needed" in capsys.readouterr().out
    assert "Too few rows to say" in Path("reports/drift/report.html").read_text()


def test_without_a_ledger_it_says_what_to_do(workspace: Path) -> None:
    with pytest.raises(LoopError, match=r"There is no ledger: .*STATE_DIR or DATABASE_URL"):
        drift.main([])
    assert not (workspace / "state").exists()


@pytest.mark.usefixtures("engine")
def test_without_predictions_it_says_what_to_do() -> None:
    with pytest.raises(LoopError, match="send predictions"):
        drift.main([])


@pytest.mark.usefixtures("engine")
def test_without_a_model_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELS_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(LoopError, match="make train"):
        drift.main([])


def test_a_store_that_lacks_the_model_gets_it_from_the_exports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = tiny_models.store(HOUSING)
    directory = tmp_path / "models"
    tiny_models.pin(directory, {"housing": str(stored.tag.version)})
    (directory / "store").mkdir()
    bentoml.models.export_model(stored.tag, str(directory / "store" / "housing.bentomodel"))
    bentoml.models.delete(stored.tag)
    monkeypatch.setenv("MODELS_DIR", str(directory))
    version, artifact = deployed_model(HOUSING)
    assert version == stored.tag.version
    assert artifact.card.name == "housing"


@pytest.mark.usefixtures("workspace")
def test_a_database_that_is_away_is_told_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://me:secret@127.0.0.1:1/ledger")
    with pytest.raises(LoopError, match="does not answer") as raised:
        drift.main([])
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--hours", "0"],
        ["--hours", "x"],
        ["--rows", "0"],
        ["--rows", "1000000"],
        ["--rows", "5", "--hours", "1"],
        ["--model", "wine"],
    ],
)
def test_wrong_options_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        drift.main(arguments)
    assert ended.value.code == 2
    assert arguments[-2] in capsys.readouterr().err
