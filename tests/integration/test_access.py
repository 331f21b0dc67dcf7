"""Keys with the real service and real clients, as ``docs/access.md`` says."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import pandas as pd
import pytest
from open_inference.grpc import protocol as pb
from open_inference.grpc.service import GRPCInferenceServiceStub

from contract import DATASETS
from contract.datasets.iris import IRIS
from local_service import PROJECT, free_port, running_service
from serving.keys import digest, new_key
from tests.integration.browser import browser
from tests.integration.test_protocol_clients import BIN, example
from tests.serving import tiny_models
from tests.serving.test_keys import swap
from tests.waiting import wait_until

DOCUMENT = (PROJECT / "docs" / "access.md").read_text()
ADMIN, METRICS = new_key(), new_key()


def hash_of(key: str) -> str:
    return digest(key.encode()).hex()


@dataclass(frozen=True)
class Service:
    """The real service with two workers; its API keys are in a file as Kubernetes mounts it."""

    url: str
    grpc: str
    secret: Path
    log: Path

    def give(self, *keys: str) -> None:
        """Have these API keys, and no others."""
        swap(self.secret, "\n".join(f"{hash_of(key)} somebody" for key in keys))

    def statuses(self, key: str) -> set[int]:
        """What this key is answered over HTTP on connections of its own, which reach both workers."""
        headers = {"authorization": f"Bearer {key}"}
        return {
            httpx.post(f"{self.url}/predict/iris", json=IRIS.example, headers=headers).status_code for _ in range(8)
        }

    def codes(self, key: str) -> set[str]:
        """And over gRPC."""
        found = set()
        for _ in range(8):
            with grpc.insecure_channel(self.grpc, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
                try:
                    GRPCInferenceServiceStub(channel).ModelMetadata(
                        pb.ModelMetadataRequest(name="iris"),
                        metadata=(("authorization", f"Bearer {key}"),),
                        timeout=20,
                    )
                    found.add("OK")
                except grpc.RpcError as error:
                    found.add(error.code().name)
        return found


@pytest.fixture(scope="module")
def key() -> str:
    """The key of this file's clients."""
    return new_key()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, key: str) -> Iterator[Service]:
    directory = tmp_path_factory.mktemp("access")
    tiny_models.pin(
        directory / "models", {name: str(tiny_models.store(dataset).tag.version) for name, dataset in DATASETS.items()}
    )
    secret = directory / "..data"
    (directory / "api.keys").symlink_to("..data/keys")
    swap(secret, hash_of(key))
    port = free_port()
    environment = {
        "MODELS_DIR": str(directory / "models"),
        "WORKERS": "2",
        "GRPC_PORT": str(port),
        "LOG_LEVEL": "DEBUG",
        "LEDGER": "on",
        "API_KEYS_FILE": str(directory / "api.keys"),
        "ADMIN_KEYS": hash_of(ADMIN),
        "METRICS_KEYS": hash_of(METRICS),
    }
    log = directory / "service.log"
    with pytest.MonkeyPatch.context() as patched, ExitStack() as stack:
        # Of another service, of whoever starts this one; it would stop the start.
        patched.setenv("METRICS_KEYS_FILE", "/nowhere")
        url = stack.enter_context(running_service(environment=environment, log=log))
        yield Service(url, f"127.0.0.1:{port}", secret, log)


