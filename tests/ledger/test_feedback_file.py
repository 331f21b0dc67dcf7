import csv
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from sqlalchemy import Engine, select

from ledger import feedback_file
from ledger.__main__ import cli
from ledger.record import Record
from ledger.schema import FEEDBACK
from ledger.store import Store
from tests.ledger.records import a_record, prediction_id


@pytest.fixture
def records(store: Store) -> list[Record]:
    """30 houses of a request each, and three flowers in one."""
    houses = [a_record(request_id=f"order {number}") for number in range(30)]
    flowers = a_record(model="iris", rows=3, request_id="order 7")
    store.insert("segment", 1, [*houses, flowers], [])
    return [*houses, flowers]


@pytest.fixture(autouse=True)
def where(database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(os.environ, "DATABASE_URL", database_url)
    monkeypatch.setitem(os.environ, "STATE_DIR", str(tmp_path))
    monkeypatch.setattr(feedback_file, "LINES", 7)


def write(path: Path, header: str, *lines: Sequence[object]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header.split(","), *lines])
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["feedback", *map(str, arguments)])


def kept(engine: Engine) -> dict[tuple[str, int], float]:
    with engine.connect() as connection:
        found = connection.execute(select(FEEDBACK.c.prediction_id, FEEDBACK.c.row, FEEDBACK.c.actual))
        return {(row.prediction_id, row.row): row.actual for row in found}


def rejected(path: Path) -> list[dict[str, str]]:
    with path.with_suffix(".rejected.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_by_prediction_id(engine: Engine, records: list[Record], tmp_path: Path) -> None:
    houses, flowers = records[:-1], records[-1]
    path = write(
        tmp_path / "truth.csv",
        "day,prediction_id,index,value",
        *([7, house.id, 0, number / 10] for number, house in enumerate(houses)),
        *([8, flowers.id.upper(), row, name] for row, name in (("0", "setosa"), ("2.0", " virginica "))),
        [9, prediction_id(1), 0, 1],
    )
    result = run(path, "--actual", "value", "--row", "index")
    assert result.exit_code == 0, result.output
    assert "32 taken, 0 replaced, 0 unchanged, 1 waiting, 0 refused" in result.output
    assert kept(engine) == {
        **{(house.id, 0): number / 10 for number, house in enumerate(houses)},
        (flowers.id, 0): 0.0,
        (flowers.id, 2): 2.0,
    }
    assert not path.with_suffix(".rejected.csv").exists()
    # Once more, with a correction.
    write(path, "prediction_id,value", [houses[0].id, 5], [houses[1].id, 0.1])
    assert "0 taken, 1 replaced, 1 unchanged, 0 waiting, 0 refused" in run(path, "--actual", "value").output


def test_by_a_column_that_was_sent_as_request_id(
    engine: Engine, records: list[Record], store: Store, tmp_path: Path
) -> None:
    again = a_record(request_id="order 3")
    store.insert("again", 1, [again], [])
    path = write(
        tmp_path / "sold.csv",
        "order,price",
        *([f"order {number}", 2.5] for number in range(10)),
        ["order 99", 2.5],
    )
    result = run(path, "--request-id", "order", "--actual", "price")
    assert "9 taken, 0 replaced, 0 unchanged, 0 waiting, 2 refused" in result.output
    assert str(path.with_suffix(".rejected.csv")) in result.output
    assert rejected(path) == [
        {
            "order": "order 7",
            "price": "2.5",
            "reason": "the request id 'order 7' is of housing and iris: choose one by --model",
        },
        {"order": "order 99", "price": "2.5", "reason": "no prediction on record has the request id 'order 99'"},
    ]
    # A client that asked twice has two predictions of one truth.
    assert {(again.id, 0), (records[3].id, 0)} <= set(kept(engine))
    result = run(path, "--request-id", "order", "--actual", "price", "--model", "housing")
    assert "1 taken, 0 replaced, 9 unchanged, 0 waiting, 1 refused" in result.output
    assert [line["order"] for line in rejected(path)] == ["order 99"]


def test_lines_that_do_not_fit_are_written_with_their_reason(
    engine: Engine, records: list[Record], tmp_path: Path
) -> None:
    house, flowers = records[0].id, records[-1].id
    wrong = {
        (house, "0", "21"): "actual: '21' is outside the range of MedHouseVal",
        (house, "0", ""): "actual: should be a finite number, not ''",
        (house, "1", "2"): f"row: the prediction {house} has 1 rows, and no row 1",
        (house, "-1", "2"): "row: '-1' is no index of a row",
        (house, "one", "2"): "row: 'one' is no index of a row",
        (flowers, "0", "rose"): "actual: 'rose' is neither a class",
        ("order 1", "0", "2"): "prediction_id: 'order 1' is not a prediction id: 32 hexadecimal digits",
        (house, "0", "2", "more"): "the line has more cells than the header",
    }
    path = write(tmp_path / "truth.csv", "prediction_id,row,actual", *wrong, [house, 0, 2])
    result = run(path, "--actual", "actual", "--row", "row")
    assert f"1 taken, 0 replaced, 0 unchanged, 0 waiting, {len(wrong)} refused" in result.output
    for line, (given, reason) in zip(rejected(path), wrong.items(), strict=True):
        assert (line["prediction_id"], line["row"], line["actual"]) == given[:3]
        assert line["reason"].startswith(reason)
    assert kept(engine) == {(house, 0): 2.0}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(
    ("content", "arguments", "says"),
    [
        (b"id,value\n", ["--actual", "value"], "has no column 'prediction_id': it has id, value"),
        (b"prediction_id,value\n", ["--actual", "price"], "has no column 'price': it has prediction_id, value"),
        (b"a,value\n", ["--actual", "value", "--request-id", "order"], "has no column 'order': it has a, value"),
        (b"", ["--actual", "value"], "has no column 'prediction_id': it has no header"),
        (b"prediction_id,value\n\xff,1\n", ["--actual", "value"], "is not UTF-8"),
        (b"\xffprediction_id,value\n", ["--actual", "value"], "is not UTF-8"),
        (b"prediction_id,value\n", [], "Missing option '--actual'"),
    ],
)
def test_another_file_is_refused_in_a_sentence(tmp_path: Path, content: bytes, arguments: list[str], says: str) -> None:
    path = tmp_path / "truth.csv"
    path.write_bytes(content)
    result = run(path, *arguments)
    assert result.exit_code != 0
    assert says in result.output


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_file_without_lines_is_fine(tmp_path: Path) -> None:
    path = tmp_path / "truth.csv"
    path.write_text("\ufeffprediction_id,value\n", encoding="utf-8")
    assert "0 taken" in run(path, "--actual", "value").output


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_long_file_is_read_in_parts(store: Store, tmp_path: Path) -> None:
    record = a_record(outputs=np.full((100, 1), 2.0))
    store.insert("segment", 1, [record], [])
    path = write(tmp_path / "truth.csv", "prediction_id,row,actual", *([record.id, row, 1] for row in range(100)))
    assert "100 taken" in run(path, "--actual", "actual", "--row", "row").output
