"""``POST /feedback``, and live quality in ``/models/info``."""

import gzip
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from ledger import database, feedback, quality
from ledger.record import Record
from ledger.times import now_us
from local_service import free_port
from serving.models import LoadedModel
from serving.settings import Settings
from tests.ledger.records import a_record, prediction_id
from tests.serving.http.conftest import Recorded
from tests.serving.series import scrape
from tests.serving.worker import LocalWorker
from tests.waiting import wait_until


def stored(recorded: Recorded, record: Record) -> str:
    recorded.store.insert(f"segment-{record.id}", 1, [record], [])
    return record.id


@pytest.fixture
def house(recorded: Recorded) -> str:
    """The id of a prediction of two houses."""
    return stored(recorded, a_record(now_us(), outputs=np.array([[2.5], [1.5]])))


@pytest.fixture
def flower(recorded: Recorded) -> str:
    return stored(recorded, a_record(now_us(), model="iris"))


NOTHING = {"taken": 0, "replaced": 0, "unchanged": 0, "waiting": 0, "refused": 0, "unknown": [], "detail": []}


def test_one_entry_or_a_list(recorded: Recorded, house: str, flower: str) -> None:
    post = recorded.client.post
    assert post("/feedback", json={"prediction_id": house, "actual": 3}).json() == {**NOTHING, "taken": 1}
    several: list[dict[str, Any]] = [
        {"prediction_id": house, "actual": 3.0},
        {"prediction_id": house, "row": 1, "actual": 2},
        {"prediction_id": flower, "actual": "virginica"},
    ]
    answer = post("/feedback", json=several)
    assert (answer.status_code, answer.json()) == (200, {**NOTHING, "taken": 2, "unchanged": 1})
    assert post("/feedback", json=several[2] | {"actual": 0}).json() == {**NOTHING, "replaced": 1}


def test_it_may_be_compressed(recorded: Recorded, house: str) -> None:
    body = gzip.compress(json.dumps([{"prediction_id": house, "actual": 1.0}]).encode())
    assert recorded.client.post("/feedback", content=body, headers={"content-encoding": "gzip"}).json()["taken"] == 1


def test_unknown_ids_are_named_and_wait(recorded: Recorded, house: str) -> None:
    record = a_record(now_us(), rows=2)
    entries = [{"prediction_id": record.id, "row": row, "actual": 1.0} for row in (0, 1)]
    answer = recorded.client.post("/feedback", json=[*entries, {"prediction_id": house, "actual": 1.0}]).json()
    assert answer == {**NOTHING, "taken": 1, "waiting": 2, "unknown": [record.id]}
    stored(recorded, record)
    assert feedback.apply_waiting(recorded.engine).applied == 2
    assert recorded.client.post("/feedback", json=entries).json() == {**NOTHING, "unchanged": 2}


def test_a_refused_entry_is_named_and_the_others_are_taken(recorded: Recorded, house: str, flower: str) -> None:
    entries = [
        {"prediction_id": house, "actual": 1.0},
        {"prediction_id": house, "row": 2, "actual": 1.0},
        {"prediction_id": flower, "actual": "rose"},
        {"prediction_id": house, "row": 1, "actual": 21},
    ]
    answer = recorded.client.post("/feedback", json=entries)
    assert answer.status_code == 200
    detail = answer.json().pop("detail")
    assert answer.json() == {**NOTHING, "taken": 1, "refused": 3, "detail": detail}
    assert [one["loc"] for one in detail] == [[1, "row"], [2, "actual"], [3, "actual"]]
    assert [one["msg"] for one in detail] == [
        f"[1].row: the prediction {house} has 2 rows, and no row 2",
        "[2].actual: 'rose' is neither a class (setosa, versicolor, virginica) nor an index from 0 to 2",
        "[3].actual: 21.0 is outside the range of MedHouseVal, 0 to 20 100k USD",
    ]


def test_nothing_that_could_be_taken_is_an_error(recorded: Recorded, flower: str) -> None:
    wrong = {"prediction_id": flower, "actual": 7}
    answer = recorded.client.post("/feedback", json=wrong)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("actual: 7.0 is neither a class")
    assert answer.json()["detail"][0]["loc"] == ["actual"]
    answer = recorded.client.post("/feedback", json=[wrong] * 200)
    assert answer.status_code == 400
    assert answer.json()["error"].endswith(" (and 199 more)")
    assert len(answer.json()["detail"]) == 100


