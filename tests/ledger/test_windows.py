import json
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine

from ledger import drift, windows
from ledger.reader import Reader
from ledger.record import ErrorCount, Record
from ledger.store import Store
from ledger.sums import MINUTE_US
from ledger.times import now_us
from ledger.values import pack
from tests.ledger.records import a_record

SECOND = 1_000_000
NOW_US = now_us() // MINUTE_US * MINUTE_US
"""Sums of what is days old are of whole hours: here it is the present."""


def fill(store: Store, records: list[Record], errors: list[ErrorCount] | None = None) -> None:
    fill.position += 1  # type: ignore[attr-defined]
    store.insert("segment", fill.position, records, errors or [])  # type: ignore[attr-defined]


fill.position = 0  # type: ignore[attr-defined]


def first_values(found: windows.RecentRows) -> list[float]:
    assert found.features is not None
    values: list[float] = found.features[:, 0].tolist()
    return values


def counting(count: int, every_us: int, **others: Any) -> list[Record]:
    """Records whose first feature is their number, their second that of the row; the last is just before ``NOW_US``."""
    records = []
    for number in range(count):
        record = a_record(NOW_US - (count - number) * every_us, **others)
        assert record.rows is not None
        rows = record.rows.copy()
        rows[:, 0], rows[:, 1] = number, np.arange(len(rows))
        record.feature_bytes = pack(rows)
        records.append(record)
    return records


def test_the_rows_of_the_last_hours_and_the_newest_rows(store: Store, reader: Reader) -> None:
    fill(store, counting(30, 600 * SECOND))
    fill(store, counting(5, 600 * SECOND, version="v2") + counting(5, 600 * SECOND, model="iris"))
    hour = windows.last_hours(reader, "housing", "v1", since_us=NOW_US - 3600 * SECOND, until_us=NOW_US)
    assert hour is not None
    assert first_values(hour) == [24, 25, 26, 27, 28, 29]
    assert (hour.total_rows, len(hour.outputs)) == (6, 6)
    assert hour.time_us.tolist() == sorted(hour.time_us)
    newest = windows.newest(reader, "housing", "v1", 4, until_us=NOW_US)
    assert newest is not None
    assert first_values(newest) == [26, 27, 28, 29]
    assert newest.since_us == hour.time_us[2]
    everything = windows.newest(reader, "housing", "v1", 1000, until_us=NOW_US)
    assert everything is not None
    assert first_values(everything) == list(range(30))


def test_of_a_batch_the_newest_rows_are_its_last(store: Store, reader: Reader) -> None:
    fill(store, counting(3, SECOND, rows=10))
    found = windows.newest(reader, "housing", "v1", 14, until_us=NOW_US)
    assert found is not None
    assert found.features is not None
    assert found.features[:, :2].tolist() == [[1, 6], [1, 7], [1, 8], [1, 9], *([2, row] for row in range(10))]


def test_without_predictions_there_is_nothing(store: Store, reader: Reader) -> None:
    assert windows.newest(reader, "housing", "v1", 10, until_us=NOW_US) is None
    assert windows.last_hours(reader, "housing", "v1", since_us=0, until_us=NOW_US) is None
    fill(store, counting(1, 3600 * SECOND))
    old = windows.last_hours(reader, "housing", "v1", since_us=NOW_US - SECOND, until_us=NOW_US)
    assert old is not None
    assert len(old.outputs) == 0
    earlier = windows.newest(reader, "housing", "v1", 10, until_us=NOW_US - 7200 * SECOND)
    assert earlier is not None
    assert len(earlier.outputs) == 0


def test_of_a_busy_window_each_part_gives_its_share(
    store: Store, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windows, "MAXIMUM_ROWS", 480)
    since = NOW_US - 48 * 10 * MINUTE_US
    # Three rows a minute in the first half, nine in the second.
    records = [
        a_record(since + minute * MINUTE_US + second * SECOND)
        for minute in range(480)
        for second in range(3 if minute < 240 else 9)
    ]
    # What was before the window counts for nothing.
    fill(store, [*records, *(a_record(since - second * SECOND) for second in range(1, 500))])
    found = windows.last_hours(reader, "housing", "v1", since_us=since, until_us=NOW_US)
    assert found is not None
    assert found.total_rows == 2880
    assert 420 <= len(found.outputs) <= 480
    early = np.mean(found.time_us < since + 240 * MINUTE_US)
    assert early == pytest.approx(0.25, abs=0.03)
    hours = np.histogram(found.time_us, bins=8, range=(since, NOW_US))[0]
    assert hours.min() > 0


def test_refused_requests_are_counted_beside_the_answered(store: Store, reader: Reader) -> None:
    minute = NOW_US // MINUTE_US - 1
    counts = [(400, 7), (429, 2), (500, 1)]
    errors = [ErrorCount(minute, "housing", "http", status, count) for status, count in counts]
    fill(store, counting(20, SECOND), [*errors, ErrorCount(minute, "iris", "http", 400, 50)])
    found = windows.last_hours(reader, "housing", "v1", since_us=NOW_US - 3600 * SECOND, until_us=NOW_US)
    assert found is not None
    assert (found.requests, found.refused) == (30, 7)


def test_without_features_there_are_outputs(store: Store, reader: Reader) -> None:
    fill(store, [a_record(NOW_US - SECOND, rows=3), a_record(NOW_US - SECOND)])
    without = a_record(NOW_US - SECOND)
    without.feature_bytes = None
    fill(store, [without])
    found = windows.newest(reader, "housing", "v1", 10, until_us=NOW_US)
    assert found is not None
    assert found.features is None
    assert found.outputs.shape == (5, 1)


def test_results_are_kept_and_the_newest_is_found(
    engine: Engine, store: Store, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drift, "KEPT_RESULTS", 3)
    fill(store, counting(5, SECOND) + counting(2, SECOND, model="iris"))
    assert drift.newest(engine) == []
    for model in ("housing", "iris"):
        window = windows.newest(reader, model, "v1", 10, until_us=NOW_US)
        assert window is not None
        for number in range(5):
            result = {"changes": [{"name": "prediction", "effect": number, "drift": True}]}
            drift.write(engine, window, "drift", json.dumps(result), time_us=NOW_US + number)
    housing, iris = drift.newest(engine)
    assert (housing.model, housing.version, housing.rows, housing.time_us) == ("housing", "v1", 5, NOW_US + 4)
    assert (iris.model, iris.rows, iris.verdict) == ("iris", 2, "drift")
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM drift").scalar() == 6

    drift.publish(engine)
    assert drift.EFFECT.labels("housing", "prediction")._value.get() == 4
    assert drift.DETECTED.labels("housing", "prediction")._value.get() == 1
    assert drift.DETECTED.labels("housing", "MedInc")._value.get() == 0
    assert drift.CHECKED.labels("iris")._value.get() == pytest.approx((NOW_US + 4) / 1e6)
