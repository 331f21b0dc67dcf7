import sqlite3
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Engine, func, insert, select, text

from ledger import database, retention, sums
from ledger.reader import Reader
from ledger.record import ErrorCount, Record
from ledger.schema import (
    ACTIONS,
    CORRECTIONS,
    FEEDBACK,
    FORGOTTEN,
    LABELS,
    METADATA,
    MINUTES,
    PREDICTIONS,
    SEGMENTS,
    WAITING,
)
from ledger.store import Store
from tests.ledger.records import DAY_US, MINUTE_US, NOW_US, a_record
from tests.waiting import wait_until


def give_feedback(engine: Engine, records: Sequence[Record]) -> None:
    """A label of each first row, and a correction of it."""
    numbers = {(one.model, one.version): one.id for one in Reader(engine).models()}
    with database.transaction(engine) as connection:
        for record in records:
            number = numbers[record.model, record.version]
            ids = {"prediction_id": record.id, "row": 0}
            times = {"predicted_us": record.time_us, "received_us": record.time_us}
            connection.execute(insert(FEEDBACK).values(**ids, **times, model_id=number, actual=1, predicted=1))
            connection.execute(
                insert(CORRECTIONS).values(**ids, actual=2, received_us=record.time_us, replaced_us=record.time_us)
            )
            sums.add_labels(connection, {(record.time_us // MINUTE_US, number): 1})


def count(engine: Engine) -> dict[str, int]:
    """The rows of each table."""
    with engine.connect() as connection:
        return {
            name: connection.scalar(select(func.count()).select_from(table)) or 0
            for name, table in METADATA.tables.items()
        }


def prune_all(store: Store, keep_days: float, keep_bytes: int | None = None) -> int:
    """Prune to the end; how many predictions went."""
    total = 0
    while True:
        pruned = store.prune(keep_days, keep_bytes)
        total += pruned.predictions
        if pruned.done:
            return total


def test_what_is_old_goes(store: Store, engine: Engine) -> None:
    old = [a_record(NOW_US - 3 * DAY_US - age * MINUTE_US * 17, rows=1 + age) for age in range(20)]
    new = [a_record(NOW_US - 2 * DAY_US + age * MINUTE_US * 17, model="iris") for age in range(10)]
    errors = [ErrorCount(time_us // MINUTE_US, "iris", "http", 400, 1) for time_us in (NOW_US - 4 * DAY_US, NOW_US)]
    store.insert("one", 1, [*old, *new], errors)
    give_feedback(engine, [*old, *new])
    with database.transaction(engine) as connection:
        for time_us in (NOW_US - 4 * DAY_US, NOW_US):
            connection.execute(
                insert(ACTIONS).values(time_us=time_us, route="/r", key="k", client="c", request_id="r", status=200)
            )
    assert store.prune(90).predictions == 0
    assert prune_all(store, 2.5) == 20
    left = count(engine)
    assert {name: left[name] for name in ("predictions", "feedback", "corrections", "errors", "actions")} == {
        "predictions": 10,
        "feedback": 10,
        "corrections": 10,
        "errors": 1,
        "actions": 1,
    }
    assert {one.id for one in Reader(engine).recent().predictions} == {record.id for record in new}
    assert [(one.model, one.requests, one.labelled_rows) for one in Reader(engine).stats().versions] == [
        ("iris", 10, 10)
    ]
    assert prune_all(store, 2.5) == 0


def test_segments_that_nobody_will_forget_go_with_what_they_held(store: Store, engine: Engine) -> None:
    """Of a drainer that was killed between a file and its row, and of a file that comes back from a backup later."""
    old_us = NOW_US - 4 * DAY_US
    old, new = a_record(old_us), a_record(NOW_US)
    errors = [ErrorCount(old_us // MINUTE_US, "iris", "http", 400, 1)]
    store.insert("old", 8, [old], errors)
    store.insert("new", 8, [new], [])
    with database.transaction(engine) as connection:
        connection.execute(SEGMENTS.update().where(SEGMENTS.c.name == "old").values(time_us=old_us))
    assert prune_all(store, 90) == 0
    assert (store.position("old"), store.position("new")) == (8, 8)
    assert prune_all(store, 2.5) == 1
    assert (store.position("old"), store.position("new")) == (0, 8)
    store.insert("old", 8, [old], errors)
    prune_all(store, 2.5)
    assert {one.id for one in Reader(engine).recent().predictions} == {new.id}
    assert count(engine)["errors"] == 0


def test_minutes_of_days_ago_are_added_up(store: Store, engine: Engine) -> None:
    hour_us = 60 * MINUTE_US
    begin = (NOW_US - 3 * DAY_US) // hour_us * hour_us
    models = ("housing", "iris")
    old = [a_record(begin + age * MINUTE_US * 7, rows=1 + age % 5, model=models[age % 2]) for age in range(60)]
    new = [a_record(NOW_US - age * MINUTE_US) for age in range(10)]
    errors = [ErrorCount(begin // MINUTE_US + age, "iris", "http", 400, 2) for age in range(120)]
    store.insert("one", 1, [*old, *new], errors)
    give_feedback(engine, old)
    reader = Reader(engine)
    before = reader.stats()
    store.prune(90)
    assert reader.stats().versions == before.versions
    assert reader.stats().errors == before.errors
    rows = count(engine)
    assert rows["minutes"] == 2 * 7 + 10
    assert (rows["errors"], rows["labels"]) == (2, 2 * 7)
    late = a_record(begin + MINUTE_US, model="iris")
    store.insert("one", 2, [late], [])
    store.prune(90)
    assert count(engine)["minutes"] == 2 * 7 + 10
    assert sum(one.requests for one in reader.stats().versions) == 71


def test_what_is_too_much_goes_the_oldest_first(store: Store, engine: Engine) -> None:
    records = [a_record(NOW_US - age * MINUTE_US, rows=100) for age in range(30)]
    store.insert("one", 1, records, [])
    each = retention.RECORD_BYTES + 100 * 9 * 8
    give_feedback(engine, records[10:])
    assert prune_all(store, 90, 30 * each + 20 * retention.FEEDBACK_BYTES) == 0
    assert prune_all(store, 90, 10 * each + 1) == 20
    assert {one.id for one in Reader(engine).recent().predictions} == {record.id for record in records[:10]}
    left = count(engine)
    assert (left["feedback"], left["corrections"]) == (0, 0)
    # The sums of all are kept.
    assert [one.requests for one in Reader(engine).stats().versions] == [30]
    assert prune_all(store, 90, 10 * each + 1) == 0
    # One minute is kept at least.
    assert prune_all(store, 90, 1) == 9


def test_steps_are_small(store: Store, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "STEP_CALLS", 10)
    monkeypatch.setattr(retention, "STEP_ROWS", 100)
    small = [a_record(NOW_US - 2 * DAY_US + number) for number in range(25)]
    large = [a_record(NOW_US - DAY_US * 3 // 2 + number, rows=70) for number in range(3)]
    store.insert("one", 1, [*small, *large], [])
    total = [count(engine)["predictions"]]
    while not store.prune(1, seconds=1e-9).done and len(total) < 20:
        with database.transaction(engine) as connection:
            retention._delete_step(connection, PREDICTIONS, PREDICTIONS.c.id, "f" * 32)
        total.append(count(engine)["predictions"])
        if not total[-1]:
            break
    assert total == [28, 18, 8, 2, 1, 0]


def test_writers_come_through_between_the_steps(store: Store, engine: Engine) -> None:
    store.insert("one", 1, [a_record(NOW_US - 2 * DAY_US + number, rows=20) for number in range(8000)], [])
    written, over, gone = [0], threading.Event(), 0

    def write() -> None:
        other = Store(engine)
        while not over.wait(0.005):
            other.insert("two", written[0] + 1, [a_record(NOW_US + written[0])], [])
            written[0] += 1

    with ThreadPoolExecutor(1) as pool:
        writer = pool.submit(write)
        try:
            while not (pruned := store.prune(1, seconds=0.05)).done:
                gone, before = gone + pruned.predictions, written[0]
                wait_until(lambda before=before: writer.done() or written[0] > before, "a writer comes through")  # type: ignore[misc]
        finally:
            over.set()
        writer.result()
    assert gone + pruned.predictions == 8000
    assert written[0] > 3


def test_sqlite_gives_space_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "SPARE_PAGES", 20)
    monkeypatch.setattr(retention, "VACUUMED_PAGES", 50)
    engine = database.connect(database.default_url(tmp_path))
    database.migrate(engine)
    store = Store(engine)
    store.insert("one", 1, [a_record(NOW_US - 2 * DAY_US + number, rows=1000) for number in range(60)], [])
    with engine.connect() as connection:
        pages = connection.scalar(text("PRAGMA page_count")) or 0
    prune_all(store, 1)
    with engine.connect() as connection:
        assert (connection.scalar(text("PRAGMA page_count")) or 0) < pages / 4
    engine.dispose()


def test_one_service_prunes_at_a_time(store: Store, engine: Engine) -> None:
    store.insert("one", 1, [a_record(NOW_US - 2 * DAY_US)], [])
    with retention._alone(engine) as alone:
        assert alone
        assert store.prune(1).predictions == (0 if engine.dialect.name == "postgresql" else 1)
    prune_all(store, 1)
    assert count(engine)["predictions"] == 0


def test_a_prediction_is_forgotten(store: Store, engine: Engine) -> None:
    kept, wanted = a_record(), a_record(rows=3)
    store.insert("one", 1, [kept, wanted], [])
    give_feedback(engine, [kept, wanted])
    forgotten = store.forget([wanted.id, wanted.id])
    assert (forgotten.deleted, forgotten.unknown) == (1, [])
    assert [one.id for one in Reader(engine).recent().predictions] == [kept.id]
    left = count(engine)
    assert (left["feedback"], left["corrections"], left["forgotten"]) == (1, 1, 0)
    (stats,) = Reader(engine).stats().versions
    assert (stats.requests, stats.rows, stats.labelled_rows) == (2, 4, 1)


def test_a_prediction_in_the_spool_is_forgotten_when_it_comes(store: Store, engine: Engine) -> None:
    kept, wanted = a_record(), a_record()
    with database.transaction(engine) as connection:
        connection.execute(insert(WAITING).values(prediction_id=wanted.id, row=0, actual="1", received_us=NOW_US))
    for _ in range(2):
        assert store.forget([wanted.id]).unknown == [wanted.id]
    store.insert("one", 1, [kept, wanted], [])
    assert [one.id for one in Reader(engine).recent().predictions] == [kept.id]
    left = count(engine)
    assert (left["waiting"], left["forgotten"]) == (0, 1)
    # The mark goes when no spool can have it any more.
    with database.transaction(engine) as connection:
        connection.execute(FORGOTTEN.update().values(time_us=NOW_US - 91 * DAY_US))
    store.prune(90)
    assert count(engine)["forgotten"] == 0


def test_in_sqlite_the_bytes_are_gone(tmp_path: Path) -> None:
    engine = database.connect(database.default_url(tmp_path))
    database.migrate(engine)
    store = Store(engine)
    wanted = a_record(rows=500)
    assert wanted.feature_bytes is not None
    store.insert("one", 1, [a_record(), wanted, a_record()], [])

    def bytes_in_files() -> bytes:
        return b"".join(path.read_bytes() for path in tmp_path.glob("ledger.db*"))

    piece = wanted.feature_bytes[:64]
    assert piece in bytes_in_files()
    store.forget([wanted.id])
    assert piece not in bytes_in_files()
    assert sqlite3.connect(tmp_path / "ledger.db").execute("PRAGMA integrity_check").fetchone() == ("ok",)
    engine.dispose()


def test_sums_know_about_how_much_space_is_taken(store: Store, engine: Engine) -> None:
    records = [a_record(NOW_US + number * 1000, rows=1 + 40 * (number % 10 == 0)) for number in range(5000)]
    for position in range(10):
        store.insert("one", position + 1, records[position * 500 : position * 500 + 500], [])
    with engine.connect() as connection:
        known = int(connection.scalar(select(func.sum(MINUTES.c.bytes))) or 0)
        if engine.dialect.name == "sqlite":
            taken = (connection.scalar(text("PRAGMA page_count")) or 0) * 16384
        else:
            taken = connection.scalar(text("SELECT pg_total_relation_size('predictions')")) or 0
    assert known == pytest.approx(taken, rel=0.25)


def test_labels_are_not_negative_after_all_is_forgotten(store: Store, engine: Engine) -> None:
    record = a_record()
    store.insert("one", 1, [record], [])
    give_feedback(engine, [record])
    store.forget([record.id])
    with engine.connect() as connection:
        assert connection.scalar(select(LABELS.c.rows)) == 0
