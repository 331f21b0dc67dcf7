"""TLS: what the listeners take and refuse, files that cannot be used, and files that change."""

import logging
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import grpc
import httpx
import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509 import load_pem_x509_certificate
from open_inference.grpc import protocol as pb
from open_inference.grpc.service import GRPCInferenceServiceStub

from contract.datasets.iris import IRIS
from contract.errors import StartupError
from local_service import free_port
from serving import healthcheck
from serving.models import LoadedModel
from serving.settings import Settings
from serving.tls import Tls
from tests.serving.certificates import NAMES, chain, channel_credentials, client_context, expired, write
from tests.serving.worker import LocalWorker
from tests.waiting import wait_until

CA, OTHER_CA = trustme.CA(), trustme.CA()
CLIENT, STRANGER = CA.issue_cert("client"), OTHER_CA.issue_cert("stranger")


@dataclass(frozen=True)
class Secured:
    """A worker in this process that speaks TLS, and where its files are."""

    worker: LocalWorker
    directory: Path
    environment: dict[str, str]

    def give(self, certificate: trustme.LeafCert) -> None:
        """Have this certificate, as certbot does it: file by file, in place."""
        write(self.directory, "server", certificate)

    def post(self, context: ssl.SSLContext) -> int:
        with httpx.Client(verify=context, base_url=self.worker.url) as client:
            return client.post("/predict/iris", json=IRIS.example).status_code

    def call(self, credentials: grpc.ChannelCredentials) -> bool:
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.secure_channel(self.worker.target, credentials, options) as channel:
            return bool(GRPCInferenceServiceStub(channel).ServerReady(pb.ServerReadyRequest(), timeout=10).ready)

    def serials(self, context: ssl.SSLContext | None = None) -> set[int]:
        """Of the certificates that new connections of both protocols are shown."""
        found = set()
        for address in (self.worker.url.removeprefix("https://"), self.worker.target):
            host, port = address.split(":")
            with (
                socket.create_connection((host, int(port)), timeout=10) as plain,
                (context or client_context(CA, CLIENT)).wrap_socket(plain, server_hostname=host) as secured,
            ):
                found.add(int(secured.getpeercert()["serialNumber"], 16))  # type: ignore[index,arg-type]
        return found

    def metric(self, name: str) -> float:
        with httpx.Client(verify=client_context(CA, CLIENT), base_url=self.worker.url) as client:
            (line,) = (line for line in client.get("/metrics").text.splitlines() if line.startswith(f"{name} "))
        return float(line.rpartition(" ")[2])


@contextmanager
def secured(
    loaded: dict[str, LoadedModel], directory: Path, certificate: trustme.LeafCert, client_ca: trustme.CA | None = None
) -> Iterator[Secured]:
    pem, key = write(directory, "server", certificate)
    environment = {
        "API_HOST": "127.0.0.1",
        "API_PORT": str(free_port()),
        "GRPC_PORT": str(free_port()),
        "LEDGER": "off",
        "TLS_CERT_FILE": str(pem),
        "TLS_KEY_FILE": str(key),
    }
    if client_ca is not None:
        client_ca.cert_pem.write_to_path(str(directory / "clients.pem"))
        environment["TLS_CLIENT_CA_FILE"] = str(directory / "clients.pem")
    worker = LocalWorker(loaded, Settings.from_environment(environment))
    with worker.running():
        yield Secured(worker, directory, environment)


