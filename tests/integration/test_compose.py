"""The full stack of ``docker-compose.yml`` in real containers, started by ``deploy_local.sh --full``."""

import json
import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from contract.datasets.iris import IRIS
from tests.integration.conftest import Newcomer
from tests.integration.local_containers import SERVICES, STAND_INS, Containers, local_containers, service_image
from tests.integration.own_network import names, own_network
from tests.waiting import wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a network of one's own takes root")

PASSWORDS = {"GRAFANA_ADMIN_PASSWORD": "a word", "POSTGRES_PASSWORD": "p@ss:/w%rd", "LEDGER_PASSWORD": "it's @nother"}
MLFLOW = "http://localhost:5000"
LEDGER = "postgresql://ledger@postgres:5432/ledger"
"""As the script sets it for the full stack."""
LOOP_USER = pwd.getpwnam("nobody")


@pytest.fixture(scope="module")
def stack(served_once: Newcomer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Containers, str]]:
    """The containers, and what the script said."""
    directory = tmp_path_factory.mktemp("containers")
    with (
        own_network(),
        names(SERVICES, directory / "resolv.conf"),
        local_containers(served_once.clone, directory) as containers,
    ):
        for name, image in STAND_INS.items():
            containers.make_image(SERVICES[name]["image"], image)
        containers.make_image(SERVICES["ml-api"]["image"], service_image("1"))
        said = containers.deploy("--full", "--no-build", check=True, **PASSWORDS).stdout
        with belongs_to(served_once.clone, LOOP_USER):
            worker = {"DATABASE_URL": LEDGER, "LOOP_USER": f"{LOOP_USER.pw_uid}:{LOOP_USER.pw_gid}"}
            command = ("podman-compose", "--profile", "loop", "up", "--detach", "--no-build", "--no-deps", "loop")
            containers.run(*command, check=True, **PASSWORDS, **worker)
            yield containers, said


@contextmanager
def belongs_to(folder: Path, user: pwd.struct_passwd) -> Iterator[None]:
    """A folder that is somebody's for a while."""

    def give(uid: int, gid: int) -> None:
        subprocess.run(["chown", "--recursive", f"{uid}:{gid}", folder], check=True)

    before = folder.stat()
    give(user.pw_uid, user.pw_gid)
    try:
        yield
    finally:
        give(before.st_uid, before.st_gid)


def asked(containers: Containers, query: str) -> str:
    """What the ledger's database answers; nothing if it refuses."""
    psql = ("psql", "--username=ledger", "--dbname=ledger", "--tuples-only", "--no-align", f"--command={query}")
    return containers.run("podman", "exec", containers.name("postgres"), *psql, check=False).stdout.strip()


def test_the_script_verifies_and_shows_the_way(stack: tuple[Containers, str]) -> None:
    _, said = stack
    for model in ("housing", "iris"):
        assert f"\n{model} sha-" in said
    assert said.count("the same over gRPC") == 2
    for port in (8000, 8001, 9090, 9093, 3000, 5000):
        assert f":{port}" in said


@pytest.mark.parametrize("service", SERVICES)
def test_the_health_check_passes(stack: tuple[Containers, str], service: str) -> None:
    containers, _ = stack
    check = ("podman", "healthcheck", "run", containers.name(service))
    wait_until(
        lambda: not containers.run(*check, check=False).returncode,
        lambda: f"{containers.run(*check, check=False)}\n{containers.podman('logs', containers.name(service))}",
        60,
    )


@pytest.mark.parametrize("service", SERVICES)
def test_a_container_is_confined(stack: tuple[Containers, str], service: str) -> None:
    containers, _ = stack
    name = containers.name(service)
    status = dict(
        line.split(":\t", 1)
        for line in containers.podman("exec", name, "cat", "/proc/1/status").splitlines()
        if ":\t" in line
    )
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    assert "0" not in status["Uid"].split()
    host = json.loads(containers.podman("inspect", name))[0]["HostConfig"]
    assert host["Memory"] > 0
    assert host["NanoCpus"] > 0 or host["CpuQuota"] > 0
    assert host["ReadonlyRootfs"] == (service != "postgres")


@pytest.mark.usefixtures("stack")
@pytest.mark.parametrize("job", ["ml-api", "ml-api-ready", "prometheus"])
def test_prometheus_reaches_its_targets(job: str) -> None:
    def up() -> bool:
        answer = httpx.get("http://localhost:9090/api/v1/query", params={"query": f'up{{job="{job}"}} == 1'})
        return bool(answer.json()["data"]["result"])

    wait_until(up, lambda: httpx.get("http://localhost:9090/api/v1/targets").text, 60)


@pytest.mark.usefixtures("stack")
def test_prometheus_has_the_rules_and_its_alertmanager() -> None:
    groups = httpx.get("http://localhost:9090/api/v1/rules").json()["data"]["groups"]
    assert {rule["name"] for group in groups for rule in group["rules"]} >= {"ReadinessLost", "FeatureDrift"}

    def found() -> list[dict[str, str]]:
        answer: dict[str, Any] = httpx.get("http://localhost:9090/api/v1/alertmanagers").json()
        return list(answer["data"]["activeAlertmanagers"])

    wait_until(found, "Prometheus has an Alertmanager", 30)
    assert [entry["url"] for entry in found()] == ["http://alertmanager:9093/api/v2/alerts"]


