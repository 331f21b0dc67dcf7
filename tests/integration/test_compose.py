from collections.abc import Iterator
import os
import httpx
import pytest

from tests.integration.conftest import Newcomer
from tests.integration.local_containers import SERVICES, STAND_INS, Containers, local_containers, service_image
from tests.integration.own_network import names, own_network

@pytest.fixture(scope="module")
def stack(served_once, tmp_path_factory):
    directory = tmp_path_factory.mktemp("containers")
    with own_network(), names(SERVICES, directory / "resolv.conf"), local_containers(served_once.clone, directory) as containers:
        for name, image in STAND_INS.items():
            containers.make_image(SERVICES[name]["image"], image)
        containers.make_image(SERVICES["ml-api"]["image"], service_image("1"))
        ended = containers.run("deploy/deploy_local.sh", "--full", "--no-build", check=False, GRAFANA_ADMIN_PASSWORD="g", POSTGRES_PASSWORD="p@:/", READY_TIMEOUT="15")
        print(ended.stdout, ended.stderr)
        for i in ("mlflow","postgres"):
            l=containers.run("podman","logs","--tail","60",f"ml-prediction-bundle_{i}_1",check=False); print(i,l.stdout,l.stderr)
            print(containers.run("podman","inspect",f"ml-prediction-bundle_{i}_1","--format","{{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}} {{.RestartCount}}",check=False))
        yield containers

def test_x(stack):
    import time
    print(stack.run("podman","ps","-a", check=False).stdout)
    for n in SERVICES:
        print(n, stack.run("podman","healthcheck","run",f"ml-prediction-bundle_{n}_1", check=False))
        print(stack.run("podman","logs",f"ml-prediction-bundle_{n}_1", check=False))
    print(httpx.get("http://127.0.0.1:9090/api/v1/targets").text)
