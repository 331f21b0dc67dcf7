from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx
import pytest
from sqlalchemy import Engine, delete, select, update

from ledger import database, feedback, jobs
from ledger.feedback import Truth
from ledger.jobs import State
from ledger.schema import ACTIONS, JOBS, WORKERS
from ledger.store import Store
from ledger.times import now_us
from serving.keys import Ring
from serving.models import LoadedModel
from tests.ledger.records import a_record
from tests.serving.locked import HASHES, KEYS, settings_with_keys
from tests.serving.worker import LocalWorker

MINUTE_US = 60_000_000
ADMIN = {"authorization": f"Bearer {KEYS[Ring.ADMIN]}"}
API = {"authorization": f"Bearer {KEYS[Ring.API]}"}
FORCED = {"model": "housing", "force": True}


class Service(NamedTuple):
    """A worker of the service, with keys and a ledger."""

    client: httpx.Client
    engine: Engine


@pytest.fixture(scope="module")
def running(loaded: dict[str, LoadedModel], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    given = {"LEDGER": "on", "STATE_DIR": tmp_path_factory.mktemp("state"), "RETRAIN_MINIMUM_ROWS": 5}
    settings = settings_with_keys(Ring.ADMIN, Ring.API).model_copy(update=given)
    engine = database.connect(settings.database_url)
    database.migrate(engine)
    worker = LocalWorker(loaded, settings)
    with worker.running(), httpx.Client(base_url=worker.url, headers=ADMIN, timeout=30) as client:
        yield Service(client, engine)
    engine.dispose()


@pytest.fixture
def service(running: Service) -> Service:
    """Without jobs and workers."""
    with database.transaction(running.engine) as connection:
        for table in (JOBS, WORKERS):
            connection.execute(delete(table))
    return running


def label(engine: Engine, rows: int) -> None:
    records = [a_record(now_us() - MINUTE_US) for _ in range(rows)]
    Store(engine).insert(f"segment {now_us()}", 1, records, [])
    feedback.give(engine, [Truth(record.id, 0, 2.5) for record in records])


def post(service: Service, body: Any, path: str = "/retrain") -> Any:
    answer = service.client.post(path, json=body)
    assert answer.is_success, answer.text
    return answer.json()


def test_a_job_is_taken_and_told_of_from_its_request_to_its_end(service: Service) -> None:
    answer = service.client.post("/retrain", json=FORCED)
    taken = answer.json()
    assert answer.status_code == 202
    assert taken["new"]
    assert taken["worker"].startswith("No worker has been seen")
    assert (taken["job"]["state"], taken["job"]["trigger"], taken["job"]["who"]) == (
        "queued", "person", HASHES[Ring.ADMIN][:16]
    )  # fmt: skip
    number = taken["job"]["id"]
    # It waits already.
    again = post(service, FORCED)
    assert (again["new"], again["job"]["id"]) == (False, number)
    jobs.see_worker(service.engine, "worker", now_us())
    mine = jobs.claim(service.engine, "worker")
    assert mine is not None
    assert jobs.renew(service.engine, mine, stage="train", progress=0.25, log="the end of the log")
    told = service.client.get(f"/retrain/status/{number}").json()
    assert (told["state"], told["stage"], told["progress"], told["log"], told["worker"]) == (
        "running", "train", 0.25, "the end of the log", "A worker is there."
    )  # fmt: skip
    assert jobs.finish(service.engine, mine, State.REFUSED, "It is worse.", {"rmse": 1}, stage="gate", log="")
    told = service.client.get(f"/retrain/status/{number}").json()
    assert (told["state"], told["reason"], told["result"]) == ("refused", "It is worse.", {"rmse": 1})
    assert told["created_at"] <= told["started_at"] <= told["finished_at"]
    listed = service.client.get("/retrain/jobs").json()["jobs"]
    assert [one["id"] for one in listed] == [number]
    assert service.client.get("/retrain/jobs", params={"model": "iris"}).json()["jobs"] == []


def test_a_worker_that_was_not_seen_for_a_while_is_said_to_be_away(service: Service) -> None:
    jobs.see_worker(service.engine, "worker", now_us())
    with database.transaction(service.engine) as connection:
        connection.execute(update(WORKERS).values(heartbeat_us=now_us() - 10 * MINUTE_US))
    assert "last seen 10 minutes ago" in service.client.get("/retrain/jobs").json()["worker"]


def test_without_new_labels_or_too_soon_it_is_refused_by_name(service: Service) -> None:
    refused = service.client.post("/retrain", json={"model": "iris"})
    assert refused.status_code == 409
    assert refused.json()["error"].startswith("model: iris has 0 labelled rows since its last retraining, and 5 are")
    assert refused.json()["detail"][0]["loc"] == ["model"]
    label(service.engine, 5)
    assert post(service, {"model": "housing"})["new"]
    mine = jobs.claim(service.engine, "worker")
    assert mine is not None
    assert jobs.finish(service.engine, mine, State.DONE, "It is better.", None, stage="end", log="")
    soon = service.client.post("/retrain", json={"model": "housing"})
    assert soon.status_code == 409
    assert 'wait 60 minutes, or send "force": true' in soon.json()["error"]


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/retrain", {}, "model"),
        ("/retrain", {"model": "wine"}, "model"),
        ("/retrain", {"model": "iris", "force": "yes"}, "force"),
        ("/retrain", {"model": "iris", "hours": 1}, "hours"),
        ("/retrain/alert", {}, "alerts"),
        ("/retrain/alert", {"alerts": [{"status": "firing"}]}, "alerts[0].labels"),
        ("/retrain/alert", {"alerts": [{"status": "firing", "labels": {}}] * 1001}, "alerts"),
    ],
)
def test_a_wrong_body_is_refused_by_field(service: Service, path: str, body: Any, field: str) -> None:
    refused = service.client.post(path, json=body)
    assert refused.status_code == 400
    assert refused.json()["error"].startswith(f"{field}: ")
    assert jobs.newest(service.engine) == []


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/retrain/status/7", 404, "id: there is no job 7"),
        ("/retrain/status/seven", 404, "id: 'seven' is no number of a job"),
        ("/retrain/status/", 404, "id: '' is no number of a job"),
        (f"/retrain/status/{2**70}", 404, "is no number of a job"),
        ("/retrain/jobs?limit=0", 400, "limit: "),
        ("/retrain/jobs?model=wine", 400, "model: "),
        ("/retrain", 405, "GET"),
    ],
)
def test_what_is_not_there_is_told(service: Service, path: str, status: int, said: str) -> None:
    refused = service.client.get(path)
    assert refused.status_code == status
    assert said in refused.json()["error"]