ID = "0" * 32


@pytest.mark.parametrize(
    ("body", "loc", "says"),
    [
        ({}, ["prediction_id"], "prediction_id: the field is missing"),
        ({"prediction_id": ID}, ["actual"], "actual: the field is missing"),
        ({"prediction_id": "7", "actual": 1}, ["prediction_id"], "32 hexadecimal digits, not '7'"),
        ({"prediction_id": 7, "actual": 1}, ["prediction_id"], "should be a valid string"),
        ({"prediction_id": ID, "actual": True}, ["actual"], "a finite number, or the name of a class, not true"),
        ({"prediction_id": ID, "actual": None}, ["actual"], "the value is missing (null)"),
        ({"prediction_id": ID, "actual": [1]}, ["actual"], "a finite number, or the name of a class"),
        ({"prediction_id": ID, "actual": "x" * 201}, ["actual"], "a finite number, or the name of a class"),
        ({"prediction_id": ID, "actual": 1, "row": -1}, ["row"], "greater than or equal to 0, not -1"),
        ({"prediction_id": ID, "actual": 1, "row": 2**31}, ["row"], "less than or equal to 2147483647"),
        ({"prediction_id": ID, "actual": 1, "row": "1"}, ["row"], "should be a valid integer"),
        ({"prediction_id": ID, "actual": 1, "rows": 1}, ["rows"], "rows: unknown field"),
        (
            [{"prediction_id": ID, "actual": 1}, {"prediction_id": ID}],
            [1, "actual"],
            "[1].actual: the field is missing",
        ),
        ([], [], "at least 1 item"),
        ([{"prediction_id": ID, "actual": 1}] * 10_001, [], "at most 10000 items"),
        (7, [], "body: "),
    ],
)
def test_a_malformed_body_is_refused_and_names_entry_and_field(
    recorded: Recorded, body: Any, loc: list[Any], says: str
) -> None:
    answer = recorded.client.post("/feedback", json=body)
    assert answer.status_code == 400
    assert says in answer.json()["error"]
    assert answer.json()["detail"][0]["loc"] == loc


@pytest.mark.parametrize("body", [b"", b"{", b"[", b'{"prediction_id": "%s", "actual": NaN}' % ID.encode(), b"\xff"])
def test_what_is_not_json_is_refused(recorded: Recorded, body: bytes) -> None:
    answer = recorded.client.post("/feedback", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]


def test_other_methods_and_types_are_refused(recorded: Recorded) -> None:
    assert recorded.client.get("/feedback").headers["allow"] == "POST"
    refused = recorded.client.post("/feedback", content="a,b", headers={"content-type": "text/csv"})
    assert refused.status_code == 415


def test_ten_thousand_entries_are_one_request(recorded: Recorded) -> None:
    record = a_record(now_us(), rows=10_000)
    stored(recorded, record)
    entries = [{"prediction_id": record.id, "row": row, "actual": 1.0} for row in range(10_000)]
    assert recorded.client.post("/feedback", json=entries).json() == {**NOTHING, "taken": 10_000}


def test_outcomes_are_counted(recorded: Recorded, house: str) -> None:
    before = scrape(recorded.client)
    unknown = prediction_id(now_us())
    entries = [(house, 1.0), (house, 1.0), (house, 2.0), (house, -1), (unknown, 1.0)]
    recorded.client.post("/feedback", json=[{"prediction_id": one, "actual": actual} for one, actual in entries])
    grown = scrape(recorded.client).since(before)
    assert grown.of("ml_ledger_feedback_total", "outcome") == dict.fromkeys(feedback.Outcome, 1)


def live(client: httpx.Client, model: str) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/models/info").raise_for_status().json()["models"][model]["live_quality"]
    return found


