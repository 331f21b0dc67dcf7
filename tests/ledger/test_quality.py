import time
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    log_loss,
    mean_absolute_error,
    r2_score,
    recall_score,
    root_mean_squared_error,
)
from sqlalchemy import Engine, event, update

from contract.table import FloatMatrix
from ledger import database, feedback, quality, upkeep
from ledger.feedback import Truth
from ledger.quality import Quality, Window
from ledger.schema import QUALITY
from ledger.store import Store
from ledger.times import now_us
from ledger.upkeep import LABELLED_ROWS, LIVE_METRIC, LIVE_RECALL, Upkeep
from tests.ledger.records import a_record

HOUR = 3600 * 1_000_000
CLASSES = ("setosa", "versicolor", "virginica")
DRAWS = np.random.default_rng(0)


def label(engine: Engine, store: Store, age_us: int, outputs: FloatMatrix, actuals: FloatMatrix, **record: Any) -> None:
    """Store a prediction of some time ago, and what came true."""
    made = a_record(now_us() - age_us, outputs=outputs, **record)
    store.insert(f"segment-{made.id}", 1, [made], [])
    answer = feedback.give(engine, [Truth(made.id, row, float(actual)) for row, actual in enumerate(actuals)])
    assert not answer.problems


def live(engine: Engine, minimum_rows: int = 1) -> dict[tuple[str, str], Quality]:
    return {(one.model, one.version): one for one in quality.read(engine, minimum_rows)}


def outdate(engine: Engine, seconds: float) -> None:
    """Pretend that everything was computed some time ago."""
    with database.transaction(engine) as connection:
        connection.execute(update(QUALITY).values(computed_us=QUALITY.c.computed_us - int(seconds * 1_000_000)))


