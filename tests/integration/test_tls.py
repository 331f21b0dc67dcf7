"""TLS with the real service: a rotation under load, and the clients of others."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import pytest
import trustme
from cryptography.x509 import load_pem_x509_certificate
from open_inference.grpc import protocol as pb
from open_inference.grpc.service import GRPCInferenceServiceStub

from contract import DATASETS
from contract.datasets.iris import IRIS
from local_service import METRICS_DIRECTORY, PROJECT, free_port, running_service
from serving import healthcheck
from serving.tls import HANDSHAKE_SECONDS
from tests.integration.test_protocol_clients import BIN
from tests.serving import tiny_models
from tests.serving.certificates import NAMES, chain, channel_credentials, client_context, write
from tests.serving.running import PATIENT
from tests.waiting import wait_until

CA, OTHER_CA = trustme.CA(), trustme.CA()
CLIENT, STRANGER = CA.issue_cert("client"), OTHER_CA.issue_cert("stranger")
ROW = [float(IRIS.example[name]) for name in IRIS.feature_names]


@dataclass(frozen=True)
class Service:
    """The real service with two workers, and where its files are."""

    url: str
    grpc: str
    directory: Path
    environment: dict[str, str]
    log: Path


@contextmanager
def serving(directory: Path, **settings: str) -> Iterator[Service]:
    tiny_models.pin(
        directory / "models", {name: str(tiny_models.store(dataset).tag.version) for name, dataset in DATASETS.items()}
    )
    pem, key = write(directory, "server", CA.issue_cert(*NAMES))
    CA.cert_pem.write_to_path(str(directory / "ca.pem"))
    write(directory, "client", CLIENT)
    environment = {
        "API_PORT": str(free_port()),
        "GRPC_PORT": str(free_port()),
        "MODELS_DIR": str(directory / "models"),
        "WORKERS": "2",
        **PATIENT,
        "TLS_CERT_FILE": str(pem),
        "TLS_KEY_FILE": str(key),
        **settings,
    }
    log = directory / "service.log"
    with running_service(environment=environment, log=log) as url:
        yield Service(url, f"127.0.0.1:{environment['GRPC_PORT']}", directory, environment, log)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("tls")) as running:
        yield running


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """It asks every client for a certificate of the CA."""
    directory = tmp_path_factory.mktemp("mtls")
    with serving(directory, TLS_CLIENT_CA_FILE=str(directory / "ca.pem")) as running:
        yield running


def serial(address: str) -> int:
    """Of the certificate that a new connection is shown."""
    host, port = address.removeprefix("https://").split(":")
    with (
        socket.create_connection((host, int(port)), timeout=20) as plain,
        client_context(CA).wrap_socket(plain, server_hostname=host) as secured,
    ):
        shown: str = secured.getpeercert()["serialNumber"]  # type: ignore[index,assignment]
    return int(shown, 16)


def infer(address: str, credentials: grpc.ChannelCredentials) -> float:
    """A prediction over a channel of its own."""
    request = pb.ModelInferRequest(model_name=IRIS.name)
    request.inputs.add(name="input", datatype="FP64", shape=[1, len(ROW)]).contents.fp64_contents.extend(ROW)
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
    with grpc.secure_channel(address, credentials, options) as channel:
        answer = GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=20)
    return float(answer.outputs[0].contents.int64_contents[0])


def test_a_rotation_under_load_fails_no_connection(service: Service) -> None:
    """Every request has a connection of its own; between two good certificates there is a bad one."""
    outcomes: Counter[str] = Counter()
    over = threading.Event()
    trusting, credentials = client_context(CA), channel_credentials(CA)

    def post() -> None:
        httpx.post(f"{service.url}/predict/iris", json=IRIS.example, verify=trusting, timeout=20).raise_for_status()

    def ask(kind: str, request: Callable[[], object]) -> None:
        while not over.wait(0.02):
            try:
                request()
            except (httpx.HTTPError, grpc.RpcError) as error:
                outcomes[f"{kind}: {error}"] += 1
            else:
                outcomes[kind] += 1

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask, "http", post) for _ in range(2)]
        asking += [pool.submit(ask, "grpc", lambda: infer(service.grpc, credentials)) for _ in range(2)]
        try:
            for turn in range(1, 4):
                (service.directory / "server.key").write_text("")
                wait_until(
                    lambda turn=turn: service.log.read_text().count("certificate not reread") == 2 * turn,  # type: ignore[misc]
                    "the refusal by both workers",
                )
                new = CA.issue_cert(*NAMES)
                write(service.directory, "server", new)
                expected = load_pem_x509_certificate(chain(new)).serial_number
                for address in (service.url, service.grpc):
                    # Both workers: the kernel spreads connections over them.
                    wait_until(
                        lambda address=address, expected=expected: all(  # type: ignore[misc]
                            serial(address) == expected for _ in range(12)
                        ),
                        "the new certificate",
                    )
        finally:
            over.set()
        for thread in asking:
            thread.result()
    assert outcomes.keys() == {"http", "grpc"}
    assert min(outcomes.values()) > 20
    assert service.log.read_text().count("certificate reread") == 6


def test_a_handshake_that_does_not_come_is_given_up(service: Service) -> None:
    """The event loop would wait for a minute, and gRPC for two."""
    for address in (service.url.removeprefix("https://"), service.grpc):
        host, port = address.split(":")
        with socket.create_connection((host, int(port)), timeout=HANDSHAKE_SECONDS + 20) as silent:
            assert silent.recv(1000) == b""


def run(command: list[str], **variables: str) -> str:
    ended = subprocess.run(
        command, cwd=PROJECT, env={**os.environ, **variables}, capture_output=True, text=True, timeout=120, check=False
    )
    assert not ended.returncode, ended.stdout + ended.stderr
    return ended.stdout


BENTOML = """\
import json, sys, bentoml
with bentoml.SyncHTTPClient(sys.argv[1]) as client:
    print(client.predict_iris(json.loads(sys.argv[2]))["prediction_id"])
