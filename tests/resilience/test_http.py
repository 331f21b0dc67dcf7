"""Strangers on the HTTP port: endless headers, half requests, resets and more load than there is room for."""

import asyncio
import contextlib
import json
import resource
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import psutil
import pytest

from contract.datasets.iris import IRIS
from tests.resilience import callers
from tests.serving.running import Running, running
from tests.serving.series import scrape
from tests.waiting import wait_until

pytestmark = pytest.mark.integration

ROW = json.dumps(IRIS.example).encode()
POST = b"POST /predict/iris HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
    len(ROW),
    ROW,
)
MANY = 2400
FEW, CROWD = 32, 650
DESCRIPTORS = 1024
MB = 1024 * 1024


@pytest.fixture(scope="module")
def service(pinned: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One worker with few file descriptors; this process may open as many as it is allowed to."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    log = tmp_path_factory.mktemp("http") / "service.log"
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, hard))
    try:
        with running(pinned, log, WORKERS="1") as started:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            yield started
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def worker(service: Running) -> psutil.Process:
    """The worker."""
    return callers.worker_of(service)


connect = partial(callers.connect, timeout=20)
predicts = partial(callers.predicts, timeout=5)


def statuses(service: Running) -> Counter[str]:
    counted = scrape(service.client).of("bentoml_service_request_total", "http_response_code", endpoint="/predict/iris")
    return Counter({status: int(count) for status, count in counted.items()})


def test_an_endless_header_is_refused_after_some_kilobytes(service: Running) -> None:
    with connect(service) as stream:
        stream.sendall(b"GET / HTTP/1.1\r\nX-Endless: ")
        with pytest.raises(OSError, match=r"reset|pipe|timed out"):
            stream.sendall(b"a" * 200 * MB)
    assert predicts(service)


def test_half_headers_lock_nobody_out(service: Running) -> None:
    with contextlib.ExitStack() as opened:
        for _ in range(MANY):
            stream = opened.enter_context(connect(service))
            with contextlib.suppress(OSError):  # It may have been refused by now.
                stream.sendall(b"GET / HTTP/1.1\r\nX-Half: a")
        assert httpx.get(f"{service.url}/livez", timeout=20).status_code in {200, 503}
        # Those that keep it waiting for longer than a second make room.
        wait_until(lambda: predicts(service), "no prediction beside half headers", seconds=5)
        assert all(predicts(service) for _ in range(50))
        assert httpx.get(f"{service.url}/livez", timeout=20).is_success


def test_half_bodies_take_little_memory_and_it_is_given_back(service: Running, worker: psutil.Process) -> None:
    assert predicts(service)
    before = worker.memory_info().rss
    size = 4 * MB - 2
    head = (
        b"POST /predict/iris/batch HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    )
    with contextlib.ExitStack() as opened:
        for _ in range(150):
            stream = opened.enter_context(connect(service))
            stream.sendall(head % size)
            with contextlib.suppress(OSError):
                stream.sendall(b" " * (size - 1))
        assert worker.memory_info().rss - before < 100 * MB
        assert predicts(service)
    wait_until(
        lambda: worker.memory_info().rss - before < 20 * MB,
        lambda: f"{(worker.memory_info().rss - before) / MB:.0f} MB are kept",
        seconds=30,
    )


def test_pipelined_requests_and_a_reset_are_no_bug_of_ours(service: Running) -> None:
    before = statuses(service)
    for _ in range(50):
        with connect(service) as stream:
            stream.sendall(POST * 3)
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert predicts(service)
    wait_until(lambda: statuses(service) - before, "nothing was counted", seconds=10)
    assert set(statuses(service) - before) <= {"200", "499"}
    assert "Traceback" not in service.log.read_text()


async def _ask_again_and_again(address: tuple[str, int], until: float, answers: Counter[int]) -> None:
    reader, writer = await asyncio.open_connection(*address)
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        while time.monotonic() < until:
            writer.write(POST)
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]))
            answers[int(head[9:12])] += 1
    writer.close()


def closed_loop(service: Running, connections: int, seconds: float) -> Counter[int]:
    """Answers by status to so many clients that ask again at once, whatever they are answered."""
    answers = Counter[int]()
    url = service.client.base_url
    address = (url.host, url.port or 80)

    async def all_of_them() -> None:
        until = time.monotonic() + seconds
        await asyncio.wait(
            [asyncio.create_task(_ask_again_and_again(address, until, answers)) for _ in range(connections)],
            timeout=seconds + 5,
        )

    asyncio.run(all_of_them())
    return answers


def test_overload_takes_little_of_what_is_answered(service: Running, worker: psutil.Process) -> None:
    """The client of this process needs the same cores: what counts is the worker's CPU time for an answer."""

    def answers_a_second(connections: int) -> float:
        before = sum(worker.cpu_times()[:2])
        answers = closed_loop(service, connections, 3)
        assert set(answers) <= ({200} if connections == FEW else {200, 429})
        return answers[200] / (sum(worker.cpu_times()[:2]) - before)

    assert answers_a_second(CROWD) > 0.5 * answers_a_second(FEW)
    started = time.monotonic()
    assert predicts(service)
    assert time.monotonic() - started < 2