def test_regression_in_every_window(engine: Engine, store: Store) -> None:
    ages = {"1h": HOUR // 2, "24h": 5 * HOUR, "7d": 48 * HOUR, "older": 8 * 24 * HOUR}
    actuals = {name: DRAWS.uniform(0, 5, (40, 1)) for name in ages}
    outputs = {name: actual + DRAWS.normal(0, 0.3, (40, 1)) for name, actual in actuals.items()}
    for name, age in ages.items():
        label(engine, store, age, outputs[name], actuals[name][:, 0])
    assert quality.refresh(engine) == 1
    windows = live(engine)["housing", "v1"].windows
    assert list(windows) == ["1h", "24h", "7d"]
    for number, name in enumerate(windows, start=1):
        inside = list(ages)[:number]
        truth = np.concatenate([actuals[one] for one in inside])
        predicted = np.concatenate([outputs[one] for one in inside])
        assert windows[name].rows == 40 * number
        assert windows[name].metrics == pytest.approx(
            {
                "rmse": root_mean_squared_error(truth, predicted),
                "mae": mean_absolute_error(truth, predicted),
                "r2": r2_score(truth, predicted),
            }
        )
        assert now_us() - windows[name].newest_us == pytest.approx(HOUR // 2, abs=60_000_000)


def test_classification_with_recall_by_class(engine: Engine, store: Store) -> None:
    outputs = DRAWS.dirichlet([1, 1, 1], 60)
    # One class occurs in the first rows alone, and one probability is 0.
    outputs[0] = [0, 0.5, 0.5]
    actuals = np.array([0] * 5 + [1, 2] * 27 + [2])
    label(engine, store, HOUR // 2, outputs[:30], actuals[:30], model="iris")
    label(engine, store, 2 * HOUR, outputs[30:], actuals[30:], model="iris")
    quality.refresh(engine)
    windows = live(engine)["iris", "v1"].windows
    for name, rows in (("1h", 30), ("24h", 60), ("7d", 60)):
        truth, given = actuals[:rows], outputs[:rows]
        likeliest = given.argmax(axis=1)
        recall = recall_score(truth, likeliest, average=None)
        assert windows[name].metrics == pytest.approx(
            {
                "accuracy": accuracy_score(truth, likeliest),
                "balanced_accuracy": balanced_accuracy_score(truth, likeliest),
                "log_loss": log_loss(truth, np.clip(given, 1e-15, 1)),
            },
            rel=1e-6,
        )
        assert windows[name].recall == pytest.approx(dict(zip(CLASSES, recall, strict=True)))
        assert windows[name].class_rows == dict(zip(CLASSES, np.bincount(truth).tolist(), strict=True))


def test_a_class_that_did_not_occur_has_no_recall(engine: Engine, store: Store) -> None:
    label(engine, store, 0, DRAWS.dirichlet([1, 1, 1], 10), np.array([0, 1] * 5), model="iris")
    quality.refresh(engine)
    assert set(live(engine)["iris", "v1"].windows["1h"].recall) == {"setosa", "versicolor"}


def test_r2_of_large_values_keeps_its_digits_and_equal_truths_have_none(engine: Engine, store: Store) -> None:
    # Sums of squares around 0 would lose all but three digits of the spread.
    actual = 19.0 + DRAWS.uniform(0, 1e-6, (50, 1))
    output = actual + DRAWS.normal(0, 1e-7, (50, 1))
    label(engine, store, 0, output, actual[:, 0])
    label(engine, store, 0, DRAWS.uniform(0, 5, (50, 1)), np.full(50, 3.0), version="v2")
    quality.refresh(engine)
    assert live(engine)["housing", "v1"].windows["1h"].metrics["r2"] == pytest.approx(
        r2_score(actual, output), rel=1e-4
    )
    assert set(live(engine)["housing", "v2"].windows["1h"].metrics) == {"rmse", "mae"}


def test_versions_are_apart(engine: Engine, store: Store) -> None:
    for version, error in (("v1", 0.5), ("v2", 0.25)):
        label(engine, store, 0, np.full((30, 1), 2 + error), np.full(30, 2.0), version=version)
    quality.refresh(engine)
    found = {version: one.windows["1h"].metrics["rmse"] for (_, version), one in live(engine).items()}
    assert found == pytest.approx({"v1": 0.5, "v2": 0.25})


def test_nothing_is_shown_below_the_minimum(engine: Engine, store: Store) -> None:
    label(engine, store, 0, DRAWS.dirichlet([1, 1, 1], 29), np.zeros(29), model="iris")
    label(engine, store, 2 * HOUR, DRAWS.dirichlet([1, 1, 1], 1), np.zeros(1), model="iris")
    quality.refresh(engine)
    windows = live(engine, 30)["iris", "v1"].windows
    assert (windows["1h"].rows, windows["1h"].metrics, windows["1h"].recall) == (29, {}, {})
    assert windows["24h"].rows == 30
    assert windows["24h"].metrics


def test_it_is_computed_when_feedback_came_and_when_it_is_old(engine: Engine, store: Store) -> None:
    label(engine, store, 0, np.full((30, 1), 2.0), np.full(30, 2.5))
    label(engine, store, 0, np.full((30, 1), 2.0), np.full(30, 2.5), version="v2")
    assert quality.refresh(engine) == 2
    # Just computed: not again, although feedback came.
    label(engine, store, 0, np.full((30, 1), 2.0), np.full(30, 3.0))
    assert quality.refresh(engine) == 0
    outdate(engine, 2 * quality.REFRESH_SECONDS)
    assert quality.refresh(engine) == 2
    assert live(engine)["housing", "v1"].windows["1h"].rows == 60
    # Without new feedback, rows leave the windows all the same.
    with database.transaction(engine) as connection:
        connection.execute(update(QUALITY).values(feedback_us=0))
    outdate(engine, 2 * quality.REFRESH_SECONDS)
    assert quality.refresh(engine) == 0
    outdate(engine, quality.STALE_SECONDS)
    assert quality.refresh(engine) == 2


def test_a_correction_counts(engine: Engine, store: Store) -> None:
    made = a_record(now_us(), outputs=np.full((30, 1), 2.0))
    store.insert("segment", 1, [made], [])
    for actual in (4.0, 3.0):
        feedback.give(engine, [Truth(made.id, row, actual) for row in range(30)])
        outdate(engine, 2 * quality.REFRESH_SECONDS)
        quality.refresh(engine)
        assert live(engine)["housing", "v1"].windows["1h"].metrics["rmse"] == pytest.approx(actual - 2)


def value(gauge: object, **labels: str) -> float | None:
    """A sample of a gauge; None where it was withdrawn or never was."""
    registry = CollectorRegistry()
    registry.register(gauge)  # type: ignore[arg-type]  # every metric is a collector
    found = registry.get_sample_value(gauge._name, labels)  # type: ignore[attr-defined]  # of prometheus_client
    return None if found is None or np.isnan(found) else found


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_drainer_shows_it_as_metrics_and_takes_it_back(engine: Engine, store: Store) -> None:
    upkeep = Upkeep(engine, minimum_rows=30)
    record = a_record(now_us(), outputs=DRAWS.dirichlet([1, 1, 1], 30), model="iris", version="shown")
    # It waits for its prediction first.
    feedback.give(engine, [Truth(record.id, row, "setosa") for row in range(30)])
    store.insert("segment", 1, [record], [])
    upkeep.begin()
    where = {"model": "iris", "version": "shown", "window": "1h"}
    deadline = time.monotonic() + 30
    while value(LABELLED_ROWS, **where) is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    share = float((record.outputs.argmax(axis=1) == 0).mean())
    upkeep.round()
    assert value(LABELLED_ROWS, **where) == 30
    assert value(LIVE_METRIC, **where, metric="accuracy") == pytest.approx(share)
    assert value(LIVE_RECALL, **where, label="setosa") == pytest.approx(share)
    with database.transaction(engine) as connection:
        connection.execute(update(QUALITY).values(summary="{}"))
    upkeep.round()
    assert value(LABELLED_ROWS, **where) is None
    assert value(LIVE_METRIC, **where, metric="accuracy") is None


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_it_is_computed_from_the_index_alone(engine: Engine, store: Store) -> None:
    label(engine, store, 0, np.full((30, 1), 2.0), np.full(30, 2.5))
    label(engine, store, 0, DRAWS.dirichlet([1, 1, 1], 30), np.zeros(30), model="iris")
    asked: list[tuple[str, Any]] = []

    def note(_connection: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        if "FROM feedback" in statement:
            asked.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", note)
    quality.refresh(engine)
    event.remove(engine, "before_cursor_execute", note)
    # Each window's part once, for both models; and the first value of the regression.
    assert len(asked) == 2 * len(quality.WINDOWS) + 1
    with engine.connect() as connection:
        for statement, parameters in asked:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
            assert "USING COVERING INDEX feedback_by_model (model_id=? AND predicted_us>?" in plan[0].detail


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_drainer_that_computed_for_long_rests(engine: Engine, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    # The second time each: not at all after a long rest, and all of it after none.
    for share, computed in ((1e-9, 15), (1e9, 60)):
        monkeypatch.setattr(upkeep, "MAXIMUM_SHARE", share)
        drainer = Upkeep(engine, minimum_rows=1)
        for _ in range(2):
            label(engine, store, 0, np.full((15, 1), 2.0), np.full(15, 2.5))
            drainer.round()
            outdate(engine, 2 * quality.REFRESH_SECONDS)
        assert live(engine)["housing", "v1"].windows["1h"].rows == computed


def test_a_window_that_is_stored_is_read_back(engine: Engine, store: Store) -> None:
    label(engine, store, 0, np.full((2, 1), 2.5), np.array([2.0, 3.0]))
    quality.refresh(engine)
    window = live(engine)["housing", "v1"].windows["1h"]
    assert window == Window(2, window.newest_us, {"rmse": 0.5, "mae": 0.5, "r2": 0.0}, {}, {})
