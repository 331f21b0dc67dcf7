import math
import time

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import Engine, update
from sqlalchemy.exc import IntegrityError

from contract.errors import BundleError
from ledger import database, feedback, job_metrics, jobs
from ledger.feedback import Truth
from ledger.jobs import Limits, State, Trigger
from ledger.schema import JOBS
from ledger.store import Store
from ledger.times import now_us
from tests.ledger.processes import pool
from tests.ledger.records import a_record

SECOND = 1_000_000


def ask(engine: Engine, model: str = "housing", limits: Limits | None = None) -> jobs.Job:
    return jobs.request(engine, model, Trigger.PERSON, "somebody", limits)[0]


def label(engine: Engine, rows: int) -> None:
    """As many rows of Housing, and what came true."""
    store = Store(engine)
    records = [a_record(now_us() - SECOND) for _ in range(rows)]
    store.insert(f"segment {now_us()}", 1, records, [])
    feedback.give(engine, [Truth(record.id, 0, 2.5) for record in records])


def age(engine: Engine, job: jobs.Job, **columns: int) -> None:
    with database.transaction(engine) as connection:
        connection.execute(update(JOBS).where(JOBS.c.id == job.id).values(columns))


def test_a_job_from_its_request_to_its_end(engine: Engine) -> None:
    asked, new = jobs.request(engine, "housing", Trigger.DRIFT, "x" * 100, None)
    assert (asked.model, asked.trigger, asked.state, asked.who, new) == (
        "housing", Trigger.DRIFT, State.QUEUED, "x" * 64, True
    )  # fmt: skip
    mine = jobs.claim(engine, "worker")
    assert mine is not None
    assert (mine.id, mine.state, mine.attempts) == (asked.id, State.RUNNING, 1)
    assert jobs.renew(engine, mine, stage="trains", progress=0.5, log="a" * 9000 + "end")
    now = jobs.find(engine, mine.id)
    assert now is not None
    assert (now.stage, now.progress, now.log[-4:]) == ("trains", 0.5, "aend")
    assert len(now.log) == jobs.MOST_LOG_CHARACTERS
    assert jobs.finish(engine, mine, State.REFUSED, "It is worse.", {"rmse": 0.5}, stage="gate", log="the end")
    (ended,) = jobs.newest(engine)
    assert (ended.state, ended.reason, ended.result, ended.owner) == (
        State.REFUSED, "It is worse.", {"rmse": 0.5}, None
    )  # fmt: skip
    assert ended.started_us is not None
    assert ended.finished_us is not None
    assert ended.created_us <= ended.started_us <= ended.finished_us
    assert jobs.claim(engine, "worker") is None


def test_jobs_run_one_after_the_other_and_a_model_waits_once(engine: Engine) -> None:
    first = ask(engine)
    assert jobs.request(engine, "housing", Trigger.SCHEDULE, "clock", None) == (first, False)
    second = ask(engine, "iris")
    mine = jobs.claim(engine, "one")
    assert mine is not None
    assert mine.id == first.id
    assert jobs.claim(engine, "two") is None
    assert ask(engine).id == first.id
    assert jobs.finish(engine, mine, State.DONE, "It is better.", None, stage="end", log="")
    other = jobs.claim(engine, "two")
    assert other is not None
    assert other.id == second.id


def test_the_database_itself_has_one_running_job_at_most(engine: Engine) -> None:
    for model in ("housing", "iris"):
        ask(engine, model)
    with pytest.raises(IntegrityError), database.transaction(engine) as connection:
        connection.execute(update(JOBS).values(state=State.RUNNING))


def test_a_lost_job_is_taken_up_again_once(engine: Engine) -> None:
    ask(engine)
    first = jobs.claim(engine, "one")
    assert first is not None
    age(engine, first, heartbeat_us=now_us() - 61 * SECOND)
    second = jobs.claim(engine, "two")
    assert second is not None
    assert (second.id, second.attempts) == (first.id, 2)
    # Whoever was only slow finds that the job is not his any more.
    assert not jobs.renew(engine, first, stage="trains", progress=0.9, log="")
    assert not jobs.finish(engine, first, State.DONE, "", None, stage="", log="")
    assert not jobs.give_back(engine, first, log="")
    age(engine, second, heartbeat_us=now_us() - 61 * SECOND)
    assert jobs.claim(engine, "three") is None
    lost = jobs.find(engine, first.id)
    assert lost is not None
    assert lost.state is State.FAILED
    assert "lost 2 times" in str(lost.reason)


def test_a_job_of_a_stopped_worker_waits_as_if_it_was_not_taken(engine: Engine) -> None:
    ask(engine)
    for _ in range(3):
        mine = jobs.claim(engine, "one")
        assert mine is not None
        assert mine.attempts == 1
        assert jobs.give_back(engine, mine, log="stopped")


