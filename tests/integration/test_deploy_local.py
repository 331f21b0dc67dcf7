"""``deploy_local.sh`` with a real engine: what it puts in service, and what it takes back.

The service is the real one, in podman's containers. Only `make image` is another: it gives the image that a test names.
"""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator

import httpx
import pytest

from tests.integration.conftest import Newcomer
from tests.integration.local_containers import Containers, local_containers, service_image
from tests.integration.own_network import own_network
from tests.waiting import wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a network of one's own takes root")

IMAGE = "ml-prediction-bundle"
MAKE = f'#!/bin/sh\n[ "$1 $2" = "image IMAGE_OPTIONS=--engine podman " ] && exec podman tag "$NEXT" {IMAGE}:latest\n'
BROKEN = {
    "ends": "echo 'no models here' >&2; exit 1",
    "is-never-ready": "trap 'exit 0' TERM; sleep infinity & wait",
    "has-no-grpc": "GRPC_PORT=8002 exec python3 -m bentoml serve",
}
GOOD = ("1", "2")


@pytest.fixture(scope="module")
def containers(served_once: Newcomer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containers]:
    """An engine with images of two good versions and of broken ones, and a `make` that gives one of them."""
    directory = tmp_path_factory.mktemp("containers")
    (directory / "resolv.conf").touch()
    make = directory / "make"
    make.write_text(MAKE)
    make.chmod(0o755)
    with own_network(), local_containers(served_once.clone, directory) as started:
        started.environment["PATH"] = f"{directory}:{started.environment['PATH']}"
        for version in GOOD:
            started.make_image(f"built:{version}", service_image(version))
        for name, script in BROKEN.items():
            started.make_image(f"built:{name}", service_image(name, script))
        yield started


@pytest.fixture
def first_runs(containers: Containers) -> Containers:
    """Version 1 is deployed."""
    if version(containers, "latest") != "1" or not ready():
        containers.deploy(NEXT="built:1")
    return containers


def version(containers: Containers, tag: str) -> str | None:
    """The version of the image that has a tag; None if there is none."""
    ended = containers.run(
        *("podman", "image", "inspect", "--format", "{{.Labels.version}}", f"{IMAGE}:{tag}"), check=False
    )
    return ended.stdout.strip() if not ended.returncode else None


def running(containers: Containers) -> str:
    """The version that runs."""
    return containers.podman("inspect", "--format", "{{.Config.Labels.version}}", containers.name("ml-api"))


def ready() -> bool:
    try:
        return httpx.get("http://127.0.0.1:8000/readyz").is_success
    except httpx.TransportError:
        return False


def test_a_first_deployment_that_fails_leaves_nothing(containers: Containers) -> None:
    ended = containers.deploy(check=False, NEXT="built:ends")
    assert ended.returncode == 1
    assert "no models here" in ended.stdout  # the end of its log
    assert "does not serve" in ended.stderr
    assert containers.podman("ps", "--all", "--quiet") == ""
    assert version(containers, "latest") is None


def test_forth_and_back(containers: Containers) -> None:
    said = containers.deploy(NEXT="built:1").stdout
    assert "the same over gRPC" in said
    assert "http://127.0.0.1:8000" in said
    assert (running(containers), version(containers, "previous")) == ("1", None)
    refused = containers.deploy("--rollback", check=False)
    assert refused.returncode == 1
    assert "nothing was deployed before" in refused.stderr

    containers.deploy(NEXT="built:2")
    assert (running(containers), version(containers, "previous")) == ("2", "1")
    # The same once more is no step back.
    containers.deploy("--no-build")
    assert (running(containers), version(containers, "previous")) == ("2", "1")

    containers.deploy("--rollback")
    assert (running(containers), version(containers, "previous")) == ("1", "2")
    assert version(containers, "latest") == "1"
    status = containers.deploy("--status").stdout
    assert '"status":"ok"' in status

    containers.deploy("--stop")
    assert not ready()
    assert version(containers, "previous") == "2"


@pytest.mark.parametrize(
    "broken",
    # The first two end as in other tests of this file: at a rollback, and in a deployment that is interrupted.
    [*(pytest.param(name, marks=pytest.mark.weekly) for name in ("ends", "is-never-ready")), "has-no-grpc"],
)
def test_what_does_not_serve_is_taken_back(first_runs: Containers, broken: str) -> None:
    before = version(first_runs, "previous")
    ended = first_runs.deploy(check=False, NEXT=f"built:{broken}", READY_TIMEOUT="5" if "never" in broken else "120")
    assert ended.returncode == 1
    # Within five seconds what ran before may not be ready again either, on a busy machine.
    wait_until(ready, ended.stdout + ended.stderr, 60)
    assert running(first_runs) == version(first_runs, "latest") == "1"
    assert version(first_runs, "previous") == before


def test_a_rollback_that_fails_is_taken_back(first_runs: Containers) -> None:
    first_runs.podman("tag", "built:ends", f"{IMAGE}:previous")
    ended = first_runs.deploy("--rollback", check=False)
    assert ended.returncode == 1
    assert "What ran before runs again." in ended.stdout
    assert running(first_runs) == version(first_runs, "latest") == "1"


def test_a_build_that_fails_touches_nothing(first_runs: Containers) -> None:
    container = first_runs.podman("ps", "--quiet")
    assert first_runs.deploy(check=False, NEXT="built:nothing").returncode
    assert first_runs.podman("ps", "--quiet") == container
    assert version(first_runs, "latest") == "1"


def test_an_interrupted_deployment_is_taken_back(first_runs: Containers) -> None:
    with subprocess.Popen(
        ["deploy/deploy_local.sh"],
        cwd=first_runs.clone,
        env=first_runs.environment | {"NEXT": "built:is-never-ready"},
        stdout=subprocess.PIPE,
        text=True,
    ) as script:
        wait_until(lambda: version(first_runs, "latest") == "is-never-ready" and not ready(), "it begins", 60)
        second = first_runs.deploy(check=False, NEXT="built:2")
        assert second.returncode == 1
        assert f"Another deployment is running: process {script.pid}." in second.stderr
        script.send_signal(signal.SIGTERM)
        said, _ = script.communicate(timeout=120)
    assert script.returncode
    assert "What ran before runs again." in said
    assert running(first_runs) == version(first_runs, "latest") == "1"


def test_a_port_in_use_is_named(containers: Containers) -> None:
    containers.deploy("--stop")
    with socket.create_server(("127.0.0.1", 8001)):
        ended = containers.deploy(check=False, NEXT="built:1")
    assert ended.returncode == 1
    assert "Port 8001 is in use" in ended.stderr
    assert "set GRPC_PORT" in ended.stderr