def test_live_quality_is_in_models_info(
    recorded: Recorded, loaded: dict[str, LoadedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.ledger_database.QUALITY_SECONDS", 0)
    assert live(recorded.client, "iris") == {
        "absent": "No feedback on predictions of the last 7 days; POST /feedback takes it."
    }
    version = loaded["iris"].version
    outputs = np.array([[0.8, 0.1, 0.1]] * 30)
    record = a_record(now_us(), model="iris", version=version, outputs=outputs)
    stored(recorded, record)
    for rows, shown in ((range(29), False), (range(29, 30), True)):
        entries = [{"prediction_id": record.id, "row": row, "actual": int(row < 3)} for row in rows]
        recorded.client.post("/feedback", json=entries).raise_for_status()
        monkeypatch.setattr(quality, "REFRESH_SECONDS", 0)
        quality.refresh(recorded.engine)
        window = live(recorded.client, "iris")["windows"]["1h"]
        assert window["labelled_rows"] == rows.stop
        assert 0 <= window["newest_age_seconds"] < 60
        assert ("metrics" in window) == shown
        assert ("absent" in window) == (not shown)
    assert window["metrics"] == {
        "accuracy": 0.9,
        "balanced_accuracy": 0.5,
        "log_loss": pytest.approx(-(27 * np.log(0.8) + 3 * np.log(0.1)) / 30, abs=1e-6),
    }
    assert window["recall"] == {"setosa": 1.0, "versicolor": 0.0}
    assert window["labelled_rows_by_class"] == {"setosa": 27, "versicolor": 3}


@pytest.fixture(params=["off", "no tables", "away"])
def without(
    request: pytest.FixtureRequest,
    loaded: dict[str, LoadedModel],
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[tuple[str, httpx.Client]]:
    """A client of a worker whose ledger cannot be used, and why."""
    monkeypatch.setattr("serving.ledger_database.TABLES_SECONDS", 0.2)
    away: dict[str, Any] = {
        "off": {"LEDGER": "off"},
        "no tables": {},
        "away": {"DATABASE_URL": f"postgresql://ledger@127.0.0.1:{free_port()}/ledger"},
    }
    state = tmp_path_factory.mktemp("state")
    settings = Settings(
        API_HOST="127.0.0.1", API_PORT=free_port(), GRPC_PORT=free_port(), STATE_DIR=state, **away[request.param]
    )
    worker = LocalWorker(loaded, settings)
    with worker.running(), httpx.Client(base_url=worker.url, timeout=30) as client:
        yield request.param, client


def test_without_its_database_everything_else_goes_on(without: tuple[str, httpx.Client]) -> None:
    reason, client = without
    status, says = {
        "off": (404, "LEDGER=off"),
        "no tables": (503, "tables are not there"),
        "away": (503, "does not answer"),
    }[reason]
    answer = client.post("/feedback", json={"prediction_id": ID, "actual": 1.0})
    for asked in (answer, client.get("/logs/recent"), client.get("/logs/stats")):
        assert asked.status_code == status
        assert says in asked.json()["error"]
        assert ("retry-after" in asked.headers) == (status == 503)
    page = client.get("/logs")
    assert page.status_code == status
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert says in page.text
    assert live(client, "iris") == {"absent": answer.json()["error"]}
    assert client.get("/health").status_code == 200


def test_calls_of_a_new_service_wait_for_the_tables(loaded: dict[str, LoadedModel], tmp_path: Path) -> None:
    settings = Settings(API_HOST="127.0.0.1", API_PORT=free_port(), GRPC_PORT=free_port(), STATE_DIR=tmp_path)
    worker = LocalWorker(loaded, settings)
    with worker.running(), httpx.Client(base_url=worker.url, timeout=30) as client, ThreadPoolExecutor() as threads:
        read = [threads.submit(client.get, path) for path in ("/logs/recent", "/logs/stats", "/logs", "/retrain/jobs")]
        sent = threads.submit(client.post, "/feedback", json={"prediction_id": prediction_id(now_us()), "actual": 1.0})
        # The first call that looks for the tables makes the file.
        wait_until((tmp_path / "ledger.db").exists, "a call has looked")
        engine = database.connect(settings.database_url)
        database.migrate(engine)
        engine.dispose()
        assert [call.result().status_code for call in read] == [200] * len(read)
        assert sent.result().json()["waiting"] == 1
