import json
import threading
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, Table, select, update

from ledger import database, feedback
from ledger.feedback import Applied, Outcome, Truth, canonical_id
from ledger.reader import Reader
from ledger.record import Record
from ledger.schema import CORRECTIONS, FEEDBACK, WAITING
from ledger.store import Store
from ledger.times import now_us
from tests.ledger.records import a_record, prediction_id


@pytest.fixture
def house(store: Store) -> Record:
    """A prediction of one house, 2.5."""
    return stored(store, a_record(outputs=np.array([[2.5]])))


@pytest.fixture
def flowers(store: Store) -> Record:
    """A prediction of three flowers: setosa, versicolor, versicolor."""
    outputs = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.0, 0.6, 0.4]])
    return stored(store, a_record(model="iris", outputs=outputs))


def stored(store: Store, record: Record) -> Record:
    store.insert(f"segment-{record.id}", 1, [record], [])
    return record


def rows(engine: Engine, table: Table) -> list[dict[str, Any]]:
    with engine.connect() as connection:
        found = connection.execute(select(table).order_by(table.c.prediction_id, table.c.row))
        return [dict(row._mapping) for row in found]


def give(engine: Engine, *truths: Truth) -> list[Outcome]:
    return list(feedback.give(engine, truths).outcomes)


def test_a_number_is_kept_beside_what_was_predicted(engine: Engine, house: Record) -> None:
    before = now_us()
    assert give(engine, Truth(house.id, 0, 3)) == [Outcome.TAKEN]
    (kept,) = rows(engine, FEEDBACK)
    assert before <= kept.pop("received_us") <= now_us()
    assert kept == {
        "prediction_id": house.id,
        "row": 0,
        "model_id": 1,
        "predicted_us": house.time_us,
        "actual": 3.0,
        "predicted": 2.5,
        "probability": None,
    }


def test_a_class_is_kept_with_the_probability_that_it_was_given(engine: Engine, flowers: Record) -> None:
    given = [Truth(flowers.id, 0, "setosa"), Truth(flowers.id, 1, 2), Truth(flowers.id, 2, 1.0)]
    assert give(engine, *given) == [Outcome.TAKEN] * 3
    kept = [(row["row"], row["actual"], row["predicted"], row["probability"]) for row in rows(engine, FEEDBACK)]
    assert kept == [(0, 0, 0, 0.7), (1, 2, 1, 0.1), (2, 1, 1, 0.6)]


def test_the_same_value_again_changes_nothing(engine: Engine, house: Record) -> None:
    give(engine, Truth(house.id, 0, 3.0))
    before = rows(engine, FEEDBACK)
    assert give(engine, Truth(house.id, 0, 3.0)) == [Outcome.UNCHANGED]
    assert rows(engine, FEEDBACK) == before
    assert not rows(engine, CORRECTIONS)


def test_a_correction_replaces_and_keeps_the_former_value(engine: Engine, flowers: Record) -> None:
    give(engine, Truth(flowers.id, 1, "setosa"))
    (former,) = rows(engine, FEEDBACK)
    assert give(engine, Truth(flowers.id, 1, "versicolor")) == [Outcome.REPLACED]
    (kept,) = rows(engine, FEEDBACK)
    assert (kept["actual"], kept["probability"]) == (1.0, 0.8)
    (correction,) = rows(engine, CORRECTIONS)
    assert (correction["prediction_id"], correction["row"], correction["actual"]) == (flowers.id, 1, 0.0)
    assert correction["received_us"] == former["received_us"]
    assert correction["replaced_us"] == kept["received_us"]


def test_entries_of_one_call_come_one_after_the_other(engine: Engine, house: Record) -> None:
    given = [Truth(house.id, 0, value) for value in (1.0, 1.0, 2.0, 1.0)]
    assert give(engine, *given) == [Outcome.TAKEN, Outcome.UNCHANGED, Outcome.REPLACED, Outcome.REPLACED]
    assert [row["actual"] for row in rows(engine, FEEDBACK)] == [1.0]
    assert [row["actual"] for row in rows(engine, CORRECTIONS)] == [1.0, 2.0]


