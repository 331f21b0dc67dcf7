"""Two minutes in the life of the service, watched by the real Prometheus and Alertmanager.

The clock of the rules runs ``SCALE`` times faster: what a person would see within hours comes within seconds.
"""

import io
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from rich.console import Console
from sqlalchemy import Engine

from contract import DATASETS
from contract.datasets.housing import HOUSING
from contract.datasets.iris import IRIS
from ledger import database, jobs
from ledger.jobs import State, Trigger
from ledger.times import now_us
from local_service import PROJECT, free_port, running_service
from monitoring import pictures
from monitoring.dashboards.service import NO_TLS
from monitoring.panels import DASHBOARDS, annotations, panels, substitute
from monitoring.terminal import frame, looks
from serving.keys import digest, new_key
from tests.integration.conftest import Newcomer
from tests.integration.local_monitoring import MONITORING, Monitoring, local_monitoring
from tests.integration.traffic import USUAL, Traffic
from tests.waiting import wait_until

WORKERS = 2
LOOP_WORKER = "a worker of the loop"
EXPECTED = {
    "AvailabilityBudgetBurn",
    "FeatureDrift",
    "PredictionDrift",
    "DriftDetected",
    "RetrainingFailed",
    "RetrainingWaits",
    "RequestsShedHeavily",
    "WorkerKeepsDying",
    "NoTraffic",
    "ReadinessLost",
}
POSSIBLE = {
    # Tickets that their page does not silence in time, at this speed.
    "AvailabilityBudgetBurnSlow",
    "RequestsShed",
    # Between two workers that die, nobody may answer for a second.
    "InstanceNotReady",
    "MetricsMissing",
    # Overload, and a machine that does other work beside this.
    "LatencyBudgetBurn",
    "LatencyBudgetBurnSlow",
    # Floods of rows: the database is slower than the service.
    "LedgerLags",
}
VARIABLES = {"interval": "5s", "model": ".+", "version": ".+", "feature": "Longitude"}


@dataclass
class Record:
    """What was seen, and when, in seconds since the epoch."""

    monitoring: Monitoring
    ledger: Engine
    environment: dict[str, str]
    started: float
    drift_before_shift: list[str] = field(default_factory=list)
    under_load: float = 0.0
    overloaded: float = 0.0
    frames: dict[str, str] = field(default_factory=dict)
    deaths: int = 0
    quiet: float = 0.0


@pytest.fixture(scope="module")
def record(served_once: Newcomer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Record]:
    """The story: failures, other rows, a retraining, overload, dying workers, silence, the end."""
    grpc_port, admin_key = free_port(), new_key()
    state = tmp_path_factory.mktemp("state")
    environment = {
        "BENTOML_HOME": str(served_once.home / "bentoml"),
        "MODELS_DIR": str(served_once.clone / "models"),
        "WORKERS": str(WORKERS),
        "GRPC_PORT": str(grpc_port),
        "TIMEOUT_SECONDS": "1",
        "MAX_LATENCY_MS": "50",
        "LEDGER": "on",
        "STATE_DIR": str(state),
        "ADMIN_KEYS": digest(admin_key.encode()).hex(),
        "RETRAIN_COOLDOWN_MINUTES": "0",
        "RETRAIN_MINIMUM_ROWS": "10",
    }
    ledger = database.connect(database.default_url(state))
    with ExitStack() as service:
        service.callback(ledger.dispose)
        url = service.enter_context(running_service(environment=environment))
        directory = tmp_path_factory.mktemp("monitoring")
        with local_monitoring(urlsplit(url).netloc, directory, admin_key) as monitoring:
            seen = Record(monitoring, ledger, environment, time.time())
            with Traffic(url, grpc_port, admin_key) as traffic:
                failures(traffic)
                a_job_that_fails(seen)
                other_rows(seen, traffic)
                overload(seen, traffic)
                deaths(seen, traffic)
            silence(seen)
            service.close()
            wait_until(lambda: "ReadinessLost" in monitoring.names("firing"), "somebody is told of the end", 30)
            yield seen


