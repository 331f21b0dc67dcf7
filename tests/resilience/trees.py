"""The processes of a service, and how long they are troubled."""

import os
from contextlib import suppress

import httpx
import psutil

from tests.processes import alive
from tests.waiting import wait_until

LONG = "CHAOS" in os.environ
"""Whether tests that repeat something do it as often as `docs/resilience.md` promises: `make chaos` sets it."""


def parent_of(port: int) -> psutil.Process:
    """The process that starts the workers of the service on a port."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("API_PORT") == str(port) and process.cmdline()[-2:] == ["bentoml", "serve"]:
                return process
    raise AssertionError(f"nobody serves on port {port}")


def workers_of(parent: psutil.Process) -> list[psutil.Process]:
    """Its workers; each may have a drainer below it."""
    return alive(parent.children())


def tree_of(parent: psutil.Process) -> list[psutil.Process]:
    """All of its processes."""
    return [parent, *parent.children(recursive=True)]


def counted(client: httpx.Client, series: str) -> float:
    """The value of a series of ``/metrics``, by a connection of its own: a worker that is killed breaks others."""
    for line in httpx.get(f"{client.base_url}/metrics", timeout=60).text.splitlines():
        if line.startswith(f"{series} "):
            return float(line.rpartition(" ")[2])
    return 0.0


def until_workers_started(client: httpx.Client, number: int) -> None:
    """Wait until so many workers have started, replacements included."""
    wait_until(lambda: counted(client, "ml_worker_starts_total") >= number, f"{number} workers have started")
