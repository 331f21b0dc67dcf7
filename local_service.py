"""Run the real service, as ``bentoml serve`` starts it, on a free loopback port for the length of a ``with`` block."""

import itertools
import os
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from pathlib import Path

import httpx

from contract.errors import BundleError

METRICS_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
"""A server empties this directory when it starts, so each needs its own."""
KEYS = tuple(f"{ring}_KEYS{end}" for ring in ("API", "ADMIN", "METRICS") for end in ("", "_FILE"))
TLS = ("TLS_CERT_FILE", "TLS_KEY_FILE", "TLS_CLIENT_CA_FILE", "TLS_PROBE_CERT_FILE", "TLS_PROBE_KEY_FILE")
NOT_INHERITED = (METRICS_DIRECTORY, "STATE_DIR", "DATABASE_URL", *KEYS, *TLS)
"""Variables that are not inherited: predictions made here belong in no ledger, and the caller has no key to the
service."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")
PROJECT = Path(__file__).resolve().parent
_PORTS = range(20_000, 32_000)
"""Below the ports that Linux gives to outgoing connections: none of them takes a port before its service binds it."""
_PORT_NUMBERS = itertools.count(os.getpid() * 101)


class ServiceNotStarted(BundleError):
    """The service did not become ready; the end of its log is in the sentence."""


@contextmanager
def running_service(
    *, environment: Mapping[str, str] | None = None, ready_within: float = 180, log: Path | None = None
) -> Iterator[str]:
    """Start a service with the models of this BentoML store, wait until all its workers are ready, and yield its base
    URL.

    Requests to it bypass any proxy, see ``bypass_proxies``.

    Args:
        environment: variables added to those of this process. HTTP and gRPC get free ports unless ``API_PORT`` and
            ``GRPC_PORT`` are given, the ledger is kept in a temporary directory unless ``STATE_DIR`` is, and the
            service asks for no keys, and speaks plain text, unless some settings say so.
        ready_within: seconds to wait until the service is ready.
        log: file for the service's output. Default: a temporary file, whose end is part of the error.

    Raises:
        ServiceNotStarted: the service did not become ready. The message contains the end of its log.
    """
    bypass_proxies(os.environ)
    with tempfile.TemporaryDirectory(prefix="local-service-") as directory:
        output = log or Path(directory) / "service.log"
        port = (environment or {}).get("API_PORT") or str(free_port())
        with output.open("wb") as sink:
            process = subprocess.Popen(
                [sys.executable, "-m", "bentoml", "serve"],
                cwd=PROJECT,
                env={
                    **{name: text for name, text in os.environ.items() if name not in NOT_INHERITED},
                    "API_HOST": "127.0.0.1",
                    "API_PORT": port,
                    "GRPC_PORT": str(free_port()),
                    "STATE_DIR": str(Path(directory) / "state"),
                    "BENTOML_DO_NOT_TRACK": "True",
                    **(environment or {}),
                },
                stdout=sink,
                stderr=subprocess.STDOUT,
            )
        try:
            url = f"{'https' if (environment or {}).get('TLS_CERT_FILE') else 'http'}://127.0.0.1:{port}"
            _wait_until_ready(process, url, ready_within, output, _trusting(environment or {}))
            if _says_when_all_started({**os.environ, **(environment or {})}):
                _wait_until_all_started(process, ready_within, output)
            yield url
        finally:
            process.terminate()
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def bypass_proxies(environment: MutableMapping[str, str]) -> None:
    """Add the loopback addresses to ``NO_PROXY``, so that no HTTP or gRPC client sends them through a proxy.

    Call it with ``os.environ`` before the first client is created: httpx, requests, urllib and gRPC all read the
    variable, and child processes inherit it. Other hosts are not affected.
    """
    listed = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    hosts = [host.strip() for host in listed.split(",") if host.strip()]
    if "*" not in hosts:
        hosts += [host for host in LOOPBACK if host not in hosts]
    # gRPC reads the lower-case name, others prefer it, and Go programs prefer the upper-case one.
    environment["no_proxy"] = environment["NO_PROXY"] = ",".join(hosts)


def free_port() -> int:
    """A TCP port of the loopback address that nobody listens on now.

    A process does not give out the same port twice soon, and processes start at different ports, so the caller has time
    to bind.
    """
    for number in _PORT_NUMBERS:
        port = _PORTS[number % len(_PORTS)]
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue  # It is in use.
            return port
    raise AssertionError("the numbers do not end")


def _trusting(environment: Mapping[str, str]) -> ssl.SSLContext:
    """TLS for a service on the loopback address, whose certificate need not name it; with a client certificate if it
    wants one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if environment.get("TLS_CLIENT_CA_FILE"):
        kind = "PROBE_" if environment.get("TLS_PROBE_CERT_FILE") else ""
        context.load_cert_chain(environment[f"TLS_{kind}CERT_FILE"], environment[f"TLS_{kind}KEY_FILE"])
    return context


def _wait_until_ready(
    process: subprocess.Popen[bytes], url: str, seconds: float, log: Path, trusting: ssl.SSLContext
) -> None:
    deadline = time.monotonic() + seconds
    # One client for all: each reads the system's certificates, which costs more than the question.
    with httpx.Client(timeout=2, verify=trusting, trust_env=False) as client:
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise ServiceNotStarted(f"The service stopped while starting: {_tail(log)}")
            try:
                if client.get(f"{url}/readyz").is_success:
                    return
            except httpx.TransportError:
                pass  # It does not listen yet.
            time.sleep(0.05)
    raise ServiceNotStarted(f"The service was not ready within {seconds:g} seconds: {_tail(log)}")


def _says_when_all_started(environment: Mapping[str, str]) -> bool:
    """Whether the log has a line for it. With one worker, ``/readyz`` says it sooner."""
    return environment.get("WORKERS") != "1" and environment.get("LOG_LEVEL", "").upper() in {"", "DEBUG", "INFO"}


def _wait_until_all_started(process: subprocess.Popen[bytes], seconds: float, log: Path) -> None:
    deadline = time.monotonic() + seconds
    while b"ready: http" not in log.read_bytes():
        if process.poll() is not None or time.monotonic() >= deadline:
            raise ServiceNotStarted(f"Not all workers were ready within {seconds:g} seconds: {_tail(log)}")
        time.sleep(0.05)


def _tail(log: Path) -> str:
    return log.read_text(errors="replace").strip()[-2000:]