"""


def test_bentoml_s_client_and_our_own_command_trust_the_ca_of_ssl_cert_file(service: Service) -> None:
    trust = {"SSL_CERT_FILE": str(service.directory / "ca.pem"), "API_URL": service.url, "no_proxy": "127.0.0.1"}
    assert run([sys.executable, "-c", BENTOML, service.url, json.dumps(IRIS.example)], **trust)
    assert "iris" in run([sys.executable, "-m", "monitoring.terminal", "--once", "--interval", "0.1"], **trust)


def test_a_deployment_verifies_over_tls(service: Service) -> None:
    """By the loopback address, which is in few certificates."""
    told = run([sys.executable, "deploy/verify.py", "--http", service.url, "--insecure"])
    assert told.count("9 predictions over HTTP") == len(DATASETS)


TRITON = """\
import json, sys
from pathlib import Path
import gevent.ssl
import numpy as np
import tritonclient.grpc, tritonclient.http
http, grpc, folder, row = sys.argv[1], sys.argv[2], Path(sys.argv[3]), json.loads(sys.argv[4])
def context():
    made = gevent.ssl.create_default_context(cafile=folder / "ca.pem")
    made.load_cert_chain(folder / "client.pem", folder / "client.key")
    return made
files = {"root_certificates": "ca.pem", "private_key": "client.key", "certificate_chain": "client.pem"}
clients = [
    (tritonclient.http, tritonclient.http.InferenceServerClient(http, ssl=True, ssl_context_factory=context)),
    (tritonclient.grpc, tritonclient.grpc.InferenceServerClient(
        grpc, ssl=True, **{name: str(folder / file) for name, file in files.items()})),
]
answers = []
for module, client in clients:
    tensor = module.InferInput("input", [1, len(row)], "FP64")
    tensor.set_data_from_numpy(np.array([row]))
    answers.append(client.infer("iris", [tensor]).as_numpy("predict").ravel().tolist())
print(json.dumps(answers))
"""


def test_triton_s_clients_show_their_certificate(strict: Service) -> None:
    if not BIN.is_dir():
        pytest.fail("the clients of other projects are not installed: make .venv/.clients")
    http = strict.url.removeprefix("https://")
    printed = run([f"{BIN}/python", "-c", TRITON, http, strict.grpc, str(strict.directory), json.dumps(ROW)])
    over_http, over_grpc = json.loads(printed)
    assert over_http == over_grpc == [infer(strict.grpc, channel_credentials(CA, CLIENT))]


@pytest.mark.parametrize("certificate", [None, STRANGER], ids=["none", "of an unknown CA"])
def test_a_client_without_a_certificate_of_the_ca_is_refused(
    strict: Service, certificate: trustme.LeafCert | None
) -> None:
    with pytest.raises((httpx.NetworkError, httpx.RemoteProtocolError)):
        httpx.get(f"{strict.url}/readyz", verify=client_context(CA, certificate))
    with pytest.raises(grpc.RpcError) as refused:
        infer(strict.grpc, channel_credentials(CA, certificate))
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


def test_the_health_check_passes(service: Service, strict: Service) -> None:
    """Where clients need a certificate, it shows the service's own, which the CA has made."""
    for one in (service, strict):
        assert healthcheck.problem(one.environment) is None
        assert healthcheck.problem(one.environment, "/livez") is None
    assert "health check will be refused" not in strict.log.read_text()


@pytest.mark.parametrize("set_too", [True, False])
def test_bentoml_s_own_options_are_refused(service: Service, set_too: bool) -> None:
    """They would hold for HTTP alone."""
    files = {name: service.environment[name] for name in ("TLS_CERT_FILE", "TLS_KEY_FILE")}
    ended = subprocess.run(
        [sys.executable, "-m", "bentoml", "serve", f"--ssl-certfile={files['TLS_CERT_FILE']}"],
        cwd=PROJECT,
        env={
            **{name: text for name, text in os.environ.items() if name != METRICS_DIRECTORY},
            **(files if set_too else {}),
            "MODELS_DIR": service.environment["MODELS_DIR"],
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode
    assert "leave gRPC in plain text. Leave it out, and set TLS_CERT_FILE and TLS_KEY_FILE" in ended.stderr
