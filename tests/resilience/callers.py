"""What callers of a service do in these tests."""

import contextlib
import socket

import httpx
import psutil

from contract.datasets.iris import IRIS
from tests.serving.running import Running


def connect(service: Running, timeout: float) -> socket.socket:
    """A connection to its HTTP port."""
    url = service.client.base_url
    return socket.create_connection((url.host, url.port or 80), timeout=timeout)


def predicts(service: Running, timeout: float) -> bool:
    """Whether a new client gets a prediction."""
    with contextlib.suppress(httpx.TransportError):
        return httpx.post(f"{service.url}/predict/iris", json=IRIS.example, timeout=timeout).is_success
    return False


def worker_of(service: Running) -> psutil.Process:
    """The worker that answers its client."""
    return psutil.Process(service.client.get("/health").json()["worker"])
