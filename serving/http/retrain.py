"""``POST /retrain``, ``GET /retrain/jobs``, ``GET /retrain/status/{id}``, ``POST /retrain/alert``: retraining jobs.

The service queues jobs and reports on them. The worker of the loop runs them in another process.
"""

from functools import partial
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError
from sqlalchemy import Engine

from contract import DATASETS
from contract.errors import cut
from ledger import jobs
from ledger.jobs import Job, Limits, NotNow, State, Trigger
from ledger.times import iso, now_us
from serving.access import Access, Gate
from serving.errors import NotFound, UnsupportedMediaType
from serving.http.app import JSON, HttpRequest, HttpResponse, Route, authorization, json_response
from serving.http.body import media_type, most_tokens, parse_json, read_body
from serving.http.errors import checked
from serving.http.logs import Query, parse
from serving.ledger_database import LedgerDatabase
from serving.settings import Settings
from serving.telemetry.call import Endpoint, http_counter

PATH = "/retrain"
ALERT = "/retrain/alert"
JOBS = "/retrain/jobs"
STATUS = "/retrain/status/{id}"
_STATUS = STATUS.removesuffix("{id}")
_MOST_TOKENS = most_tokens(0)
"""Maximum tokens of a notification, which has many labels and annotations that are not read."""
MAXIMUM_ALERTS = 1000
NO_WORKER = (
    "No worker has been seen: jobs wait until one runs. `python -m loop.worker` (`make loop`) starts one, where the "
    "pipeline is."
)

Name = Literal[*DATASETS]  # type: ignore[valid-type]  # names are known at run time
_NUMBER = TypeAdapter(Annotated[int, Field(ge=1, lt=2**63)])