def test_a_number_that_does_not_hold_the_contract_is_refused(engine: Engine, house: Record) -> None:
    refused: dict[tuple[int, float | str], tuple[str, str]] = {
        (1, 3.0): ("row", f"the prediction {house.id} has 1 rows, and no row 1"),
        (0, 20.5): ("actual", "20.5 is outside the range of MedHouseVal, 0 to 20 100k USD"),
        (0, -0.1): ("actual", "-0.1 is outside the range of MedHouseVal, 0 to 20 100k USD"),
        (0, "3.0"): ("actual", "should be a finite number, not '3.0'"),
        (0, float("nan")): ("actual", "should be a finite number, not nan"),
        (0, float("inf")): ("actual", "should be a finite number, not inf"),
    }
    answer = feedback.give(engine, [Truth(house.id, 0, 3.0), *(Truth(house.id, *entry) for entry in refused)])
    assert list(answer.outcomes) == [Outcome.TAKEN] + [Outcome.REFUSED] * len(refused)
    assert answer.problems == dict(enumerate(refused.values(), start=1))


def test_a_class_that_does_not_exist_is_refused(engine: Engine, flowers: Record) -> None:
    wrong: list[float | str] = ["rose", "Setosa", "1", 3, -1, 0.5, float("nan"), float("inf"), "x" * 200]
    answer = feedback.give(engine, [Truth(flowers.id, 0, actual) for actual in wrong])
    assert set(answer.outcomes) == {Outcome.REFUSED}
    for position, actual in enumerate(wrong):
        field, message = answer.problems[position]
        assert field == "actual"
        assert message.startswith(repr(actual)[:60])
        assert message.endswith("is neither a class (setosa, versicolor, virginica) nor an index from 0 to 2")
    assert not rows(engine, FEEDBACK)


def test_values_of_a_file_are_text(engine: Engine, house: Record, flowers: Record) -> None:
    numbers = {"3.5": 3.5, " 3e0 ": 3.0, "1_0": None, "nan": None, "٣": None, "": None}
    names = {"virginica": 2.0, "2": 2.0, "2.0": 2.0, "2.5": None, "rose": None}
    for record, expected in ((house, numbers), (flowers, names)):
        for written, number in expected.items():
            answer = feedback.give(engine, [Truth(record.id, 0, written)], written=True)
            assert bool(answer.problems) == (number is None)
            if number is not None:
                kept = {row["prediction_id"]: row["actual"] for row in rows(engine, FEEDBACK)}
                assert kept[record.id] == number


def test_feedback_waits_for_its_prediction(engine: Engine, store: Store) -> None:
    record = a_record(model="iris", rows=2)
    given = [Truth(record.id, 0, "setosa"), Truth(record.id, 1, 2), Truth(record.id, 5, "setosa")]
    assert give(engine, *given) == [Outcome.WAITING] * 3
    assert feedback.apply_waiting(engine) == Applied()
    assert not rows(engine, FEEDBACK)
    received = {row["received_us"] for row in rows(engine, WAITING)}
    stored(store, record)
    done = feedback.apply_waiting(engine)
    assert (done.applied, done.expired) == (2, 0)
    assert list(done.refused) == [f"{record.id}: the prediction {record.id} has 2 rows, and no row 5"]
    assert [row["actual"] for row in rows(engine, FEEDBACK)] == [0.0, 2.0]
    assert {row["received_us"] for row in rows(engine, FEEDBACK)} == received
    assert not rows(engine, WAITING)


def test_what_waits_is_replaced_by_what_comes_later(engine: Engine, store: Store) -> None:
    record = a_record(outputs=np.array([[1.0]]))
    give(engine, Truth(record.id, 0, 1.0))
    give(engine, Truth(record.id, 0, 2.0))
    assert [json.loads(row["actual"]) for row in rows(engine, WAITING)] == [2.0]
    stored(store, record)
    # It has come, but the drainer has not looked yet: what is sent now is newer than what waits.
    assert give(engine, Truth(record.id, 0, 3.0)) == [Outcome.TAKEN]
    assert feedback.apply_waiting(engine) == Applied()
    assert [row["actual"] for row in rows(engine, FEEDBACK)] == [3.0]


