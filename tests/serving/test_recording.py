"""What a worker hands to the ledger."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
from sqlalchemy import Row, select

from contract.datasets.housing import HOUSING
from contract.datasets.iris import IRIS
from ledger import database
from ledger.schema import ERRORS, MODELS, PREDICTIONS
from ledger.values import unpack
from serving.prediction import new_id
from serving.recording import Recorder, time_us
from serving.settings import Settings
from serving.telemetry import bulk
from tests.serving.worker import LocalWorker


@contextmanager
def recording(worker: LocalWorker, state: Path, **settings: str) -> Iterator[Settings]:
    """Record what a worker predicts; all of it is in the database after the block."""
    made = Settings.from_environment({"STATE_DIR": str(state), "LEDGER": "on", **settings})
    recorder = Recorder(made)

    async def start() -> None:
        recorder.start(worker.bundle.observers)

    async def flush() -> None:
        bulk.flush()
        worker.bundle.observers.remove(recorder)

    worker.call(start())
    yield made
    worker.call(flush())
    recorder.stop()


def recorded(settings: Settings) -> list[Row[tuple[object, ...]]]:
    engine = database.connect(settings.database_url)
    with engine.connect() as connection:
        found = connection.execute(
            select(PREDICTIONS, MODELS.c.model, MODELS.c.version)
            .join_from(PREDICTIONS, MODELS, PREDICTIONS.c.model_id == MODELS.c.id)
            .order_by(PREDICTIONS.c.id)
        ).all()
    engine.dispose()
    return list(found)


def test_each_answer_is_recorded_as_it_was_given(worker: LocalWorker, tmp_path: Path) -> None:
    rows = [HOUSING.example, {**HOUSING.example, "MedInc": 1 / 3}]
    before = time.time_ns() // 1000
    with recording(worker, tmp_path / "state") as settings, httpx.Client(base_url=worker.url) as client:
        single = client.post("/predict/iris", json=IRIS.example, headers={"X-Request-ID": "mine"}).json()
        batch = client.post("/predict/housing/batch", json={"rows": rows})
        tensor = {"name": "input", "shape": [1, 4], "datatype": "FP64", "data": [5.0, 3.0, 1.5, 0.25]}
        v2 = client.post("/v2/models/iris/infer", json={"inputs": [tensor]}).json()
        for body in ({}, {"sepal_length": "long"}):
            assert client.post("/predict/iris", json=body).status_code == 400
    first, second, third = recorded(settings)
    assert [one.id.replace("-", "") for one in (first, second, third)] == [
        single["prediction_id"],
        batch.json()["prediction_id"],
        v2["parameters"]["prediction_id"],
    ]
    assert (first.model, first.version) == ("iris", single["model"]["version"])
    assert (first.request_id, first.protocol, first.rows) == ("mine", "http", 1)
    assert unpack(first.features, 4).tolist() == [[IRIS.example[name] for name in IRIS.feature_names]]
    assert unpack(first.outputs, 3).tolist() == [list(single["probabilities"].values())]
    assert (second.request_id, second.protocol, second.rows) == (batch.headers["X-Request-ID"], "http", 2)
    assert np.array_equal(unpack(second.features, 8), [[row[name] for name in HOUSING.feature_names] for row in rows])
    assert unpack(second.outputs, 1)[:, 0].tolist() == [one["prediction"] for one in batch.json()["predictions"]]
    assert third.protocol == "v2"
    for one in (first, second, third):
        assert before <= one.time_us <= time.time_ns() // 1000
        assert 0 < one.milliseconds < 10_000
    engine = database.connect(settings.database_url)
    with engine.connect() as connection:
        columns = (ERRORS.c.model, ERRORS.c.protocol, ERRORS.c.status, ERRORS.c.requests)
        assert connection.execute(select(*columns)).all() == [("iris", "http", 400, 2)]
    engine.dispose()


def test_features_are_left_out_where_they_may_not_be_kept(worker: LocalWorker, tmp_path: Path) -> None:
    with recording(worker, tmp_path / "state", LEDGER_FEATURES="off") as settings:
        httpx.post(f"{worker.url}/predict/iris", json=IRIS.example).raise_for_status()
    (one,) = recorded(settings)
    assert one.features is None
    assert len(unpack(one.outputs, 3)) == 1


def test_the_time_of_an_answer_is_in_its_id() -> None:
    for _ in range(100):
        before = time.time_ns() // 1000
        found = time_us(new_id())
        assert before - 1 <= found <= time.time_ns() // 1000
