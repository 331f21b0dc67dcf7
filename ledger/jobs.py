"""Jobs of the loop: rows of the ledger's database, which the service adds and the worker takes.

A job is queued, then running, then done, refused or failed. A running job has a lease: its worker renews it, and loses
the job if it does not for ``LEASE_SECONDS``. The job is then taken up again, once.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import uuid4

from sqlalchemy import Connection, Engine, Row, delete, func, select, update

from contract.errors import ErrorDetail
from ledger import database
from ledger.errors import LedgerError
from ledger.schema import FEEDBACK, JOBS, MODELS, WORKERS
from ledger.times import now_us

RETRAIN = "retrain"
"""The kind of a job."""
LEASE_SECONDS = 60.0
"""Seconds without a heartbeat after which a worker loses its job."""
MOST_ATTEMPTS = 2
MOST_LOG_CHARACTERS = 8000
"""Characters kept of the end of a log."""
SEEN_SECONDS = 120.0
"""A worker counts as present if it was seen within this many seconds."""
KEPT_JOBS = 1000
DEFAULT_COOLDOWN_MINUTES, DEFAULT_MINIMUM_ROWS = 60.0, 100
"""Defaults of ``Limits``."""
LABELS_DAYS = 90
"""Labelled rows count as new if they were predicted within this time, which is how long the ledger keeps them by
default."""
_SECOND = 1_000_000
_LOCK = 0x6C6F6F70
"""Key of PostgreSQL's advisory lock: "loop"."""


