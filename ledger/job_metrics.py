"""Retraining jobs as metrics: the drainer, which is part of the service, publishes what the tables have.

The worker that runs the jobs is another process and may be gone; an alert must still tell so.
"""

from prometheus_client import Gauge
from sqlalchemy import Engine, func, select

from contract import DATASETS
from ledger import jobs
from ledger.jobs import State
from ledger.schema import JOBS

PUBLISH_SECONDS = 15
"""Seconds between two reads of the tables by the drainer: as often as Prometheus scrapes."""
ENDED = (State.DONE, State.REFUSED, State.FAILED)

_NONE = float("nan")
"""Value where there is no such time: a scrape leaves it out."""
COUNT = Gauge(
    "ml_retraining_jobs", "Retraining jobs on record, by state.", ["model", "state"], multiprocess_mode="livemostrecent"
)
WAITING_SINCE = Gauge(
    "ml_retraining_waiting_since_timestamp_seconds",
    "Unix time at which the job that waits was asked for; absent where none waits.",
    ["model"],
    multiprocess_mode="livemostrecent",
)
RUNNING_SINCE = Gauge(
    "ml_retraining_running_since_timestamp_seconds",
    "Unix time at which the job that runs was started; absent where none runs.",
    ["model"],
    multiprocess_mode="livemostrecent",
)
ENDED_AT = Gauge(
    "ml_retraining_ended_timestamp_seconds",
    "Unix time of the last job that ended so: done (the challenger took over), refused or failed.",
    ["model", "state"],
    multiprocess_mode="livemostrecent",
)
WORKER_SEEN = Gauge(
    "ml_retraining_worker_seen_timestamp_seconds",
    "Unix time at which a worker of the loop was last seen; absent where none was within a day.",
    multiprocess_mode="livemostrecent",
)


def publish(engine: Engine) -> None:
    """Set the metrics to what is on record.

    Raises:
        sqlalchemy.exc.DBAPIError: the database is away.
    """
    job = JOBS.c
    times = (func.min(job.created_us), func.max(job.started_us), func.max(job.finished_us))
    query = select(job.model, job.state, func.count(), *times).group_by(job.model, job.state)
    with engine.connect() as connection:
        found = {(model, state): rest for model, state, *rest in connection.execute(query)}
    # Names come from the contract alone: a job of another model adds no series.
    for model in DATASETS:
        of_state = {state: found.get((model, state), (0, None, None, None)) for state in State}
        for state, (count, *_) in of_state.items():
            COUNT.labels(model, state).set(count)
        WAITING_SINCE.labels(model).set(_seconds(of_state[State.QUEUED][1]))
        RUNNING_SINCE.labels(model).set(_seconds(of_state[State.RUNNING][2]))
        for state in ENDED:
            ENDED_AT.labels(model, state).set(_seconds(of_state[state][3]))
    WORKER_SEEN.set(_seconds(jobs.worker_seen_us(engine)))


def _seconds(time_us: int | None) -> float:
    return _NONE if time_us is None else time_us / 1e6