def test_too_soon_and_with_too_little_to_learn_from(engine: Engine) -> None:
    limits = Limits(cooldown_seconds=600, minimum_rows=5)
    label(engine, 3)
    with pytest.raises(BundleError, match=r"^model: housing has 3 labelled rows .* 5 are needed") as refused:
        ask(engine, limits=limits)
    assert (refused.value.status, refused.value.detail[0].loc) == (409, ("model",))
    label(engine, 2)
    job = ask(engine, limits=limits)
    mine = jobs.claim(engine, "one")
    assert mine is not None
    assert jobs.finish(engine, mine, State.DONE, "It is better.", None, stage="end", log="")
    with pytest.raises(BundleError, match="last retrained 1 minutes ago; wait 10 minutes"):
        ask(engine, limits=limits)
    # Rows that it has learned from are not new.
    age(engine, job, created_us=now_us() - 300 * SECOND)
    quick = Limits(cooldown_seconds=60, minimum_rows=6)
    with pytest.raises(BundleError, match="has 5 labelled rows"):
        ask(engine, limits=quick)
    assert ask(engine, limits=Limits(60, 5)).id != job.id
    # Nobody who insists is refused, and the other model has its own limits.
    assert ask(engine, "iris").state is State.QUEUED


def claim_and_run(url: str) -> int:
    """Take jobs until there are none; the number of those that this process has run."""
    engine = database.connect(url)
    ran = 0
    while any(job.state in (State.QUEUED, State.RUNNING) for job in jobs.newest(engine)):
        mine = jobs.claim(engine, "worker")
        if mine is None:
            time.sleep(0.002)
            continue
        running = [job.id for job in jobs.newest(engine) if job.state is State.RUNNING]
        assert running == [mine.id]
        assert jobs.renew(engine, mine, stage="runs", progress=0.5, log="")
        assert jobs.finish(engine, mine, State.DONE, "", None, stage="", log="")
        ran += 1
    engine.dispose()
    return ran


def test_many_workers_never_run_two_at_once(engine: Engine, database_url: str) -> None:
    for number in range(20):
        ask(engine, f"model {number}")
    with pool(4) as workers:
        assert sum(workers.map(claim_and_run, [database_url] * 4, chunksize=1)) == 20
    assert {job.attempts for job in jobs.newest(engine)} == {1}


def test_workers_that_are_there(engine: Engine) -> None:
    assert jobs.worker_seen_us(engine) is None
    before = now_us()
    for _ in range(2):
        jobs.see_worker(engine, "one", before)
    assert jobs.worker_seen_us(engine) == pytest.approx(now_us(), abs=10 * SECOND)
    jobs.forget_worker(engine, "one")
    assert jobs.worker_seen_us(engine) is None


def published(name: str, **labels: str) -> float | None:
    """A metric as a scrape shows it: None where it is left out."""
    value = REGISTRY.get_sample_value(f"ml_retraining_{name}", labels)
    return None if value is None or math.isnan(value) else value


def test_jobs_are_published_as_metrics(engine: Engine) -> None:
    job_metrics.publish(engine)
    assert published("jobs", model="housing", state="queued") == 0
    assert published("worker_seen_timestamp_seconds") is None
    for name in ("waiting_since", "running_since"):
        assert published(f"{name}_timestamp_seconds", model="housing") is None
    assert published("ended_timestamp_seconds", model="iris", state="failed") is None

    before = time.time()
    jobs.see_worker(engine, "worker", now_us())
    ask(engine, "iris")
    failed = jobs.claim(engine, "worker")
    assert failed is not None
    jobs.finish(engine, failed, State.FAILED, "It broke.", None, stage="trains", log="x" * 9000)
    running, waiting = ask(engine, "iris"), ask(engine)
    ask(engine, "somebody else's")
    assert jobs.claim(engine, "worker") is not None
    age(engine, running, started_us=5 * SECOND)
    age(engine, waiting, created_us=7 * SECOND)
    job_metrics.publish(engine)
    for model, counts in {
        "iris": {"failed": 1, "running": 1, "queued": 0, "done": 0},
        "housing": {"queued": 1, "failed": 0},
    }.items():
        for state, count in counts.items():
            assert published("jobs", model=model, state=state) == count
    assert published("waiting_since_timestamp_seconds", model="housing") == 7
    assert published("waiting_since_timestamp_seconds", model="iris") is None
    assert published("running_since_timestamp_seconds", model="iris") == 5
    ended = published("ended_timestamp_seconds", model="iris", state="failed")
    seen = published("worker_seen_timestamp_seconds")
    assert ended is not None
    assert seen is not None
    assert min(ended, seen) == pytest.approx(before, abs=60)
    assert published("jobs", model="somebody else's", state="queued") is None

    jobs.forget_worker(engine, "worker")
    job_metrics.publish(engine)
    assert published("worker_seen_timestamp_seconds") is None
