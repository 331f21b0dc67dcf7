"""Workers are killed and servers are stopped under traffic of both protocols: who notices, and for how long."""

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from tests.integration.callers import Ask, Callers
from tests.resilience.trees import LONG, counted, parent_of, workers_of
from tests.serving.running import PATIENT, Running, running
from tests.waiting import wait_until

pytestmark = pytest.mark.integration
logger = logging.getLogger(__name__)

KILLS, STOPS = (10, 20) if LONG else (3, 4)
CALLERS = 4
"""Each asks with a row, a batch and a gRPC call at a time."""
NOTICE_SECONDS = 3.0
"""Until the next worker is begun; on an idle machine it takes half a second."""
START_CPU_SECONDS = 5.0
"""Of processor time until the next worker serves: a limit that holds on a busy machine, too."""


def addresses(service: Running) -> tuple[str, str]:
    url = service.client.base_url
    return f"{url.host}:{url.port}", f"127.0.0.1:{service.grpc_port}"


@contextmanager
def callers(service: Running) -> Iterator[list[Callers]]:
    """Callers of both protocols, who never try again."""
    made = [Callers(*addresses(service)) for _ in range(CALLERS)]
    with ExitStack() as stack:
        for one in made:
            stack.enter_context(one.asking())
        yield made


def answered(made: list[Callers]) -> dict[str, int]:
    return {kind: sum(one.answered(kind) for one in made) for kind in ("row", "batch", "call")}


def failed(made: list[Callers]) -> int:
    return sum(sum(one.failures.values()) for one in made)


def go_on(made: list[Callers]) -> None:
    """Wait until every kind of caller has had some more answers."""
    before = answered(made)
    wait_until(lambda: all(count >= before[kind] + 2 * CALLERS for kind, count in answered(made).items()), "they go on")


def connections(worker: psutil.Process, ports: set[int]) -> int:
    """How many clients a worker has."""
    return sum(
        one.status == psutil.CONN_ESTABLISHED and one.laddr.port in ports for one in worker.net_connections("tcp")
    )


def successor(parent: psutil.Process, known: set[psutil.Process]) -> psutil.Process:
    """The worker that is begun beside those that are known."""
    wait_until(lambda: set(workers_of(parent)) - known, "another one is begun")
    (new,) = set(workers_of(parent)) - known
    return new


def until_it_serves(worker: psutil.Process, port: int) -> None:
    """Wait until a worker listens for gRPC, which it does once its models are warm."""

    def listens() -> bool:
        listening = [one for one in worker.net_connections("tcp") if one.status == psutil.CONN_LISTEN]
        return any(one.laddr.port == port for one in listening)

    wait_until(listens, "it serves")


def test_killed_workers_lose_their_own_requests_alone(pinned: Path, tmp_path: Path) -> None:
    with running(pinned, tmp_path / "log", WORKERS="2", **PATIENT) as service:
        port = int(service.client.base_url.port or 0)
        parent = parent_of(port)
        with callers(service) as made:
            go_on(made)
            for _ in range(KILLS):
                lost, other = workers_of(parent)
                before = failed(made)
                clients = connections(lost, {port, service.grpc_port})
                begun = time.monotonic()
                os.kill(lost.pid, signal.SIGKILL)
                new = successor(parent, {lost, other})
                noticed = time.monotonic() - begun
                until_it_serves(new, service.grpc_port)
                cpu = sum(new.cpu_times()[:2])
                logger.info("begun after %.2f s, serves after %.2f s", noticed, time.monotonic() - begun)
                go_on(made)
                assert failed(made) - before <= clients, [one.failures for one in made]
                assert other in workers_of(parent)
                assert noticed < NOTICE_SECONDS
                assert cpu < START_CPU_SECONDS
        assert counted(service.client, 'ml_worker_exits_total{reason="died"}') == KILLS
        assert "Traceback" not in service.log.read_text()


class Reconnecting(Callers):
    """Callers who connect anew for each request."""

    def rows(self, _: ExitStack) -> Ask:
        def ask() -> str:
            with ExitStack() as stack:
                return super(Reconnecting, self).rows(stack)()

        return ask

    def calls(self, _: ExitStack) -> Ask:
        def ask() -> str:
            with ExitStack() as stack:
                return super(Reconnecting, self).calls(stack)()

        return ask


def until_not_ready(service: Running, over: threading.Event) -> None:
    """As a load balancer does: probe, and send nobody there any more once the probe fails."""
    while not over.is_set():
        if httpx.get(f"{service.url}/readyz", timeout=60).is_success:
            time.sleep(0.05)
        else:
            over.set()


def stop(pinned: Path, log: Path, workers: int) -> None:
    """Start a server, stop it under traffic, and see that nobody's request fails."""
    settings = {"WORKERS": str(workers), "DRAIN_SECONDS": "2", "LEDGER": "on", **PATIENT}
    with running(pinned, log, **settings) as service, ExitStack() as stack:
        made = [Callers(*addresses(service)), Reconnecting(*addresses(service))]
        over = threading.Event()
        prober = stack.enter_context(ThreadPoolExecutor(1)).submit(until_not_ready, service, over)
        parent = parent_of(service.client.base_url.port or 0)
        for one in made:
            stack.enter_context(one.asking(over))
        go_on(made)
        parent.send_signal(signal.SIGTERM)
        prober.result()
        assert parent.wait(timeout=60) == 0
    assert not failed(made), [one.failures for one in made]
    assert "Traceback" not in log.read_text()


def test_a_server_that_is_stopped_fails_nobody(pinned: Path, tmp_path: Path) -> None:
    # Two at a time: most of it is waiting.
    with ThreadPoolExecutor(2) as pool:
        for stopped in [pool.submit(stop, pinned, tmp_path / f"log{n}", 1 + n % 2) for n in range(STOPS)]:
            stopped.result()