@pytest.fixture
def variables(service: Service, key: str) -> dict[str, str]:
    """The environment of a client who has a key."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "API_URL": service.url, "GRPC_ADDRESS": service.grpc, "API_KEY": key}


def run(command: list[str], environment: dict[str, str]) -> str:
    ended = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


CALLS = re.search(r"## Calling\n(.*?)\n## ", DOCUMENT, re.DOTALL)
BLOCKS = re.findall(r"```(sh|python)\n(.*?)```", CALLS[1] if CALLS else "", re.DOTALL)


def test_the_page_shows_four_clients() -> None:
    assert [kind for kind, _ in BLOCKS] == ["sh", "python", "python", "python"]


@pytest.mark.parametrize(("kind", "text"), BLOCKS)
def test_a_client_of_the_page_is_let_in(service: Service, variables: dict[str, str], kind: str, text: str) -> None:
    there = text.replace("http://localhost:8000", service.url).replace("localhost:8000", service.url)
    there = there.replace("localhost:8001", service.grpc)
    assert there != text
    command = ["bash", "-c", there] if kind == "sh" else [sys.executable, "-c", there]
    printed = run(command, variables)
    if kind == "sh":
        assert json.loads(printed)["label"] == "setosa"
    elif "ModelMetadata" in text:
        assert printed.startswith("['")
    else:
        assert printed == "setosa\n"


@pytest.mark.parametrize(
    "name",
    ["curl.sh", "python_requests.py", "python_tritonclient_http.py", "python_tritonclient_grpc.py", "grpcurl.sh"],
)
def test_an_example_sends_the_key_in_its_environment(variables: dict[str, str], name: str) -> None:
    if not BIN.is_dir():
        pytest.fail("the clients of other projects are not installed: make .venv/.clients")
    assert example(name, {**variables, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"})


def test_our_own_commands_send_the_key_in_their_environment(
    service: Service, variables: dict[str, str], tmp_path: Path
) -> None:
    printed = run([sys.executable, "deploy/verify.py", "--http", service.url, "--grpc", service.grpc], variables)
    assert printed.count("the same over gRPC") == len(DATASETS)
    for opens in ({"METRICS_KEY": METRICS}, {"API_KEY": METRICS}):
        watched = run([sys.executable, "-m", "monitoring.terminal", "--once"], {**variables, **opens})
        assert "2 worker starts" in watched
    for name, dataset in DATASETS.items():
        table = tiny_models.table(dataset)
        (tmp_path / name).mkdir()
        frame = pd.DataFrame(table.features, columns=list(dataset.feature_names))
        frame.assign(**{dataset.target.name: table.target}).to_parquet(tmp_path / name / "test.parquet")
    load = [sys.executable, "-m", "load_tests.run", "--host", service.url, "--grpc-target", service.grpc]
    load += ["--features", str(tmp_path), "--summary", str(tmp_path / "summary.json"), "--no-thresholds"]
    load += ["--html", str(tmp_path / "load.html"), "--users", "10", "--rate", "50", "--run-time", "3s"]
    run(load, variables)
    figures = json.loads((tmp_path / "summary.json").read_text())
    assert figures["errors"] == {}
    assert all(user["requests"] for user in figures["users"].values())


def test_a_command_without_its_key_says_what_to_set(service: Service, variables: dict[str, str], key: str) -> None:
    for wrong in ("", key):
        ended = subprocess.run(
            [sys.executable, "-m", "monitoring.terminal", "--once"],
            cwd=PROJECT,
            env={**variables, "API_KEY": wrong},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (ended.returncode, ended.stderr) == (
            1,
            f"{service.url} asks for another key: set METRICS_KEY to one that opens /metrics.\n",
        )


def test_prometheus_scrapes_with_its_key_as_the_page_says(service: Service, tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(scrape_configs:.*?)```", DOCUMENT, re.DOTALL)
    (tmp_path / "metrics.key").write_text(f"{METRICS}\n")
    target = f'static_configs: [{{targets: ["{service.url.removeprefix("http://")}"]}}]\n    scrape_interval: 1s'
    text = re.sub(r"dns_sd_configs:.*", target, text).replace("/etc/prometheus", str(tmp_path))
    (tmp_path / "prometheus.yml").write_text(text)
    url = f"127.0.0.1:{free_port()}"
    command = ["prometheus", f"--config.file={tmp_path / 'prometheus.yml'}", f"--storage.tsdb.path={tmp_path / 'data'}"]
    with ExitStack() as stack:
        process = stack.enter_context(
            subprocess.Popen([*command, f"--web.listen-address={url}"], stderr=subprocess.DEVNULL)
        )
        stack.callback(process.terminate)
        client = stack.enter_context(httpx.Client(base_url=f"http://{url}/api/v1"))

        def up() -> bool:
            try:
                result = client.get("/query", params={"query": 'up{job="ml-api"}'}).json()["data"]["result"]
            except (httpx.TransportError, ValueError, KeyError):
                return False  # it does not listen yet
            return [value for series in result for value in series["value"][1:]] == ["1"]

        wait_until(up, "the scrape succeeds")


def test_a_person_opens_the_page_with_a_key_and_tries_a_prediction(service: Service, key: str) -> None:
    row = ".live-responses-table tbody"
    with browser(key) as page:
        page.open(f"{service.url}/docs#/predictions/predict_iris")
        page.wait_for("document.body.innerText.includes('/models/info')")
        page.wait_for("!!document.querySelector('button.execute')")
        # What the browser sends by itself changes nothing, or other sites' pages could too.
        page.run("document.querySelector('button.execute').click()")
        assert page.wait_for(f"document.querySelector('{row} .response-col_status')?.innerText").startswith("401")
        assert "press Authorize" in page.run(f"document.querySelector('{row}').innerText")
        page.run("document.querySelector('.btn.authorize').click()")
        page.wait_for("!!document.querySelector('.auth-container input')")
        # As if it were typed: the page does not look at a value that is only set.
        page.run("document.querySelector('.auth-container input').focus()")
        page.type(key)
        page.run("document.querySelector('.auth-btn-wrapper button.authorize').click()")
        page.run("document.querySelector('button.execute').click()")
        page.wait_for(f"document.querySelector('{row} .response-col_status')?.innerText.startsWith('200')")
        assert '"label": "setosa"' in page.run(f"document.querySelector('{row}').innerText")
        # The browser asked once.
        assert page.asked == [f"{service.url}/docs"]


def test_a_person_opens_the_logs_with_a_key(service: Service, key: str) -> None:
    with browser(key) as page:
        page.open(f"{service.url}/logs")
        page.wait_for("document.body.innerText.includes('Reset')")
        assert page.asked == [f"{service.url}/logs"]
        assert page.run("fetch('./logs/recent').then(answer => answer.status)") == 200


def test_a_client_cannot_take_another_address_for_each_wrong_key(service: Service) -> None:
    statuses = set()
    for number in range(50):
        headers = {"authorization": f"Bearer {new_key()}", "x-forwarded-for": f"192.0.2.{number}"}
        statuses.add(httpx.get(service.url, headers=headers).status_code)
    assert statuses == {401, 429}


def test_keys_are_rotated_and_revoked_without_a_restart(service: Service, key: str) -> None:
    other = new_key()

    def refused() -> bool:
        codes = {"UNAUTHENTICATED", "RESOURCE_EXHAUSTED"}  # the latter after many attempts
        return service.statuses(other) <= {401, 429} and service.codes(other) <= codes

    assert refused()
    service.give(key, other)
    wait_until(lambda: service.statuses(other) == {200} and service.codes(other) == {"OK"}, "the new key is taken")
    assert (service.statuses(key), service.codes(key)) == ({200}, {"OK"})
    service.give(key)
    wait_until(refused, "the revoked key is refused")
    (service.secret / "keys").write_text(f"{hash_of(key)}\n{other}\n")
    wait_until(lambda: service.statuses(key) == {200} and "keys not reread" in service.log.read_text(), "it is logged")


def test_no_key_is_in_the_log(service: Service, key: str) -> None:
    """After all that was done above, at DEBUG."""
    service.statuses(new_key())
    service.codes(new_key())
    written = service.log.read_text()
    assert "request refused" in written
    for secret in (key, ADMIN, METRICS, "mlpb_", hash_of(ADMIN)):
        assert secret not in written
