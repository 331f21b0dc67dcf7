"""What is counted and recorded of every kind, for people: values, never codes."""

import csv
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy import Engine

from batch_predict.part_worker import check
from contract import DATASETS
from contract.row import Row, category
from ledger import database, windows
from ledger.export import export
from ledger.reader import Reader
from ledger.store import Store
from ledger.sums import MINUTE_US
from ledger.times import now_us
from loop import drift_report
from loop.drift_report import Search
from loop.labelled import hold_the_contract
from model.drift import Detector, Requests
from model.reference import Reference
from serving.http.logs import logged
from serving.http.logs_page import _values
from serving.models import LoadedModel
from tests.kinds import models
from tests.kinds.datasets import PARCEL, VOYAGE
from tests.ledger.records import a_record
from tests.serving.series import Scrape, scrape


@pytest.fixture
def counted(client: httpx.Client) -> Callable[[Callable[[], Any]], Scrape]:
    """What a step adds to the series."""

    def run(step: Callable[[], Any]) -> Scrape:
        before = scrape(client)
        step()
        return scrape(client).since(before)

    return run


def test_values_are_counted_by_bucket(client: httpx.Client, counted: Callable[[Callable[[], Any]], Scrape]) -> None:
    rows = [
        {**VOYAGE.example, "port": "Queenstown", "deck": None, "age": None, "Home district (1912)": "district 55"},
        {**VOYAGE.example, "agency": "Thomas", "insured": False, "Home district (1912)": "abroad"},
    ]
    change = counted(lambda: client.post("/predict/voyage/batch", json={"rows": rows}).raise_for_status())

    def value(feature: str, bucket: str) -> float:
        return change.value("ml_feature_decile_total", model="voyage", feature=feature, decile=bucket)

    assert [value("port", name) for name in VOYAGE.features[6].vocabulary] == [0, 1, 1]
    assert (value("deck", "(missing)"), value("deck", "B")) == (1, 1)
    assert (value("age", "(missing)"), value("agency", "(other)"), value("insured", "false")) == (1, 1, 1)
    assert value("Home district (1912)", "(rest)") == 2


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("port", "Kiel", "unknown_category"),
        ("port", None, "missing"),
        ("siblings", 1.5, "wrong_type"),
        ("siblings", 99, "out_of_range"),
        ("insured", "yes", "wrong_type"),
        ("born", "May", "wrong_type"),
        ("born", "1700-01-01", "out_of_range"),
        ("age", "old", "not_a_number"),
    ],
)
def test_refused_values_are_counted_by_reason(
    client: httpx.Client, counted: Callable[[Callable[[], Any]], Scrape], name: str, value: object, reason: str
) -> None:
    change = counted(lambda: client.post("/predict/voyage", json={**VOYAGE.example, name: value}))
    assert change.value("ml_refused_rows_total", model="voyage", feature=name, reason=reason) == 1


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    engine = database.connect(database.default_url(tmp_path))
    database.migrate(engine)
    return engine


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch, engine: Engine) -> list[dict[str, Any]]:
    """Rows on record, of a dataset that is in the registry meanwhile."""
    monkeypatch.setitem(DATASETS, VOYAGE.name, VOYAGE)
    rows = models.rows(VOYAGE, 12, seed=3)
    outputs = np.tile([0.25, 0.75], (12, 1))
    record = a_record(model=VOYAGE.name, rows=models.matrix(VOYAGE, rows), outputs=outputs)
    Store(engine).insert("one", 1, [record], [])
    return [VOYAGE.decode(VOYAGE.encode(row)) if "unheard" not in row.values() else _shown(row) for row in rows]


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    return {name: "(other)" if value == "unheard" else value for name, value in row.items()}


def test_the_ledger_gives_values_back(engine: Engine, given: list[dict[str, Any]]) -> None:
    (one,) = Reader(engine).recent(shown_rows=12).predictions
    assert [row["features"] for row in logged(one)["rows"]] == given
    page = _values(one)
    for row in given:
        for value in row.values():
            if isinstance(value, str):
                assert f"<td>{value}</td>" in page
    assert "<td>(missing)</td>" in page
    assert "<td>true</td>" in page


@pytest.mark.usefixtures("given")
def test_a_window_with_missing_values_has_its_features(engine: Engine) -> None:
    found = windows.newest(Reader(engine), VOYAGE.name, "v1", 100, until_us=now_us())
    assert found is not None
    np.testing.assert_array_equal(found.features, models.matrix(VOYAGE, models.rows(VOYAGE, 12, seed=3)))