class State(StrEnum):
    """Where a job is."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    REFUSED = "refused"
    FAILED = "failed"


class Trigger(StrEnum):
    """What asked for a job."""

    PERSON = "person"
    SCHEDULE = "schedule"
    DRIFT = "drift"
    QUALITY = "quality"
    ALERT = "alert"


class NotNow(LedgerError):
    """A job is refused: it is too soon, or there is too little to learn from. The sentence says what to do."""

    status = 409


@dataclass(frozen=True, slots=True)
class Limits:
    """When a model may be retrained.

    Args:
        cooldown_seconds: after its last job began.
        minimum_rows: labelled rows that have come since then.
    """

    cooldown_seconds: float
    minimum_rows: int


@dataclass(frozen=True, slots=True)
class Job:
    """A job.

    Args:
        who: asked for it.
        stage, progress: what it does now, and how much of it is done: 0 to 1.
        log: the end of what it has written.
        reason: why it ended as it did; None before.
        result: its figures; None before it ended.
        owner: the claim of the worker that runs it.
        attempts: how often a worker took it.
    """

    id: int
    model: str
    kind: str
    trigger: Trigger
    who: str
    state: State
    stage: str
    progress: float
    log: str
    reason: str | None
    result: Mapping[str, Any] | None
    owner: str | None
    heartbeat_us: int | None
    attempts: int
    created_us: int
    started_us: int | None
    finished_us: int | None


def request(engine: Engine, model: str, trigger: Trigger, who: str, limits: Limits | None) -> tuple[Job, bool]:
    """Queue a retraining; return the job and whether it is new. A model that has a waiting job gets no second one.

    Args:
        model: its name.
        trigger: what asks.
        who: asks; what is longer than its column is cut off.
        limits: when it may be retrained; None for whenever.

    Raises:
        NotNow: the limits do not allow it.
        sqlalchemy.exc.DBAPIError: the database is away.
    """
    now = now_us()
    with _locked(engine) as connection:
        waiting = connection.execute(
            select(JOBS).where(JOBS.c.model == model, JOBS.c.state.in_([State.QUEUED, State.RUNNING]))
        ).first()
        if waiting is not None:
            return _job(waiting), False
        if limits is not None:
            _check(connection, model, limits, now)
        values = {
            "model": model,
            "kind": RETRAIN,
            "trigger": trigger,
            "who": who[:64],
            "state": State.QUEUED,
            "stage": "waits for a worker",
            "progress": 0.0,
            "log": "",
            "attempts": 0,
            "created_us": now,
        }
        key = connection.execute(JOBS.insert().values(values)).inserted_primary_key
        assert key is not None  # noqa: S101 - one row was inserted
        oldest = connection.scalar(select(JOBS.c.id).order_by(JOBS.c.id.desc()).offset(KEPT_JOBS).limit(1))
        if oldest is not None:
            ended = JOBS.c.finished_us.is_not(None)
            connection.execute(delete(JOBS).where(JOBS.c.id <= oldest, ended))
        return _job(connection.execute(select(JOBS).where(JOBS.c.id == key[0])).one()), True


def _check(connection: Connection, model: str, limits: Limits, now: int) -> None:
    last = connection.scalar(select(func.max(JOBS.c.created_us)).where(JOBS.c.model == model))
    if last is not None:
        waits = limits.cooldown_seconds - (now - last) / _SECOND
        if waits > 0:
            raise _not_now(
                f"{model} was last retrained {_told((now - last) / _SECOND)} ago; wait {_told(waits)}, or send "
                '"force": true.'
            )
    trained = connection.scalar(
        select(func.max(JOBS.c.created_us)).where(JOBS.c.model == model, JOBS.c.state.in_([State.DONE, State.REFUSED]))
    )
    found = _new_labels(connection, model, trained or 0, limits.minimum_rows, now)
    if found < limits.minimum_rows:
        raise _not_now(
            f"{model} has {found:,} labelled rows since its last retraining, and {limits.minimum_rows:,} are needed: "
            'send what came true to POST /feedback, or send "force": true.'
        )


def _not_now(what: str) -> NotNow:
    return NotNow(f"model: {what}", [ErrorDetail(("model",), what, "not_now")])


def _told(seconds: float) -> str:
    return f"{seconds / 3600:.1f} hours" if seconds >= 7200 else f"{max(seconds / 60, 1):.0f} minutes"


def _new_labels(connection: Connection, model: str, since_us: int, most: int, now: int) -> int:
    """Rows of a model whose truth came after a time; counted up to ``most``."""
    ids = select(MODELS.c.id).where(MODELS.c.model == model)
    labels = FEEDBACK.c
    some = (
        select(labels.row)
        .where(
            labels.model_id.in_(ids),
            labels.predicted_us >= now - LABELS_DAYS * 86_400 * _SECOND,
            labels.received_us > since_us,
        )
        .limit(most)
        .subquery()
    )
    return connection.scalar(select(func.count()).select_from(some)) or 0


def claim(engine: Engine, worker: str, *, lease_seconds: float = LEASE_SECONDS) -> Job | None:
    """Take the job that has waited longest; None if there is none, or if one is running.

    A job whose lease has ended is queued again, or has failed if it was tried often enough.

    Args:
        worker: its name.
        lease_seconds: how long a lease lasts after its heartbeat.

    Raises:
        sqlalchemy.exc.DBAPIError: the database is away.
    """
    now = now_us()
    columns = JOBS.c
    with _locked(engine) as connection:
        lost = (columns.state == State.RUNNING) & (columns.heartbeat_us < now - int(lease_seconds * _SECOND))
        connection.execute(
            update(JOBS)
            .where(lost, columns.attempts >= MOST_ATTEMPTS)
            .values(
                state=State.FAILED,
                finished_us=now,
                owner=None,
                reason=f"Its worker was lost {MOST_ATTEMPTS} times: the log says in what.",
            )
        )
        connection.execute(
            update(JOBS)
            .where(lost)
            .values(state=State.QUEUED, owner=None, stage="waits for a worker: its first one was lost", progress=0.0)
        )
        if connection.scalar(select(columns.id).where(columns.state == State.RUNNING)) is not None:
            return None
        first = connection.scalar(select(columns.id).where(columns.state == State.QUEUED).order_by(columns.id).limit(1))
        if first is None:
            return None
        connection.execute(
            update(JOBS)
            .where(columns.id == first)
            .values(
                state=State.RUNNING,
                stage="starts",
                owner=f"{worker[:90]} {uuid4().hex}",
                heartbeat_us=now,
                attempts=columns.attempts + 1,
                started_us=now,
            )
        )
        return _job(connection.execute(select(JOBS).where(columns.id == first)).one())


def renew(engine: Engine, job: Job, *, stage: str, progress: float, log: str) -> bool:
    """Renew the lease of a running job and tell how far it is; False if the job is not this worker's any more.

    Raises:
        sqlalchemy.exc.DBAPIError: the database is away.
    """
    return _update(
        engine,
        job,
        heartbeat_us=now_us(),
        stage=stage[:200],
        progress=progress,
        log=log[-MOST_LOG_CHARACTERS:],
    )


def finish(
    engine: Engine, job: Job, state: State, reason: str, result: Mapping[str, Any] | None, *, stage: str, log: str
) -> bool:
    """End a running job; False if it is not this worker's any more.

    Args:
        state: done, refused or failed.
        reason: a sentence.
        result: its figures.

    Raises:
        sqlalchemy.exc.DBAPIError: the database is away.
    """
    return _update(
        engine,
        job,
        state=state,
        reason=reason,
        result=None if result is None else json.dumps(result, allow_nan=False),
        owner=None,
        finished_us=now_us(),
        stage=stage[:200],
        log=log[-MOST_LOG_CHARACTERS:],
        **({"progress": 1.0} if state is not State.FAILED else {}),
    )


def give_back(engine: Engine, job: Job, *, log: str) -> bool:
    """Queue the running job of a stopped worker again; this does not count as an attempt.

    Raises:
        sqlalchemy.exc.DBAPIError: the database is away.
    """
    return _update(
        engine,
        job,
        state=State.QUEUED,
        owner=None,
        attempts=job.attempts - 1,
        stage="waits for a worker: its first one was stopped",
        progress=0.0,
        log=log[-MOST_LOG_CHARACTERS:],
    )


def _update(engine: Engine, job: Job, **values: object) -> bool:
    mine = (JOBS.c.id == job.id) & (JOBS.c.owner == job.owner) & (JOBS.c.state == State.RUNNING)
    with database.transaction(engine) as connection:
        return connection.execute(update(JOBS).where(mine).values(values)).rowcount == 1


def find(engine: Engine, number: int) -> Job | None:
    """A job.

    Raises:
        sqlalchemy.exc.DBAPIError: the database is away.
    """
    with engine.connect() as connection:
        row = connection.execute(select(JOBS).where(JOBS.c.id == number)).first()
    return None if row is None else _job(row)


def newest(engine: Engine, *, model: str | None = None, limit: int = 100) -> list[Job]:
    """Jobs, newest first.

    Raises:
        sqlalchemy.exc.DBAPIError: the database is away.
    """
    query = select(JOBS).order_by(JOBS.c.id.desc()).limit(limit)
    if model is not None:
        query = query.where(JOBS.c.model == model)
    with engine.connect() as connection:
        return [_job(row) for row in connection.execute(query)]


def see_worker(engine: Engine, name: str, started_us: int) -> None:
    """Note that a worker is there. Those that were not seen for a day are forgotten.

    Raises:
        sqlalchemy.exc.DBAPIError: the database is away.
    """
    now = now_us()
    values = {"name": name[:128], "started_us": started_us, "heartbeat_us": now}
    with database.transaction(engine) as connection:
        put = database.insert(engine, WORKERS).values(values)
        connection.execute(put.on_conflict_do_update(index_elements=["name"], set_={"heartbeat_us": now}))
        connection.execute(delete(WORKERS).where(WORKERS.c.heartbeat_us < now - 86_400 * _SECOND))


def forget_worker(engine: Engine, name: str) -> None:
    """Note that a worker has ended.

    Raises:
        sqlalchemy.exc.DBAPIError: the database is away.
    """
    with database.transaction(engine) as connection:
        connection.execute(delete(WORKERS).where(WORKERS.c.name == name[:128]))


def worker_seen_us(engine: Engine, host: str = "") -> int | None:
    """When a worker was last seen, in microseconds since 1970; None if none was since a day.

    Args:
        host: whose workers count; empty for those of all. A worker is named ``host:process``.

    Raises:
        sqlalchemy.exc.DBAPIError: the database is away.
    """
    query = select(func.max(WORKERS.c.heartbeat_us))
    if host:
        query = query.where(WORKERS.c.name.startswith(f"{host}:", autoescape=True))
    with engine.connect() as connection:
        seen: int | None = connection.scalar(query)
    return seen


@contextmanager
def _locked(engine: Engine) -> Iterator[Connection]:
    """A transaction for one process at a time, so that the rows it decides on do not change."""
    with database.transaction(engine) as connection:
        # In SQLite, a transaction that writes is alone anyway.
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
        yield connection


def _job(row: Row[Any]) -> Job:
    values = dict(row._mapping)
    values["trigger"], values["state"] = Trigger(row.trigger), State(row.state)
    values["result"] = None if row.result is None else json.loads(row.result)
    return Job(**values)