@pytest.fixture(scope="module")
def service(loaded: dict[str, LoadedModel], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """It speaks TLS, and asks no client for a certificate."""
    with secured(loaded, tmp_path_factory.mktemp("tls"), CA.issue_cert(*NAMES)) as running:
        yield running


@pytest.fixture(scope="module")
def strict(loaded: dict[str, LoadedModel], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """It asks every client for a certificate."""
    with secured(loaded, tmp_path_factory.mktemp("mtls"), CA.issue_cert(*NAMES), CA) as running:
        yield running


def serial(certificate: trustme.LeafCert) -> int:
    return load_pem_x509_certificate(chain(certificate)).serial_number


def test_both_protocols_speak_tls(service: Secured) -> None:
    assert service.post(client_context(CA)) == 200
    assert service.call(channel_credentials(CA))


def test_neither_speaks_plain_text(service: Secured) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(service.worker.url.replace("https", "http"))
    with grpc.insecure_channel(service.worker.target) as channel, pytest.raises(grpc.RpcError) as refused:
        GRPCInferenceServiceStub(channel).ServerReady(pb.ServerReadyRequest(), timeout=10)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("minimum", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_1_2_and_1_3_are_spoken(service: Secured, minimum: ssl.TLSVersion) -> None:
    context = client_context(CA)
    context.minimum_version = context.maximum_version = minimum
    assert len(service.serials(context)) == 1


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
@pytest.mark.parametrize("protocol", ["url", "target"])
def test_tls_1_1_is_refused(service: Secured, protocol: str) -> None:
    context = client_context(CA)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    host, port = getattr(service.worker, protocol).removeprefix("https://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as plain, pytest.raises(ssl.SSLError):
        context.wrap_socket(plain, server_hostname=host)
    assert protocol == "target" or service.metric('ml_tls_handshakes_failed_total{reason="version"}')


@pytest.mark.parametrize("offered", [["h2", "http/1.1"], ["http/1.1"], []])
def test_a_client_that_offers_http_2_gets_http_1_1(service: Secured, offered: list[str]) -> None:
    context = client_context(CA)
    context.set_alpn_protocols(offered)
    host, port = service.worker.url.removeprefix("https://").split(":")
    with (
        socket.create_connection((host, int(port)), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=host) as connection,
    ):
        assert connection.selected_alpn_protocol() == ("http/1.1" if offered else None)


def test_a_client_that_trusts_another_ca_leaves(service: Secured) -> None:
    before = service.metric('ml_tls_handshakes_failed_total{reason="refused_by_client"}')
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        service.post(client_context(OTHER_CA))
    with pytest.raises(grpc.RpcError, match="CERTIFICATE_VERIFY_FAILED"):
        service.call(channel_credentials(OTHER_CA))
    assert service.metric('ml_tls_handshakes_failed_total{reason="refused_by_client"}') > before


@pytest.mark.parametrize(
    ("certificate", "reason"),
    [
        pytest.param(lambda: CA.issue_cert("elsewhere.example"), "IP address mismatch|Hostname", id="of another host"),
        pytest.param(lambda: expired(CA, *NAMES), "expired", id="expired"),
    ],
)
def test_a_client_refuses_a_certificate(
    loaded: dict[str, LoadedModel], tmp_path: Path, certificate: Callable[[], trustme.LeafCert], reason: str
) -> None:
    """The service starts with it, and says so if it has expired."""
    with secured(loaded, tmp_path, certificate()) as running:
        with pytest.raises(httpx.ConnectError, match=reason):
            running.post(client_context(CA))
        with pytest.raises(grpc.RpcError):
            running.call(channel_credentials(CA))


def test_a_known_client_is_let_in(strict: Secured) -> None:
    assert strict.post(client_context(CA, CLIENT)) == 200
    assert strict.call(channel_credentials(CA, CLIENT))


@pytest.mark.parametrize(
    ("certificate", "reason"),
    [
        pytest.param(None, "no_certificate", id="without a certificate"),
        pytest.param(STRANGER, "unknown_certificate", id="of an unknown CA"),
        pytest.param(expired(CA, "client"), "unknown_certificate", id="expired"),
    ],
)
def test_another_client_is_not(strict: Secured, certificate: trustme.LeafCert | None, reason: str) -> None:
    # Over TLS 1.3 a client learns of it when it reads, and may have lost the answer by then.
    with pytest.raises((httpx.NetworkError, httpx.RemoteProtocolError)):
        strict.post(client_context(CA, certificate))
    with pytest.raises(grpc.RpcError) as refused:
        strict.call(channel_credentials(CA, certificate))
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert strict.metric(f'ml_tls_handshakes_failed_total{{reason="{reason}"}}')


def resumed(url: str, context: ssl.SSLContext, session: ssl.SSLSession | None) -> tuple[ssl.SSLSession | None, bool]:
    """The session of a new connection, and whether it goes on with the one that is given."""
    host, port = url.removeprefix("https://").split(":")
    with (
        socket.create_connection((host, int(port)), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=host, session=session) as connection,
    ):
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        # With TLS 1.3 tickets come now, and alerts. To the end: a session whose connection breaks is forgotten.
        assert connection.recv(1000)
        while connection.recv(1000):
            pass
        return connection.session, bool(connection.session_reused)


def test_a_known_client_is_asked_again_at_each_connection(strict: Secured) -> None:
    """A session that it resumes would spare it the question, also when its certificate has expired."""
    context = client_context(CA, CLIENT)
    session, _ = resumed(strict.worker.url, context, None)
    assert not resumed(strict.worker.url, context, session)[1]


def test_a_new_certificate_is_shown_to_new_connections(service: Secured, caplog: pytest.LogCaptureFixture) -> None:
    before = service.metric('ml_tls_certificate_rereads_total{outcome="done"}')
    with httpx.Client(verify=client_context(CA), base_url=service.worker.url) as kept:
        kept.get("/health").raise_for_status()
        new = CA.issue_cert(*NAMES, not_after=datetime(2040, 1, 2, 3, 4, 5, tzinfo=UTC))
        service.give(new)
        wait_until(lambda: service.serials() == {serial(new)}, "the new certificate over both protocols")
        # It goes on over its connection.
        kept.get("/health").raise_for_status()
    assert service.metric('ml_tls_certificate_rereads_total{outcome="done"}') == before + 1
    expires = service.metric('ml_tls_certificate_expiry_timestamp_seconds{setting="TLS_CERT_FILE"}')
    assert datetime.fromtimestamp(expires, UTC) == datetime(2040, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert "certificate reread" in caplog.text


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_other_cas_of_clients_hold_for_new_connections(
    loaded: dict[str, LoadedModel], tmp_path: Path, version: ssl.TLSVersion
) -> None:
    with secured(loaded, tmp_path, CA.issue_cert(*NAMES), CA) as running:
        known = client_context(CA, CLIENT)
        known.maximum_version = version
        session, _ = resumed(running.worker.url, known, None)
        OTHER_CA.cert_pem.write_to_path(str(tmp_path / "clients.pem"))
        stranger = client_context(CA, STRANGER)

        def is_let_in() -> bool:
            try:
                return running.post(stranger) == 200
            except (httpx.NetworkError, httpx.RemoteProtocolError):
                return False

        wait_until(is_let_in, "a client of the new CA")
        assert running.call(channel_credentials(CA, STRANGER))
        with pytest.raises((ssl.SSLError, ConnectionError, AssertionError)):
            resumed(running.worker.url, known, session)
        with pytest.raises(grpc.RpcError):
            running.call(channel_credentials(CA, CLIENT))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        pytest.param(lambda files: files["TLS_KEY_FILE"].write_text("nothing"), "no private key", id="no key"),
        pytest.param(lambda files: files["TLS_CERT_FILE"].unlink(), "cannot be read", id="no file"),
        pytest.param(
            lambda files: files["TLS_CERT_FILE"].write_bytes(chain(CA.issue_cert(*NAMES))), "not the key", id="mixed up"
        ),
        pytest.param(
            lambda files: write(files["TLS_CERT_FILE"].parent, "server", expired(CA, *NAMES)),
            "expired on",
            id="expired",
        ),
    ],
)
def test_a_bad_new_file_keeps_the_old_certificate(
    service: Secured, caplog: pytest.LogCaptureFixture, spoil: Callable[[dict[str, Path]], object], reason: str
) -> None:
    (old,) = service.serials()
    spoil({name: Path(service.environment[name]) for name in ("TLS_CERT_FILE", "TLS_KEY_FILE")})
    wait_until(lambda: service.metric("ml_tls_certificate_refused") == 1, "the refusal")
    assert service.serials() == {old}
    (record,) = (record for record in caplog.records if record.getMessage() == "certificate not reread")
    assert reason in vars(record)["reason"]
    good = CA.issue_cert(*NAMES)
    service.give(good)
    wait_until(lambda: service.serials() == {serial(good)}, "the good certificate")
    wait_until(lambda: service.metric("ml_tls_certificate_refused") == 0, "the end of the refusal")


def encrypted(key: trustme.LeafCert) -> bytes:
    loaded = load_pem_private_key(key.private_key_pem.bytes(), None)
    return loaded.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"TLS_KEY_FILE": None}, "TLS_CERT_FILE is set, but TLS_KEY_FILE is not. TLS needs"),
        ({"TLS_CERT_FILE": None}, "TLS_KEY_FILE is set, but TLS_CERT_FILE is not."),
        (
            {"TLS_CERT_FILE": None, "TLS_KEY_FILE": None, "TLS_CLIENT_CA_FILE": b""},
            "TLS_CLIENT_CA_FILE is set, but TLS_CERT_FILE and TLS_KEY_FILE are not.",
        ),
        ({"TLS_CERT_FILE": "missing"}, "TLS_CERT_FILE names .*, which cannot be read: No such file"),
        ({"TLS_KEY_FILE": "directory"}, "TLS_KEY_FILE names .*, which cannot be read: Is a directory"),
        ({"TLS_CERT_FILE": b"-----BEGIN NOTHING-----"}, "TLS_CERT_FILE names .*, which has no certificate in PEM form"),
        ({"TLS_CERT_FILE": b"\x30\x82\x01\xf3"}, "TLS_CERT_FILE names .*, which is not PEM text. `openssl x509"),
        (
            {"TLS_CERT_FILE": b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----"},
            "TLS_CERT_FILE names .*, which with TLS_KEY_FILE=.* is refused",
        ),
        ({"TLS_CERT_FILE": b"-" * 5_000_000}, "TLS_CERT_FILE names .*, which is larger than"),
        ({"TLS_KEY_FILE": chain(CLIENT)}, "TLS_KEY_FILE names .*, which has no private key in PEM form"),
        ({"TLS_KEY_FILE": encrypted(CLIENT)}, "TLS_KEY_FILE names .*, which is encrypted.*`openssl pkey"),
        (
            {"TLS_KEY_FILE": CLIENT.private_key_pem.bytes()},
            r"TLS_KEY_FILE names .*, which is not the key of the first certificate in .* \(TLS_CERT_FILE\)",
        ),
        ({"TLS_CLIENT_CA_FILE": b""}, "TLS_CLIENT_CA_FILE names .*, which has no certificate in PEM form"),
        (
            {"TLS_CLIENT_CA_FILE": b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----"},
            "TLS_CLIENT_CA_FILE names .*, which is refused",
        ),
        ({"TLS_PROBE_CERT_FILE": b""}, "The health check needs TLS_PROBE_CERT_FILE and TLS_PROBE_KEY_FILE"),
    ],
)
def test_files_that_cannot_be_used_stop_the_start(
    tmp_path: Path, given: dict[str, bytes | str | None], sentence: str
) -> None:
    pem, key = write(tmp_path, "server", CA.issue_cert(*NAMES))
    (tmp_path / "directory").mkdir()
    environment = {"TLS_CERT_FILE": str(pem), "TLS_KEY_FILE": str(key)}
    for name, content in given.items():
        path = tmp_path / (content if isinstance(content, str) else name)
        if isinstance(content, bytes):
            path.write_bytes(content)
        environment[name] = "" if content is None else str(path)
    with pytest.raises(StartupError, match=sentence):
        Tls.of(Settings.from_environment(environment))


def test_without_settings_there_is_no_tls() -> None:
    assert Tls.of(Settings()) is None


def told(caplog: pytest.LogCaptureFixture, settings: dict[str, object]) -> list[str]:
    """What a start says of its certificates."""
    tls = Tls.of(Settings.model_validate(settings))
    assert tls is not None
    with caplog.at_level(logging.INFO):
        tls.say()
    return [record.getMessage() for record in caplog.records]


def test_an_expired_certificate_is_told_at_the_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pem, key = write(tmp_path, "server", expired(CA, *NAMES))
    assert told(caplog, {"TLS_CERT_FILE": pem, "TLS_KEY_FILE": key}) == ["TLS is on", "certificate has expired"]


def test_a_health_check_that_would_be_refused_is_told_at_the_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pem, key = write(tmp_path, "server", OTHER_CA.issue_cert(*NAMES))
    CA.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    settings: dict[str, object] = {"TLS_CERT_FILE": pem, "TLS_KEY_FILE": key, "TLS_CLIENT_CA_FILE": tmp_path / "ca.pem"}
    _, warning = told(caplog, settings)
    assert "the health check will be refused: set TLS_PROBE_CERT_FILE" in warning
    caplog.clear()
    probe, probe_key = write(tmp_path, "probe", CLIENT)
    assert told(caplog, {**settings, "TLS_PROBE_CERT_FILE": probe, "TLS_PROBE_KEY_FILE": probe_key}) == ["TLS is on"]


@pytest.mark.parametrize("path", [(), ("/livez",)])
def test_the_health_check_asks_over_tls(service: Secured, strict: Secured, path: tuple[str, ...]) -> None:
    """Where clients need a certificate, it shows the service's own."""
    for one in (service, strict):
        ended = subprocess.run(
            [sys.executable, "-IS", healthcheck.__file__, *path],
            env=one.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        # A worker of the tests has no BentoML behind it, whose routes these are.
        assert ended.stderr.strip() == f"{path[0] if path else '/readyz'} answered 404"


def test_the_health_check_says_that_it_is_refused(strict: Secured, tmp_path: Path) -> None:
    pem, key = write(tmp_path, "probe", STRANGER)
    environment = {**strict.environment, "TLS_PROBE_CERT_FILE": str(pem), "TLS_PROBE_KEY_FILE": str(key)}
    assert "does not answer" in str(healthcheck.problem(environment))
    os.truncate(pem, 0)
    assert "the health check cannot use its certificate" in str(healthcheck.problem(environment))
