import time
from collections.abc import Sequence

import numpy as np
import pytest
from sqlalchemy import Engine, func, select

from contract import DATASETS
from ledger import database
from ledger.reader import Reader
from ledger.record import ErrorCount, Record
from ledger.schema import ERRORS, MODELS, PREDICTIONS
from ledger.store import Store
from tests.ledger.processes import pool
from tests.ledger.records import MINUTE_US, NOW_US, a_record, prediction_id, same


def stored(engine: Engine) -> dict[str, Record]:
    """What is in the database, by id."""
    models = {one.id: one for one in Reader(engine).models()}
    with engine.connect() as connection:
        rows = connection.execute(select(PREDICTIONS)).all()
    return {
        row.id: Record.of_bytes(
            (
                row.id,
                row.request_id,
                row.time_us,
                models[row.model_id].model,
                models[row.model_id].version,
                row.protocol,
                row.milliseconds,
            ),
            row.rows,
            row.features,
            row.outputs,
        )
        for row in rows
    }


def assert_stored(engine: Engine, records: Sequence[Record]) -> None:
    found = stored(engine)
    assert len(found) == len(records)
    assert all(same(found[record.id], record) for record in records)


def test_records_keep_their_bits(store: Store, engine: Engine) -> None:
    odd = np.array([[5e-324], [-0.0], [0.1 + 0.2], [1e308]])
    records = [
        a_record(),
        a_record(model="iris", version="v2", protocol="grpc", rows=1000),
        a_record(outputs=odd, request_id="a/b:c+d=e@f-g.h_i", protocol="v2"),
        a_record(rows=None),  # as LEDGER_FEATURES=off has it
    ]
    store.insert("one", 10, records, [])
    assert_stored(engine, records)


def test_a_position_comes_with_its_records_once(store: Store, engine: Engine) -> None:
    first, second = a_record(), a_record()
    errors = [ErrorCount(5, "housing", "http", 400, 2)]
    assert store.position("one") == 0
    store.insert("one", 10, [first], errors)
    for position in (10, 7):  # the drainer died after the commit, and reads again
        store.insert("one", position, [a_record()], errors)
    assert_stored(engine, [first])
    assert store.position("one") == 10
    store.insert("one", 20, [second], errors)
    assert_stored(engine, [first, second])
    with engine.connect() as connection:
        assert connection.execute(select(ERRORS)).all() == [(5, "housing", "http", 400, 4)]
    store.forget_segment("one")
    assert store.position("one") == 0


def test_a_prediction_that_is_there_is_neither_written_nor_counted_again(store: Store, engine: Engine) -> None:
    """The position of its segment was lost with the database's last transactions, or it is in two segments."""
    known, new = [a_record() for _ in range(600)], [a_record() for _ in range(3)]
    store.insert("one", 10, known, [])
    store.insert("other", 10, [*known, *new, new[0]], [])
    store.insert("third", 10, known, [])
    assert_stored(engine, [*known, *new])
    (stats,) = Reader(engine).stats().versions
    assert (stats.requests, stats.rows) == (603, 603)


def test_what_fails_leaves_nothing(store: Store, engine: Engine) -> None:
    good, bad = a_record(), a_record(1 << 70, id=prediction_id(NOW_US))
    with pytest.raises(Exception, match=r"too (large|big)"):
        store.insert("one", 10, [good, bad], [ErrorCount(5, "", "http", 404, 1)])
    assert store.position("one") == 0
    assert stored(engine) == {}
    store.insert("one", 10, [good], [])
    assert_stored(engine, [good])


def test_a_version_has_the_names_of_the_contract(store: Store, engine: Engine) -> None:
    store.insert("one", 1, [a_record(), a_record(model="iris"), a_record(version="v2", rows=None)], [])
    for one in Reader(engine).models():
        dataset = DATASETS[one.model]
        assert one.features == dataset.feature_names
        assert one.outputs == (dataset.target.classes or (dataset.target.name,))
        assert (one.edges is None) == (one.model == "iris")


def test_records_of_another_contract_are_kept(store: Store, engine: Engine) -> None:
    """A spool can be older than the code: its columns are named by their number."""
    older = a_record(rows=np.ones((2, 3)), outputs=np.ones((2, 1)))
    unknown = [
        a_record(model="housing", version="v2", outputs=np.full((1, 4), 0.25)),
        Record("0" * 32, "r", NOW_US, "gone", "v1", "http", 1.0, np.ones((1, 2)), np.ones((1, 1))),
    ]
    store.insert("one", 1, [older, *unknown], [])
    assert_stored(engine, [older, *unknown])
    models = Reader(engine).models()
    assert models[0].features == ("0", "1", "2")
    assert models[1].outputs == ("0", "1", "2", "3")
    assert (models[2].features, models[2].outputs) == (("0", "1"), ("prediction",))


def test_sums_by_minute(store: Store, engine: Engine) -> None:
    records = [a_record(NOW_US + second * 1_000_000, rows=3, milliseconds=float(second + 1)) for second in range(90)]
    store.insert("one", 1, records[:50], [])
    store.insert("one", 2, records[50:], [])
    reader = Reader(engine)
    for minutes, count in (((0, 1), 60), ((1, 2), 30), ((0, 2), 90)):
        since, until = (NOW_US + minute * MINUTE_US for minute in minutes)
        (stats,) = reader.stats(since_us=since, until_us=until).versions
        assert (stats.requests, stats.rows) == (count, 3 * count)
        assert sum(one.rows for one in stats.distribution) == 3 * count
    assert stats.latency_ms[0.5] == pytest.approx(45, rel=0.05)


def insert_many(url: str, number: int) -> None:
    engine = database.connect(url)
    store = Store(engine)
    for position in range(1, 11):
        first = number * 1000 + position * 50
        ids = [prediction_id(NOW_US, first + offset) for offset in range(40)]
        records = [a_record(id=one, model=("housing", "iris")[place % 2]) for place, one in enumerate(ids)]
        store.insert(f"segment-{number}", position, records, [ErrorCount(5, "", "v2", 404, 1)])
    engine.dispose()


def test_several_drainers_share_a_database(database_url: str, engine: Engine) -> None:
    with pool(4) as workers:
        workers.starmap(insert_many, [(database_url, number) for number in range(4)], chunksize=1)
    with engine.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(PREDICTIONS)) == 1600
        assert connection.scalar(select(func.count()).select_from(MODELS)) == 2
        assert connection.scalar(select(ERRORS.c.requests)) == 40
    assert {one.requests for one in Reader(engine).stats().versions} == {800}


def test_a_thousand_records_take_milliseconds(store: Store) -> None:
    """A guard against a slow path, far above what it takes: see docs/ledger.md."""
    records = [a_record() for _ in range(2000)]
    store.insert("one", 1, [a_record()], [])
    started = time.process_time()
    store.insert("one", 2, records, [])
    assert time.process_time() - started < 0.5