class RetrainRequest(BaseModel):
    """Which model to retrain."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    model: Name = Field(description="The model.")
    force: bool = Field(
        default=False, description="Also if it was retrained a while ago, and if little has come true since."
    )


class AlertRequest(BaseModel):
    """A notification of Alertmanager, as its webhook sends it. What is not named here is ignored."""

    model_config = ConfigDict(frozen=True)

    alerts: list["Alert"] = Field(max_length=MAXIMUM_ALERTS, description="Firing alerts with the label `model` count.")


class Alert(BaseModel):
    """An alert of a notification."""

    model_config = ConfigDict(frozen=True)

    status: Annotated[str, StringConstraints(max_length=64)] = Field(description="`firing` or `resolved`.")
    labels: dict[str, str] = Field(description="`model` says which model to retrain.")


class JobsQuery(Query):
    """The parameters of ``/retrain/jobs``."""

    model: Name | None = Field(default=None, description="Of this model.")
    limit: int = Field(default=100, ge=1, le=jobs.KEPT_JOBS, description="Most jobs.")


class JobSummary(BaseModel):
    """A retraining job."""

    id: int = Field(description="Its number.")
    model: str
    trigger: Trigger = Field(description="What asked for it.")
    who: str = Field(description="Asked for it: the label of a key, a schedule, an alert.")
    state: State
    stage: str = Field(description="What it does now, or did last.")
    progress: float = Field(description="How much of it is done: 0 to 1.")
    attempts: int = Field(description="How often a worker took it: a lost job is taken up again once.")
    reason: str | None = Field(description="Why it ended as it did; null before.")
    created_at: str
    started_at: str | None
    finished_at: str | None


class JobStatus(JobSummary):
    """A retraining job with all that is known of it."""

    result: dict[str, Any] | None = Field(description="The figures of the gate and the replay; null before its end.")
    log: str = Field(description="The end of its log.")
    worker: str = Field(description="Whether a worker is there.")


class Jobs(BaseModel):
    """Jobs, newest first."""

    jobs: list[JobSummary]
    worker: str = Field(description="Whether a worker is there.")


class Taken(BaseModel):
    """A job that was asked for."""

    job: JobSummary
    new: bool = Field(description="False where the model has a job that waits or runs already: that one is told.")
    worker: str = Field(description="Whether a worker is there to run it.")


class AlertAnswer(BaseModel):
    """What became of a notification."""

    jobs: list[int] = Field(description="The jobs of the models that it names.")
    skipped: list[str] = Field(description="Why others are not retrained.")


ANSWERS = (JobSummary, JobStatus, Jobs, Taken, Alert, AlertRequest, AlertAnswer)


class RetrainApp:
    """Answers the requests of the routes.

    Args:
        ledger: has the jobs.
        settings: the limits of size and time, and of retraining.
        gate: knows who asks.
    """

    def __init__(self, ledger: LedgerDatabase, settings: Settings, gate: Gate) -> None:
        self._ledger = ledger
        self._gate = gate
        self._limits = Limits(settings.RETRAIN_COOLDOWN_MINUTES * 60, settings.RETRAIN_MINIMUM_ROWS)
        self._limit = settings.MAX_BODY_BYTES
        self._seconds = settings.TIMEOUT_SECONDS
        self._status = Endpoint(STATUS, "http", counter=http_counter(STATUS))

    @property
    def routes(self) -> list[Route]:
        """The routes with a fixed path."""

        def endpoint(path: str) -> Endpoint:
            return Endpoint(path, "http", counter=http_counter(path))

        return [
            Route(endpoint(PATH), self._retrain, "POST", access=Access.ADMIN),
            Route(endpoint(ALERT), self._alert, "POST", access=Access.ADMIN),
            Route(endpoint(JOBS), self._jobs, access=Access.LEDGER),
        ]

    def find(self, path: str) -> Route | None:
        """The route of a job's status."""
        if not path.startswith(_STATUS):
            return None
        return Route(self._status, partial(self._one, path.removeprefix(_STATUS)), access=Access.LEDGER)

    async def _retrain(self, request: HttpRequest) -> HttpResponse:
        asked = checked(RetrainRequest, parse_json(await self._body(request)))
        holder = self._gate.holder(authorization(request.scope) or b"")
        who = "" if holder is None else holder.key.name or holder.key.label
        limits = None if asked.force else self._limits

        def ask(engine: Engine) -> dict[str, Any]:
            job, new = jobs.request(engine, asked.model, Trigger.PERSON, who, limits)
            return {"job": summary(job), "new": new, "worker": worker(engine)}

        return json_response(await self._ledger.run(ask), 202)

    async def _alert(self, request: HttpRequest) -> HttpResponse:
        told = checked(AlertRequest, parse_json(await self._body(request), _MOST_TOKENS))

        def ask(engine: Engine) -> dict[str, Any]:
            taken: list[int] = []
            skipped: list[str] = []
            for number, alert in enumerate(told.alerts):
                name, model = cut(alert.labels.get("alertname", "an alert")), alert.labels.get("model", "")
                if alert.status != "firing":
                    skipped.append(f"alerts[{number}].status: {name} is {cut(alert.status)}")
                elif model not in DATASETS:
                    skipped.append(f"alerts[{number}].labels.model: {name} names no model of {', '.join(DATASETS)}")
                else:
                    try:
                        taken.append(jobs.request(engine, model, Trigger.ALERT, name, self._limits)[0].id)
                    except NotNow as error:
                        # With an error, Alertmanager would send it again and again.
                        skipped.append(f"alerts[{number}].labels.{error}")
            return {"jobs": list(dict.fromkeys(taken)), "skipped": skipped}

        return json_response(await self._ledger.run(ask))

    async def _jobs(self, request: HttpRequest) -> HttpResponse:
        asked = parse(JobsQuery, request)

        def read(engine: Engine) -> dict[str, Any]:
            found = jobs.newest(engine, model=asked.model, limit=asked.limit)
            return {"jobs": [summary(job) for job in found], "worker": worker(engine)}

        return json_response(await self._ledger.run(read))

    async def _one(self, text: str, _: HttpRequest) -> HttpResponse:
        try:
            number = _NUMBER.validate_python(text)
        except ValidationError:
            raise NotFound(f"id: {cut(text)!r} is no number of a job; GET {JOBS} lists them.") from None

        def read(engine: Engine) -> dict[str, Any]:
            job = jobs.find(engine, number)
            if job is None:
                raise NotFound(f"id: there is no job {number}; GET {JOBS} lists them.")
            return {**summary(job), "result": job.result, "log": job.log, "worker": worker(engine)}

        return json_response(await self._ledger.run(read))

    async def _body(self, request: HttpRequest) -> bytes:
        kind = media_type(request.scope) or JSON
        if kind != JSON:
            raise UnsupportedMediaType(f"The body must be {JSON}, not {cut(kind)}.")
        return await read_body(request.scope, request.receive, self._limit, self._seconds)


def summary(job: Job) -> dict[str, Any]:
    """A job as plain data."""
    return {
        "id": job.id,
        "model": job.model,
        "trigger": job.trigger,
        "who": job.who,
        "state": job.state,
        "stage": job.stage,
        "progress": round(job.progress, 3),
        "attempts": job.attempts,
        "reason": job.reason,
        "created_at": iso(job.created_us),
        "started_at": None if job.started_us is None else iso(job.started_us),
        "finished_at": None if job.finished_us is None else iso(job.finished_us),
    }


def worker(engine: Engine) -> str:
    """Whether a worker is there, as a sentence."""
    seen = jobs.worker_seen_us(engine)
    if seen is None:
        return NO_WORKER
    seconds = (now_us() - seen) / 1e6
    if seconds > jobs.SEEN_SECONDS:
        return f"A worker was last seen {seconds / 60:.0f} minutes ago: jobs wait until one runs again."
    return "A worker is there."