def test_feedback_waits_for_an_hour(engine: Engine) -> None:
    old, new = prediction_id(now_us()), prediction_id(now_us())
    give(engine, Truth(old, 0, 1.0), Truth(new, 0, 1.0))
    with database.transaction(engine) as connection:
        since = now_us() - (feedback.WAIT_SECONDS + 1) * 1_000_000
        connection.execute(update(WAITING).where(WAITING.c.prediction_id == old).values(received_us=since))
    assert feedback.apply_waiting(engine) == Applied(expired=1)
    assert [row["prediction_id"] for row in rows(engine, WAITING)] == [new]


def test_what_waits_is_bounded(engine: Engine, house: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feedback, "MAXIMUM_WAITING", 2)
    unknown = [Truth(prediction_id(now_us()), 0, 1.0) for _ in range(3)]
    answer = feedback.give(engine, [*unknown, Truth(house.id, 0, 1.0)])
    assert list(answer.outcomes) == [Outcome.WAITING, Outcome.WAITING, Outcome.REFUSED, Outcome.TAKEN]
    assert answer.problems[2].field == "prediction_id"
    assert unknown[2].prediction_id in answer.problems[2].message
    # What waits already can still be corrected.
    assert give(engine, unknown[0]._replace(actual=2.0)) == [Outcome.WAITING]


def test_many_entries_over_many_predictions(engine: Engine, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feedback, "_CHUNK", 7)
    monkeypatch.setattr(feedback, "_CHUNK_ROWS", 20)
    records = [a_record(rows=1 + number % 5) for number in range(50)]
    store.insert("many", 1, records, [])
    truths = [Truth(record.id, row, 1.0) for row in range(5) for record in records if row < len(record.outputs)]
    answer = feedback.give(engine, [*truths, Truth(prediction_id(1), 0, 1.0)])
    assert answer.counts == {"taken": len(truths), "replaced": 0, "unchanged": 0, "waiting": 1, "refused": 0}
    expected = {
        (record.id, row): float(record.outputs[row, 0]) for record in records for row in range(len(record.outputs))
    }
    assert {(row["prediction_id"], row["row"]): row["predicted"] for row in rows(engine, FEEDBACK)} == expected


def test_writers_at_the_same_time_keep_every_value(engine: Engine, house: Record) -> None:
    values = [float(number) for number in range(1, 9)]
    outcomes: list[Outcome] = []

    def send(value: float) -> None:
        outcomes.extend(give(engine, Truth(house.id, 0, value)))

    threads = [threading.Thread(target=send, args=(value,)) for value in values]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == sorted([Outcome.TAKEN] + [Outcome.REPLACED] * 7)
    kept = [row["actual"] for row in (*rows(engine, FEEDBACK), *rows(engine, CORRECTIONS))]
    assert sorted(kept) == values


def test_statistics_know_the_share_of_labelled_rows(engine: Engine, flowers: Record, reader: Reader) -> None:
    give(engine, Truth(flowers.id, 0, "setosa"), Truth(flowers.id, 2, "setosa"))
    give(engine, Truth(flowers.id, 0, "virginica"))
    (stats,) = reader.stats(since_us=flowers.time_us - 60_000_000, until_us=flowers.time_us + 60_000_000).versions
    assert (stats.rows, stats.labelled_rows) == (3, 2)
    assert stats.feedback_share == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    "written",
    ["019abf3c52b071f4a1138a0d3c7c4f6d", "019ABF3C52B071F4A1138A0D3C7C4F6D", "019abf3c-52b0-71f4-a113-8a0d3c7c4f6d"],
)
def test_an_id_may_be_written_as_a_uuid(written: str) -> None:
    assert canonical_id(written) == "019abf3c52b071f4a1138a0d3c7c4f6d"


@pytest.mark.parametrize(
    "written", ["", "7", "019abf3c52b071f4a1138a0d3c7c4f6", "g" * 32, "0" * 33, "{" + "0" * 32 + "}"]
)
def test_anything_else_is_no_id(written: str) -> None:
    with pytest.raises(ValueError, match="is not a prediction id"):
        canonical_id(written)