def test_an_alert_reaches_the_webhook(stack: tuple[Containers, str]) -> None:
    containers, _ = stack
    alert = {"labels": {"alertname": "Drill", "severity": "page"}, "annotations": {"summary": "no more than a drill"}}
    httpx.post("http://localhost:9093/api/v2/alerts", json=[alert]).raise_for_status()
    wait_until(
        lambda: "no more than a drill" in containers.podman("logs", containers.name("alert-webhook")),
        lambda: containers.run("podman", "logs", containers.name("alertmanager")).stderr,
        60,
    )


def test_the_pipeline_tracks_on_the_server(stack: tuple[Containers, str], served_once: Newcomer) -> None:
    """A run of the pipeline's own kind: its parameters are in PostgreSQL, its figure comes back from the server."""
    containers, _ = stack
    code = (
        "from matplotlib.figure import Figure; from training import tracking\n"
        "with tracking.run('compose', 'tiny', {}) as run:\n"
        "    run.log(params={'depth': 3}, metrics={'rmse': 0.5})\n"
        "    run.log_figure(Figure(), 'plots/empty.png')\n"
        "print(run.run_id)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        cwd=served_once.clone,
        env={**os.environ, "MLFLOW_TRACKING_URI": MLFLOW},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert not ended.returncode, ended.stderr
    run_id = ended.stdout.split()[-1]
    query = f"select key, value from params where run_uuid = '{run_id}'"  # noqa: S608 - the server's own id
    psql = ("psql", "--username=mlflow", "--dbname=mlflow", "--tuples-only", "--no-align", f"--command={query}")
    assert containers.podman("exec", containers.name("postgres"), *psql) == "depth|3"
    run = httpx.get(f"{MLFLOW}/api/2.0/mlflow/runs/get", params={"run_id": run_id}, timeout=60).json()["run"]
    assert run["info"]["artifact_uri"].startswith("mlflow-artifacts:/")
    figure = httpx.get(f"{MLFLOW}/get-artifact", params={"run_uuid": run_id, "path": "plots/empty.png"}, timeout=60)
    assert figure.content.startswith(b"\x89PNG")


def test_predictions_are_recorded_in_postgres(stack: tuple[Containers, str]) -> None:
    containers, _ = stack
    answer = httpx.post("http://localhost:8000/predict/iris", json=dict(IRIS.example)).raise_for_status().json()
    query = f"select rows from predictions where id = '{answer['prediction_id']}'"  # noqa: S608 - the service's own id
    wait_until(
        # At first there may not even be a table: the drainer makes it.
        lambda: asked(containers, query) == "1",
        lambda: containers.podman("logs", containers.name("ml-api")),
        60,
    )


def test_the_worker_of_the_loop_runs_the_pipeline_in_the_project(stack: tuple[Containers, str]) -> None:
    """It reads the registry, runs the first stages, and finds in PostgreSQL that there is nothing to learn from."""
    containers, _ = stack
    ask = (
        "from ledger.jobs import Trigger, request; from loop.deployed import connect_ledger\n"
        "request(connect_ledger(), 'iris', Trigger.PERSON, 'a test', None)"
    )
    containers.podman("exec", containers.name("loop"), "python3", "-c", ask)
    wait_until(
        lambda: "0 labelled rows" in asked(containers, "select reason from jobs where state = 'failed'"),
        lambda: (
            asked(containers, "select state, stage, log from jobs") + containers.podman("logs", containers.name("loop"))
        ),
        240,
    )


@pytest.mark.usefixtures("stack")
def test_mlflow_answers_by_its_names_alone() -> None:
    address = f"{MLFLOW}/api/2.0/mlflow/experiments/get?experiment_id=0"
    for host, status in (("mlflow:5000", 200), ("localhost:5001", 200), ("strange.example.org", 403)):
        assert httpx.get(address, headers={"host": host}, timeout=60).status_code == status


def test_postgres_takes_the_password_and_no_other(stack: tuple[Containers, str]) -> None:
    containers, _ = stack
    answers = [
        containers.run(
            *("podman", "exec", "--env", f"PGPASSWORD={password}", containers.name("postgres")),
            *("psql", "--host=postgres", "--username=mlflow", "--dbname=mlflow", "--command=select 1"),
            check=False,
        ).returncode
        for password in (PASSWORDS["POSTGRES_PASSWORD"], "wrong")
    ]
    assert answers[0] == 0 != answers[1]


def test_status_and_stop(stack: tuple[Containers, str]) -> None:
    """Last, since nothing runs afterwards: the volumes stay."""
    containers, _ = stack
    assert '"status":"ok"' in containers.deploy("--status").stdout
    containers.deploy("--stop")
    assert containers.podman("ps", "--all", "--quiet") == ""
    assert len(containers.podman("volume", "ls", "--quiet").splitlines()) == 6
    ended = containers.deploy("--status", check=False)
    assert ended.returncode == 1
    assert "not ready" in ended.stdout