def test_alerts_retrain_the_models_they_name(service: Service) -> None:
    """A notification as Alertmanager sends it, with fields that do not matter here."""
    label(service.engine, 5)
    alerts = [
        {"status": "firing", "labels": {"alertname": "FeatureDrift", "model": "housing", "feature": "MedInc"}},
        {"status": "firing", "labels": {"alertname": "FeatureDrift", "model": "housing", "feature": "Latitude"}},
        {"status": "firing", "labels": {"alertname": "FeatureDrift", "model": "iris"}},
        {"status": "resolved", "labels": {"alertname": "LiveQuality", "model": "housing"}},
        {"status": "firing", "labels": {"alertname": "ReadinessLost"}},
    ]
    answer = post(service, {"version": "4", "status": "firing", "receiver": "loop", "alerts": alerts}, "/retrain/alert")
    (job,) = jobs.newest(service.engine)
    assert answer["jobs"] == [job.id]
    assert (job.model, job.trigger, job.who) == ("housing", jobs.Trigger.ALERT, "FeatureDrift")
    skipped = "\n".join(answer["skipped"])
    assert "alerts[2].labels.model: iris has 0 labelled rows" in skipped
    assert "alerts[3].status: LiveQuality is resolved" in skipped
    assert "alerts[4].labels.model: ReadinessLost names no model" in skipped


def test_only_an_admin_key_asks_for_retraining_and_its_use_is_on_record(service: Service) -> None:
    for path in ("/retrain", "/retrain/alert"):
        assert service.client.post(path, json=FORCED, headers=API).status_code == 403
    assert jobs.newest(service.engine) == []
    assert service.client.get("/retrain/jobs", headers=API).status_code == 200
    post(service, FORCED)
    with service.engine.connect() as connection:
        routes = connection.scalars(select(ACTIONS.c.route)).all()
    assert "/retrain" in routes


def test_answers_fit_the_document(service: Service) -> None:
    from jsonschema import Draft202012Validator

    number = post(service, FORCED)["job"]["id"]
    document = service.client.get("/docs.json").json()
    for path, address in (("/retrain/jobs", "/retrain/jobs"), ("/retrain/status/{id}", f"/retrain/status/{number}")):
        content = document["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        answer = service.client.get(address).json()
        Draft202012Validator({**content, "components": document["components"]}).validate(answer)
