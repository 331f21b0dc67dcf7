"""The real service, as ``bentoml serve`` starts it, on a free port of this machine, for as long as a block lasts."""

import itertools
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx

from contract.errors import PipelineError

METRICS_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
"""Each server has its own: one that starts empties it."""
PROJECT = Path(__file__).resolve().parent
_PORTS = range(15_000, 32_000)
"""Below the ports that Linux gives to outgoing connections: none of them takes a port before its service binds it."""
_PORT_NUMBERS = itertools.count(os.getpid() * 101)


@contextmanager
def running_service(
    *, environment: Mapping[str, str] | None = None, ready_within: float = 60, log: Path | None = None
) -> Iterator[str]:
    """The base URL of a service with the models of this BentoML store, ready to answer.

    Args:
        environment: variables beside those of this process; without ``GRPC_PORT`` gRPC gets a free port too.
        ready_within: seconds after which a service that is not ready is given up.
        log: file for what the service prints; by default a temporary one, shown when it does not start.

    Raises:
        PipelineError: the service did not become ready; the end of its log is in the sentence.
    """
    with tempfile.TemporaryDirectory(prefix="local-service-") as directory:
        output = log or Path(directory) / "service.log"
        port = free_port()
        with output.open("wb") as sink:
            process = subprocess.Popen(
                [sys.executable, "-m", "bentoml", "serve"],
                cwd=PROJECT,
                env={
                    **{name: text for name, text in os.environ.items() if name != METRICS_DIRECTORY},
                    "API_HOST": "127.0.0.1",
                    "API_PORT": str(port),
                    "GRPC_PORT": str(free_port()),
                    "BENTOML_DO_NOT_TRACK": "True",
                    **(environment or {}),
                },
                stdout=sink,
                stderr=subprocess.STDOUT,
            )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_until_ready(process, url, ready_within, output)
            yield url
        finally:
            process.terminate()
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def free_port() -> int:
    """A TCP port of the loopback address that nobody listens on now.

    No process gives out a port twice soon, and processes begin at different ports: whoever asks has time to bind.
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


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, seconds: float, log: Path) -> None:
    deadline = time.monotonic() + seconds
    # One client for all: each reads the system's certificates, which costs more than the question.
    with httpx.Client(timeout=2, verify=False, trust_env=False) as client:  # noqa: S501 - it is plain HTTP
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise PipelineError(f"The service stopped while starting: {_tail(log)}")
            try:
                if client.get(f"{url}/readyz").is_success:
                    return
            except httpx.TransportError:
                pass  # It does not listen yet.
            time.sleep(0.05)
    raise PipelineError(f"The service was not ready within {seconds:g} seconds: {_tail(log)}")


def _tail(log: Path) -> str:
    return log.read_text(errors="replace").strip()[-2000:]
