from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, event, insert

from contract.datasets.iris import IRIS
from contract.errors import InvalidInput
from ledger import database, sums
from ledger.reader import CHUNK_ROWS, SHOWN_ROWS, Page, Reader, Rows
from ledger.record import ErrorCount, Record
from ledger.schema import FEEDBACK
from ledger.store import Store
from tests.ledger.records import DAY_US, MINUTE_US, NOW_US, a_record, prediction_id


def label(engine: Engine, record: Record, row: int, actual: float) -> None:
    """Say what came true."""
    (model,) = Reader(engine).models(record.model, record.version)
    with database.transaction(engine) as connection:
        connection.execute(
            insert(FEEDBACK).values(
                prediction_id=record.id,
                row=row,
                model_id=model.id,
                predicted_us=record.time_us,
                received_us=record.time_us,
                actual=actual,
                predicted=0.0,
            )
        )
        sums.add_labels(connection, {(record.time_us // MINUTE_US, model.id): 1})


@pytest.fixture
def records(store: Store) -> list[Record]:
    """One a minute, newest first; two models in two versions."""
    made = [
        a_record(
            NOW_US - age * MINUTE_US,
            model="iris" if age % 3 == 0 else "housing",
            version="v2" if age < 20 else "v1",
            request_id=f"request-{age // 2}",
        )
        for age in range(40)
    ]
    store.insert("one", 1, made, [])
    return made


def ids(page: Page) -> list[str]:
    return [one.id for one in page.predictions]


@pytest.mark.parametrize(
    ("filters", "wanted"),
    [
        ({}, lambda _: True),
        ({"model": "iris"}, lambda age: age % 3 == 0),
        ({"model": "housing", "version": "v1"}, lambda age: age % 3 and age >= 20),
        ({"model": "nobody"}, lambda _: False),
        ({"since_us": NOW_US - 10 * MINUTE_US}, lambda age: age <= 10),
        ({"until_us": NOW_US - 10 * MINUTE_US}, lambda age: age > 10),
        ({"since_us": NOW_US - 5 * MINUTE_US + 1, "until_us": NOW_US - 2 * MINUTE_US + 1}, lambda age: 2 <= age < 5),
        ({"request_id": "request-3"}, lambda age: age in (6, 7)),
        ({"request_id": "request-3", "model": "iris"}, lambda age: age == 6),
        ({"model": "iris", "since_us": NOW_US - 6 * MINUTE_US}, lambda age: age in (0, 3, 6)),
    ],
)
def test_filters(
    reader: Reader, records: list[Record], filters: dict[str, Any], wanted: Callable[[int], object]
) -> None:
    expected = [record.id for age, record in enumerate(records) if wanted(age)]
    page = reader.recent(**filters)
    assert ids(page) == expected
    assert page.cursor is None
    paged: list[str] = []
    cursor = None
    while True:
        page = reader.recent(**filters, limit=3, cursor=cursor)
        paged += ids(page)
        cursor = page.cursor
        if cursor is None:
            break
        assert len(page.predictions) == 3
    assert paged == expected


def test_one_prediction(reader: Reader, records: list[Record]) -> None:
    wanted = records[7]
    assert ids(reader.recent(prediction_id=wanted.id)) == [wanted.id]
    assert ids(reader.recent(prediction_id=wanted.id, model="housing", request_id="request-3")) == [wanted.id]
    for others in ({"model": "iris"}, {"request_id": "request-4"}, {"until_us": NOW_US - 9 * MINUTE_US}):
        assert ids(reader.recent(prediction_id=wanted.id, **others)) == []
    assert ids(reader.recent(prediction_id="0" * 32)) == []


def test_pages_stay_right_while_predictions_come(reader: Reader, store: Store, records: list[Record]) -> None:
    first = reader.recent(limit=10)
    newer = [a_record(NOW_US + MINUTE_US + number) for number in range(5)]
    # From the spool of another worker, which was behind.
    late = a_record(NOW_US - MINUTE_US // 2)
    store.insert("two", 1, [*newer, late], [])
    second = reader.recent(limit=1000, cursor=first.cursor)
    assert ids(first) + ids(second) == [record.id for record in records]
    assert ids(reader.recent(limit=7)) == [*(record.id for record in reversed(newer)), records[0].id, late.id]


def test_what_a_page_shows(reader: Reader, store: Store, engine: Engine) -> None:
    large = a_record(NOW_US, rows=50, model="iris", protocol="v2")
    small = a_record(NOW_US - 1, rows=None)
    store.insert("one", 1, [large, small], [])
    label(engine, large, 3, 2.0)
    label(engine, large, 40, 1.0)
    first, second = reader.recent().predictions
    assert (first.rows, first.protocol, first.model.model) == (50, "v2", "iris")
    assert first.model.outputs == IRIS.target.classes
    assert first.features is not None
    assert large.rows is not None
    assert np.array_equal(first.features, large.rows[:SHOWN_ROWS])
    assert np.array_equal(first.outputs, large.outputs[:SHOWN_ROWS])
    assert first.actuals == {3: 2.0}
    assert (second.features, second.actuals) == (None, {})
    (whole,) = reader.recent(prediction_id=large.id, shown_rows=10_000).predictions
    assert whole.features is not None
    assert np.array_equal(whole.features, large.rows)
    assert whole.actuals == {3: 2.0, 40: 1.0}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"limit": 0}, "limit: 0 is not between 1 and 1000"),
        ({"limit": 1001}, "limit: 1001 is not between 1 and 1000"),
        ({"cursor": "x"}, "cursor: is none that an answer had"),
        ({"cursor": "é"}, "cursor: is none that an answer had"),
        ({"cursor": "AAAA"}, "cursor: is none that an answer had"),
        ({"prediction_id": "ABC"}, "prediction_id: 'ABC' is not of 32 hexadecimal digits"),
        ({"version": "v1"}, "version: needs the model too"),
        ({"since_us": 2, "until_us": 2}, "since: is not before the end of the window"),
    ],
)
def test_wrong_arguments_are_named(reader: Reader, arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        reader.recent(**arguments)


def test_stats(reader: Reader, store: Store, engine: Engine, records: list[Record]) -> None:
    errors = [
        ErrorCount(NOW_US // MINUTE_US, "iris", "http", 400, 3),
        ErrorCount(NOW_US // MINUTE_US, "", "v2", 404, 1),
    ]
    store.insert("two", 1, [], errors)
    label(engine, records[0], 0, 1.0)
    found = reader.stats(since_us=NOW_US - 9 * MINUTE_US)
    assert found.since_us == NOW_US - 9 * MINUTE_US
    assert [(one.model, one.version, one.requests, one.rows) for one in found.versions] == [
        ("iris", "v2", 4, 4),
        ("housing", "v2", 6, 6),
    ]
    assert [one.feedback_share for one in found.versions] == [0.25, 0.0]
    iris, housing = (one.distribution for one in found.versions)
    assert [one.label for one in iris] == list(IRIS.target.classes)
    likeliest = [int(record.outputs.argmax()) for record in records[:10:3]]
    assert [one.rows for one in iris] == [likeliest.count(number) for number in range(3)]
    values = sorted(record.outputs[0, 0] for record in records[:10] if record.model == "housing")
    assert housing[0].rows
    assert housing[0].high is not None
    assert housing[0].high > values[0]
    assert [(one.model, one.protocol, one.status, one.requests) for one in found.errors] == [
        ("", "v2", 404, 1),
        ("iris", "http", 400, 3),
    ]
    assert [one.version for one in reader.stats().versions] == ["v2", "v2", "v1", "v1"]
    alone = reader.stats(model="iris", version="v1")
    assert [(one.version, one.requests) for one in alone.versions] == [("v1", 7)]
    assert [one.model for one in alone.errors] == ["iris"]
    assert reader.stats(until_us=NOW_US - 100 * MINUTE_US).versions == []
    with pytest.raises(InvalidInput, match="since"):
        reader.stats(since_us=2 * MINUTE_US, until_us=MINUTE_US)


def test_days_ago_a_window_has_whole_hours(reader: Reader, store: Store) -> None:
    hour_us = 60 * MINUTE_US
    begin = (NOW_US - 5 * DAY_US) // hour_us * hour_us
    store.insert("one", 1, [a_record(begin + minute * MINUTE_US) for minute in range(0, 120, 10)], [])
    for _ in range(2):
        found = reader.stats(since_us=begin + 25 * MINUTE_US, until_us=begin + 35 * MINUTE_US)
        assert (found.since_us, found.until_us) == (begin, begin + hour_us)
        assert [one.requests for one in found.versions] == [6]
        slots = reader.volume(since_us=begin, until_us=begin + 2 * hour_us)
        assert [(slot.start_us, slot.requests) for slot in slots] == [(begin, 6), (begin + hour_us, 6)]
        store.prune(90)  # adds the minutes up to hours


def test_volume(reader: Reader, records: list[Record]) -> None:
    slots = reader.volume(since_us=NOW_US - 39 * MINUTE_US, until_us=NOW_US + MINUTE_US, slots=4)
    assert sum(slot.requests for slot in slots) == len(records)
    assert {slot.start_us % (10 * MINUTE_US) for slot in slots} == {0}
    assert {slot.model for slot in slots} == {"housing", "iris"}
    one_model = reader.volume(since_us=NOW_US - 39 * MINUTE_US, model="iris")
    assert sum(slot.rows for slot in one_model) == 14


@pytest.mark.parametrize("age_us", [0, 5 * DAY_US])
def test_rows_since_a_start_are_counted(reader: Reader, store: Store, age_us: int) -> None:
    start = NOW_US - age_us + 10_500_000
    made = [
        a_record(start + offset, rows=2, model="iris") for offset in (-9_000_000, -1, 0, 1, 70_000_000, 4_000_000_000)
    ]
    store.insert("one", 1, made, [])
    assert reader.count_rows(start) == {("iris", "v1"): 8}


def test_rows_of_a_model(reader: Reader, store: Store, engine: Engine) -> None:
    small = [a_record(NOW_US + number, rows=1 + number % 3, version=f"v{number % 2}") for number in range(50)]
    large = [a_record(NOW_US + 100 + number, rows=CHUNK_ROWS // 2 + 1, version="v1") for number in range(3)]
    bare = a_record(NOW_US + 200, rows=None, version="v1")
    store.insert("one", 1, [a_record(model="iris"), *small, *large, bare], [])
    label(engine, small[1], 1, 4.5)
    label(engine, large[1], 77, 3.5)
    chunks = list(reader.rows_for("housing"))
    assert max(map(len, chunks)) <= CHUNK_ROWS
    for version in ("v0", "v1"):
        of_version = [chunk for chunk in chunks if chunk.model.version == version]
        expected = [record for record in [*small, *large, bare] if record.version == version]
        assert [one for chunk in of_version for one in chunk.ids] == [
            record.id for record in expected for _ in range(record.count)
        ]
        assert np.array_equal(
            np.concatenate([chunk.outputs for chunk in of_version]),
            np.concatenate([record.outputs for record in expected]),
        )
        features = [np.full((1, 8), np.nan) if record.rows is None else record.rows for record in expected]
        assert np.array_equal(
            np.concatenate([chunk.features for chunk in of_version]), np.concatenate(features), equal_nan=True
        )
    assert known(chunks) == [(small[1].id, 1, 4.5), (large[1].id, 77, 3.5)]
    labelled = list(reader.rows_for("housing", labelled=True))
    assert {one for chunk in labelled for one in chunk.ids} == {small[1].id, large[1].id}
    assert known(labelled) == known(chunks)
    some = list(reader.rows_for("housing", "v1", since_us=NOW_US + 10, until_us=NOW_US + 20))
    assert {one for chunk in some for one in chunk.ids} == {record.id for record in small[11:20:2]}
    assert list(reader.rows_for("nobody")) == []


def known(chunks: list[Rows]) -> list[tuple[str, int, float]]:
    """The rows of which it is known what came true."""
    return [
        (chunk.ids[place], int(chunk.index[place]), float(chunk.actuals[place]))
        for chunk in chunks
        for place in np.flatnonzero(~np.isnan(chunk.actuals))
    ]


@contextmanager
def statements(engine: Engine) -> Iterator[list[tuple[str, Any]]]:
    """The queries that are sent to the database."""
    sent: list[tuple[str, Any]] = []

    def note(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        if statement.startswith("SELECT"):
            sent.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", note)
    yield sent
    event.remove(engine, "before_cursor_execute", note)


WINDOW = {"since_us": NOW_US - 30 * MINUTE_US, "until_us": NOW_US}


@pytest.mark.parametrize(
    "query",
    [
        lambda reader: reader.recent(),
        lambda reader: reader.recent(**WINDOW),
        lambda reader: reader.recent(model="iris", **WINDOW),
        lambda reader: reader.recent(model="iris", version="v1", cursor="A" * 22),
        lambda reader: reader.recent(request_id="request-3", model="iris"),
        lambda reader: reader.recent(prediction_id=prediction_id(NOW_US - MINUTE_US, 1)),
        lambda reader: reader.stats(**WINDOW),
        lambda reader: reader.stats(model="iris"),
        lambda reader: reader.volume(**WINDOW),
        lambda reader: reader.count_rows(NOW_US - MINUTE_US),
        lambda reader: list(reader.rows_for("iris", **WINDOW)),
        lambda reader: list(reader.rows_for("iris", labelled=True)),
    ],
)
@pytest.mark.usefixtures("records")
def test_each_query_follows_an_index(reader: Reader, engine: Engine, query: Callable[[Reader], Any]) -> None:
    with statements(engine) as sent:
        query(reader)
    sent = [one for one in sent if "FROM models" not in one[0]]
    assert sent
    with engine.connect() as connection:
        for statement, parameters in sent:
            if engine.dialect.name == "sqlite":
                plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
                steps = [row[-1] for row in plan]
                assert not [step for step in steps if step.startswith("SCAN")], (statement, steps)
                sorts = [step for step in steps if "TEMP B-TREE" in step]
            else:
                # The tables are so small that it would read them whole.
                connection.exec_driver_sql("SET enable_seqscan = off")
                connection.exec_driver_sql("SET enable_bitmapscan = off")
                steps = list(connection.exec_driver_sql(f"EXPLAIN {statement}", parameters).scalars())
                assert not [step for step in steps if "Seq Scan" in step and "models" not in step], (statement, steps)
                sorts = [step for step in steps if "Sort" in step]
            # What has a limit is read in order: else all that matches would be read for the first page.
            assert not (sorts and "LIMIT" in statement), (statement, steps)