def failures(traffic: Traffic) -> None:
    """Half a minute of usual rows; for its first third, bodies stall and are answered 504."""
    with traffic.flowing(*USUAL, Traffic.truths):
        with traffic.flowing(*[Traffic.stalled] * 6):
            time.sleep(10)
        time.sleep(20)
    assert traffic.answers["504"] > 20
    assert min(traffic.answers[code] for code in ("200", "400", "404", "405", "OK", "NOT_FOUND")) > 0


def a_job_that_fails(seen: Record) -> None:
    """A job of Iris fails, and the next one runs: a worker of the loop is there."""
    jobs.see_worker(seen.ledger, LOOP_WORKER, now_us())
    for fails in (True, False):
        jobs.request(seen.ledger, IRIS.name, Trigger.PERSON, "somebody", None)
        job = jobs.claim(seen.ledger, LOOP_WORKER, lease_seconds=3600)
        assert job is not None
        if fails:
            jobs.finish(seen.ledger, job, State.FAILED, "The disk is full.", None, stage="train", log="")


def other_rows(seen: Record, traffic: Traffic) -> None:
    """Inland districts, until an alert has asked for a retraining, and more than half a minute at least.

    What is drawn of a busy service is looked at near its end.
    """
    seen.drift_before_shift = [
        message["labels"]["alertname"]
        for message in seen.monitoring.messages("firing")
        if message["labels"]["concern"] == "drift"
    ]
    traffic.rows.inland = True
    with traffic.flowing(*USUAL, Traffic.truths):
        # Live quality is computed every 30 seconds.
        enough = time.monotonic() + 35
        time.sleep(10)
        search_for_drift(seen)
        for sign in ('ml_retraining_jobs{model="housing",state="queued"} == 1', 'ALERTS{alertname="DriftDetected"}'):
            wait_until(lambda: seen.monitoring.prometheus.instant(sign), f"it is told: {sign}", 120)  # noqa: B023
        time.sleep(max(enough - time.monotonic(), 0))
        seen.under_load = time.time()
        for variables in ({"PROMETHEUS_URL": seen.monitoring.prometheus.url}, {"API_URL": traffic.url}):
            with looks(variables) as look:
                time.sleep(2)
                text = io.StringIO()
                Console(file=text, width=160).print(frame(look()))
                seen.frames[next(iter(variables))] = text.getvalue()


