import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sklearn.dummy import DummyClassifier, DummyRegressor
from sqlalchemy import Engine

from contract.dataset import Dataset
from contract.datasets.housing import HOUSING
from contract.datasets.iris import IRIS
from ledger import database, feedback
from ledger.feedback import Truth
from ledger.reader import Reader
from ledger.store import Store
from ledger.times import now_us
from ledger.values import pack
from loop import replay, retrain_report
from loop.errors import LoopError
from loop.replay import Replay
from model.card import CARD_FILE, ONNX_FILE
from model.session import Artifact
from tests.ledger.records import a_record
from tests.mlflow_store import empty_store
from tests.serving import tiny_models
from training import params

MINUTE_US = 60_000_000
CONSTANT = {HOUSING.name: DummyRegressor(strategy="constant", constant=2.0), IRIS.name: DummyClassifier()}
DATASETS = pytest.mark.parametrize("dataset", [HOUSING, IRIS], ids=lambda dataset: dataset.name)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = database.connect(database.default_url(tmp_path / "state"))
    database.migrate(engine)
    yield engine
    engine.dispose()


def artifact(dataset: Dataset, folder: Path) -> Artifact:
    """The tiny model of a dataset, as files."""
    onnx, card = tiny_models.artifact(dataset)
    folder.mkdir()
    (folder / ONNX_FILE).write_bytes(onnx)
    (folder / CARD_FILE).write_text(card.model_dump_json())
    return Artifact.read(folder)


def record(engine: Engine, dataset: Dataset, *, labelled: bool = True) -> None:
    """Sixty rows that a model has answered which says the same of all, in two versions; of half the truth is known."""
    table = tiny_models.table(dataset)
    now = now_us()
    for call in range(6):
        rows = table.features[10 * call : 10 * call + 10]
        outputs = np.full((10, 1), 2.0) if dataset is HOUSING else np.tile([0.6, 0.3, 0.1], (10, 1))
        one = a_record(now - (10 - call) * MINUTE_US, model=dataset.name, outputs=outputs, version=f"v{call // 3}")
        one.feature_bytes = pack(rows)
        Store(engine).insert(f"segment {call}", 1, [one], [])
        if labelled and call < 3:
            truths = table.target[10 * call : 10 * call + 10].tolist()
            feedback.give(engine, [Truth(one.id, row, truth) for row, truth in enumerate(truths)])


def run(engine: Engine, dataset: Dataset, model: Artifact, hours: float = 1) -> Replay | None:
    now = now_us()
    area = params.load().model_evaluation.special(dataset.name).map
    since = now - int(hours * 60 * MINUTE_US)
    return replay.replay(dataset, Reader(engine), "new", model, since_us=since, until_us=now, area=area)


@DATASETS
def test_recorded_rows_are_answered_anew_and_compared(engine: Engine, tmp_path: Path, dataset: Dataset) -> None:
    record(engine, dataset)
    model = artifact(dataset, tmp_path / "model")
    found = run(engine, dataset, model)
    assert found is not None
    table = tiny_models.table(dataset)
    new = model.outputs(table.features[:60])
    assert (found.rows, found.refused, found.versions) == (60, 0, {"v0": 30, "v1": 30})
    expected = new[:, 0] - (2.0 if dataset is HOUSING else 0.6)
    np.testing.assert_allclose(found.differences, expected)
    assert found.quantiles["0.5"] == pytest.approx(float(np.median(expected)))
    worst = int(np.abs(expected).argmax())
    assert found.worst[0].difference == pytest.approx(float(expected[worst]))
    assert found.worst[0].row == worst % 10
    assert list(found.worst[0].features.values()) == table.features[worst].tolist()
    assert len(found.worst) == replay.WORST_CASES
    every = found.groups[0]
    assert (every.name, every.rows) == ("all", 60)
    assert every.mean == pytest.approx(float(expected.mean()))
    names = {one.name for one in found.groups[1:]}
    area = params.load().model_evaluation.special(HOUSING.name).map
    assert area is not None
    assert names <= ({f"near {place}" for place in area.places} if dataset is HOUSING else {"setosa"})
    assert sum(one.rows for one in found.groups[1:]) == 60
    # The tiny model has learned from these rows: it is better than a constant.
    assert found.truth.rows == 30
    assert found.truth.recorded is not None
    assert found.truth.new is not None
    assert found.truth.new < found.truth.recorded
    assert 0 < found.row_ms["0.5"] <= found.row_ms["0.99"]
    page = tmp_path / "replay.html"
    retrain_report.write_replay(dataset, found, page)
    text = page.read_text()
    assert text.count("data:image/png;base64,") == (2 if len(found.groups) > 1 else 1)
    assert found.worst[0].prediction_id in text
    assert "<script" not in text


def test_the_same_model_differs_in_nothing(engine: Engine, tmp_path: Path) -> None:
    model = artifact(HOUSING, tmp_path / "model")
    rows = tiny_models.table(HOUSING).features[:8]
    one = a_record(now_us() - MINUTE_US, outputs=model.outputs(rows))
    one.feature_bytes = pack(rows)
    Store(engine).insert("segment", 1, [one], [])
    found = run(engine, HOUSING, model)
    assert found is not None
    assert not found.differences.any()
    assert found.groups[0].changed == 0
    assert (found.truth.rows, found.truth.new) == (0, None)
    json.dumps(found.as_dict(), allow_nan=False)


def test_without_rows_there_is_nothing_to_replay(engine: Engine, tmp_path: Path) -> None:
    record(engine, IRIS)
    assert run(engine, HOUSING, artifact(HOUSING, tmp_path / "model")) is None
    assert run(engine, IRIS, artifact(IRIS, tmp_path / "iris"), hours=0.001) is None


def test_rows_whose_features_are_not_kept_are_counted(engine: Engine, tmp_path: Path) -> None:
    record(engine, IRIS)
    Store(engine).insert("more", 1, [a_record(now_us() - MINUTE_US, model=IRIS.name, rows=None)], [])
    found = run(engine, IRIS, artifact(IRIS, tmp_path / "model"))
    assert found is not None
    assert (found.rows, found.refused) == (60, 1)


def test_of_many_rows_the_newest_are_replayed(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "MAXIMUM_ROWS", 35)
    record(engine, IRIS)
    found = run(engine, IRIS, artifact(IRIS, tmp_path / "model"))
    assert found is not None
    assert (found.rows, found.versions) == (35, {"v0": 5, "v1": 30})


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")  # MLflow, with SQLAlchemy 2.1
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("wine@challenger", "--model: there is no model 'wine'; there is "),
        ("iris@challenger", "--model: iris has no alias 'challenger'"),
        ("iris", "python -m loop.retrain --model iris"),
        ("iris/8", "has no version 8 of iris"),
    ],
)
def test_a_model_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", empty_store(tmp_path))
    with pytest.raises(LoopError, match=said):
        replay.resolve(text)