def test_a_later_vocabulary_does_not_change_what_was_recorded(
    engine: Engine, given: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Other(Row):
        port: str = category("Kiel", description="Port.", example="Kiel")

    monkeypatch.setitem(DATASETS, VOYAGE.name, replace(VOYAGE, row=Other))
    (one,) = Reader(engine).recent(shown_rows=12).predictions
    assert [row["features"] for row in logged(one)["rows"]] == given
    assert one.model.has_features_of(VOYAGE)
    assert not one.model.has_features_of(DATASETS[VOYAGE.name])


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_an_export_has_values(engine: Engine, given: list[dict[str, Any]], tmp_path: Path, ending: str) -> None:
    reader, path = Reader(engine), tmp_path / f"out.{ending}"
    assert export(path, reader.models(), reader.rows_for(VOYAGE.name)) == 12
    if ending == "csv":
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
    else:
        rows = pq.read_table(path).to_pylist()
    for row, wanted in zip(rows, given, strict=True):
        for feature in VOYAGE.features:
            value = wanted[feature.name]
            if isinstance(value, str) and value != "(other)":
                assert row[feature.name] == value
            elif value is None:
                assert row[feature.name] in ("", None)
            # What the file has can be predicted again.
            assert np.array_equal(feature.read(row[feature.name]), feature.encode(value), equal_nan=True)


def test_rows_without_features_are_not_taken_for_rows_without_values() -> None:
    matrix = np.array([[np.nan, np.nan], [np.nan, 2], [1, 1.5]])
    assert hold_the_contract(PARCEL, matrix).tolist() == [False, True, False]


def test_golden_rows_are_for_people(loaded: dict[str, LoadedModel]) -> None:
    card = loaded["voyage"].card
    assert card.golden[0].row.keys() == VOYAGE.example.keys()
    assert {type(one.row["port"]) for one in card.golden} == {str}
    assert type(card).model_validate_json(card.model_dump_json()) == card


def test_a_table_is_predicted_as_the_service_predicts_it(loaded: dict[str, LoadedModel]) -> None:
    rows = models.rows(VOYAGE, 30, seed=5)
    cells: dict[str, list[Any]] = {name: [row[name] for row in rows] for name in VOYAGE.feature_names}
    cells["port"][3] = "Kiel"
    cells["age"] = ["" if value is None else f" {value} " for value in cells["age"]]
    cells["age"][4] = "old"
    checked = check(VOYAGE, pa.table(cells), np.arange(30))
    assert checked.bad.tolist() == [3, 4]
    assert "'Kiel' is not one of" in checked.reasons[0]
    assert "'old' is not a number" in checked.reasons[1]
    good = [row for index, row in enumerate(rows) if index not in (3, 4)]
    np.testing.assert_array_equal(checked.features, models.matrix(VOYAGE, good))
    assert loaded["voyage"].artifact.outputs(checked.features).shape == (28, 2)


def test_drift_of_every_kind_is_found(loaded: dict[str, LoadedModel]) -> None:
    artifact = loaded["voyage"].artifact
    detector = Detector(artifact.card, Reference.read(artifact.directory, artifact.card))
    same = models.matrix(VOYAGE, models.rows(VOYAGE, 600, seed=9))
    found = detector.detect("v1", same, artifact.outputs(same))
    assert found.verdict == "no drift"
    assert {change.name for change in found.changes} == {*VOYAGE.feature_names, "prediction"}
    other = same.copy()
    position = VOYAGE.feature_names.index
    other[:, position("port")] = 0
    other[:, position("insured")] = 1
    other[:, position("deck")] = np.nan
    other[:400, position("age")] = np.nan
    other[:, position("born")] += 5000
    drifted = {change.name: change for change in detector.detect("v1", other, artifact.outputs(other)).drifted}
    assert {"port", "insured", "deck", "age", "born"} <= drifted.keys()
    assert drifted["deck"].recent_shares == [0, 0, 0, 1]
    # No mean where all are missing.
    other[:, position("age")] = np.nan
    (age,) = [one for one in detector.detect("v1", other, artifact.outputs(other)).changes if one.name == "age"]
    assert (age.recent, age.shift, age.drift) == (None, 0, True)


@pytest.mark.usefixtures("given")
def test_the_page_of_a_drift_search_shows_every_kind(
    engine: Engine, loaded: dict[str, LoadedModel], tmp_path: Path
) -> None:
    artifact = loaded["voyage"].artifact
    detector = Detector(artifact.card, Reference.read(artifact.directory, artifact.card))
    rows = models.matrix(VOYAGE, models.rows(VOYAGE, 300, seed=9))
    rows[:, VOYAGE.feature_names.index("age")] = np.nan
    recorded = windows.newest(Reader(engine), VOYAGE.name, "v1", 100, until_us=now_us())
    assert recorded is not None
    times = now_us() - np.arange(len(rows), dtype=np.int64)[::-1] * 3 * MINUTE_US
    window = replace(recorded, time_us=times, features=rows, outputs=artifact.outputs(rows))
    found = detector.detect_window("v1", times, rows, window.outputs, Requests(300, 0))
    drift_report.write([Search(VOYAGE, detector.reference, window, found)], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    # When, each feature, and the prediction.
    assert page.count('src="data:image/png;base64,') == 1 + len(VOYAGE.features) + 1
    assert re.search(r"The mean is 18\d\d-\d\d-\d\d, in training 18\d\d-\d\d-\d\d", page), "dates, not days since 1970"