def search_for_drift(seen: Record) -> None:
    """In the newest rows, as the worker of the loop does it."""
    ended = subprocess.run(
        [sys.executable, "-m", "loop.drift", "--rows", "500"],
        cwd=PROJECT,
        env={**os.environ, **seen.environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


def overload(seen: Record, traffic: Traffic) -> None:
    """Floods of rows beside the usual traffic, until somebody is told. The worker of the loop is gone meanwhile."""
    jobs.forget_worker(seen.ledger, LOOP_WORKER)
    with traffic.flowing(*USUAL, *[Traffic.floods] * 8):
        wait_until(lambda: "RequestsShedHeavily" in seen.monitoring.names("firing"), "overload is told", 60)
        seen.overloaded = time.time()
        # One dies in the middle of its work: what it was answering stays counted as in progress, if we are careless.
        kill_oldest_worker(seen)
    assert traffic.answers["429"] > 0
    traffic.rows.inland = False


def deaths(seen: Record, traffic: Traffic) -> None:
    """Workers die by turns, until somebody is told."""
    with traffic.flowing(*USUAL):
        deadline = time.monotonic() + 180
        while "WorkerKeepsDying" not in seen.monitoring.names("firing"):
            assert time.monotonic() < deadline, "dying workers were not told"
            kill_oldest_worker(seen)


def silence(seen: Record) -> None:
    """Nobody asks any more; what was wrong is over, and somebody is told that too."""
    wait_until(lambda: "NoTraffic" in seen.monitoring.names("firing"), "silence is told", 60)
    # On a busy machine a scrape may take longer than the second that it has here.
    wait_until(lambda: seen.monitoring.prometheus.instant('up{job="ml-api"} == 1'), "a scrape succeeds", 60)
    seen.quiet = time.time()
    wait_until(lambda: "RetrainingWaits" in seen.monitoring.names("firing"), "a job without a worker is told", 60)
    jobs_end(seen)
    # WorkerKeepsDying looks back the longest; that it resolves too is shown in monitoring/tests/. Drift is what the
    # last search has found.
    resolving = EXPECTED - {"NoTraffic", "ReadinessLost", "WorkerKeepsDying", "DriftDetected"}
    wait_until(
        lambda: resolving <= seen.monitoring.names("resolved"),
        lambda: f"not resolved: {resolving - seen.monitoring.names('resolved')}",
        180,
    )


def jobs_end(seen: Record) -> None:
    """The worker of the loop is back: the running job is done, the waiting one ends too."""
    jobs.see_worker(seen.ledger, LOOP_WORKER, now_us())
    (running,) = (job for job in jobs.newest(seen.ledger) if job.state is State.RUNNING)
    assert jobs.finish(seen.ledger, running, State.DONE, "It is better.", None, stage="deploy", log="")
    waiting = jobs.claim(seen.ledger, LOOP_WORKER)
    assert waiting is not None
    assert jobs.finish(seen.ledger, waiting, State.REFUSED, "It is worse.", None, stage="gate", log="")


def workers() -> list[int]:
    """The worker processes of the service that this process runs, the oldest first."""
    parents: dict[int, int] = {}
    found: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            # After the name in parentheses: state, parent, …, the time of the start (proc(5)).
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            parents[int(folder.name)] = int(fields[1])
            if b"_bentoml_impl.worker.service" in (folder / "cmdline").read_bytes():
                found[int(folder.name)] = int(fields[19])
        except (FileNotFoundError, ProcessLookupError):
            continue  # It ended while we looked.

    def ours(pid: int) -> bool:
        return pid == os.getpid() or (pid in parents and ours(parents[pid]))

    return sorted(filter(ours, found), key=found.__getitem__)


def kill_oldest_worker(seen: Record) -> None:
    """Kill a worker, as the kernel does when memory runs out, and wait until another has started in its place.

    The younger one has been ready for long: users and scrapes find it.
    """
    os.kill(workers()[0], signal.SIGKILL)
    seen.deaths += 1
    started = WORKERS + seen.deaths
    wait_until(
        lambda: seen.monitoring.prometheus.instant(f"sum(ml_worker_starts_total) >= {started}"),
        f"a worker is started for the one that died, number {seen.deaths}",
        60,
    )
    time.sleep(2)


@pytest.mark.parametrize("name", sorted(path.stem for path in DASHBOARDS.glob("*.json")))
def test_no_panel_of_a_dashboard_stays_empty(record: Record, name: str) -> None:
    empty, not_finite = [], []
    for panel in panels(name):
        if panel.nothing == NO_TLS:  # The service of this record speaks plain text.
            continue
        for target in panel.targets:
            samples = record.monitoring.prometheus.instant(substitute(target.query, **VARIABLES), record.under_load)
            if not samples:
                empty.append((panel.title, target.query))
            not_finite += [(panel.title, sample) for sample in samples if not math.isfinite(sample.value)]
    assert (empty, not_finite) == ([], [])


def test_a_version_is_marked_when_it_is_first_served(record: Record) -> None:
    (query,) = annotations("models")
    courses = record.monitoring.prometheus.range(
        substitute(query, **VARIABLES), record.started, record.under_load, step=1
    )
    assert {course.labels["model"] for course in courses} == set(DATASETS)


def test_every_recording_rule_has_finite_values(record: Record) -> None:
    rules = {
        rule["record"]
        for path in (MONITORING / "rules").glob("*.yml")
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
    }
    assert rules
    for rule in rules:
        samples = record.monitoring.prometheus.instant(rule, record.under_load)
        assert samples, f"{rule} is empty"
        assert all(math.isfinite(sample.value) for sample in samples), rule


def test_the_right_alerts_fire(record: Record) -> None:
    fired = record.monitoring.names("firing")
    assert EXPECTED <= fired <= EXPECTED | POSSIBLE


def test_drift_is_told_after_the_shift_and_of_the_features_that_moved(record: Record) -> None:
    assert record.drift_before_shift == []
    drifted = {
        message["labels"]["feature"]
        for message in record.monitoring.messages("firing")
        if message["labels"]["alertname"] == "FeatureDrift"
    }
    assert {"Latitude", "Longitude"} <= drifted <= set(HOUSING.feature_names)


def test_an_alert_has_asked_for_the_retraining_of_the_model_that_drifted(record: Record) -> None:
    (job,) = jobs.newest(record.ledger, model=HOUSING.name)
    assert job.trigger is Trigger.ALERT
    assert job.who in {"FeatureDrift", "PredictionDrift", "DriftDetected"}
    drifted = {
        message["labels"]["feature"]
        for message in record.monitoring.messages("firing")
        if message["labels"]["alertname"] == "DriftDetected" and message["labels"]["model"] == HOUSING.name
    }
    assert {"Latitude", "Longitude"} <= drifted


def test_pages_and_tickets_go_their_ways(record: Record) -> None:
    for message in record.monitoring.messages("firing"):
        assert message["receiver"] == f"{message['labels']['severity']}s"


def test_where_nobody_is_ready_the_rest_is_silent(record: Record) -> None:
    latest = record.monitoring.messages("firing")[-1]["labels"]["alertname"]
    assert latest == "ReadinessLost"


def test_a_killed_worker_leaves_no_stale_series(record: Record) -> None:
    def total(query: str) -> list[float]:
        return [sample.value for sample in record.monitoring.prometheus.instant(query, record.quiet)]

    assert record.deaths >= 3
    assert total("sum(ml_worker_starts_total)") == [WORKERS + record.deaths]
    assert total("sum(bentoml_service_request_in_progress)") == [0]
    assert total("sum(grpc_server_in_progress)") == [0]
    assert total("count by (model) (ml_model_info)") == [1] * len(DATASETS)
    # BentoML's time of the last request has its worker in a label: only those that live.
    assert total('count(count by (pid) ({job="ml-api",pid!=""}))') == [WORKERS]


def test_what_was_counted_survives_a_worker(record: Record) -> None:
    """No counter went down: a scrape after a death has what the dead one had counted."""
    prometheus, seconds = record.monitoring.prometheus, math.ceil(record.quiet - record.started)
    counters = prometheus.instant('count by (__name__) ({job="ml-api",__name__=~".+_(total|count)"})', record.quiet)
    assert len(counters) > 10
    for counter in counters:
        query = f'resets({counter.labels["__name__"]}{{job="ml-api"}}[{seconds}s]) > 0'
        assert prometheus.instant(query, record.quiet) == []


@pytest.mark.parametrize("source", ["PROMETHEUS_URL", "API_URL"])
def test_the_terminal_shows_the_same(record: Record, source: str) -> None:
    text = record.frames[source]
    for expected in ("/predict/housing", "ModelInfer", "Longitude", "predictions", "out_of_range", *DATASETS):
        assert expected in text
    assert ("FeatureDrift" in text) == (source == "PROMETHEUS_URL")


def test_the_dashboards_can_be_drawn(record: Record, tmp_path: Path) -> None:
    """With ``PICTURES`` set, into that folder: ``make pictures``."""
    folder = Path(os.environ.get("PICTURES") or tmp_path)
    options = ["--prometheus", record.monitoring.prometheus.url, "--interval", "5s"]
    options += ["--minutes", f"{(record.overloaded - record.started) / 60}", "--end", f"{record.overloaded}"]
    assert pictures.main([str(folder), *options]) == 0
    assert all((folder / f"{path.stem}.png").stat().st_size > 50_000 for path in DASHBOARDS.glob("*.json"))
