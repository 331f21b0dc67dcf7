"""Crowds: thousands of idle connections, and thousands of requests that are given up."""

import contextlib
import json
import random
import resource
import socket
import struct
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from open_inference.grpc.service import GRPCInferenceServiceStub

from contract.datasets.iris import IRIS
from tests.resilience import callers
from tests.resilience.callers import worker_of
from tests.serving.protocol.wire import message, rows_of, tensor
from tests.serving.running import Running, running
from tests.serving.series import scrape
from tests.waiting import wait_until

pytestmark = pytest.mark.integration

CROWD = 5000
STORM = 5000
"""Requests that are given up, over each protocol."""
LIMIT = 4000
MB = 2**20
ROW = json.dumps(IRIS.example).encode()
HEAD = b"POST /predict/iris HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(
    ROW
)
RESET = struct.pack("ii", 1, 0)
"""Of ``SO_LINGER``: closing the socket resets the connection."""


@contextmanager
def descriptors(wanted: int) -> Iterator[None]:
    """This process, and those that it starts, may open so many files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard not in {resource.RLIM_INFINITY} and hard < wanted:
        pytest.skip(f"this machine lets a process open {hard} files, not {wanted}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


connect = partial(callers.connect, timeout=60)
predicts = partial(callers.predicts, timeout=60)


def told(stream: socket.socket) -> bytes:
    """What the service has said and done by now: nothing, an answer, or an end."""
    stream.settimeout(0)
    try:
        return stream.recv(4096) or b"closed"
    except BlockingIOError:
        return b""
    except ConnectionError:
        return b"closed"


def test_five_thousand_idle_connections_are_kept(pinned: Path, tmp_path: Path) -> None:
    with descriptors(16_000), running(pinned, tmp_path / "log", WORKERS="1", LEDGER="off") as service:
        worker = worker_of(service)
        assert predicts(service)
        before = worker.memory_info().rss
        with contextlib.ExitStack() as opened:
            streams = [opened.enter_context(connect(service)) for _ in range(CROWD)]
            assert all(predicts(service) for _ in range(20))
            assert worker.memory_info().rss - before < CROWD * 30_000
            assert {told(stream) for stream in streams} == {b""}
            for stream in random.Random(0).sample(streams, 200):
                stream.settimeout(60)
                stream.sendall(HEAD + ROW)
                assert stream.recv(4096).startswith(b"HTTP/1.1 200")
        wait_until(lambda: worker.num_fds() < CROWD / 10, "the connections are given back")
        assert predicts(service)


def test_connections_over_the_limit_are_refused_in_a_sentence(pinned: Path, tmp_path: Path) -> None:
    settings = {"WORKERS": "1", "LEDGER": "off", "HTTP_MAX_CONNECTIONS": str(LIMIT)}
    with descriptors(16_000), running(pinned, tmp_path / "log", **settings) as service:
        with contextlib.ExitStack() as opened:
            streams = [opened.enter_context(connect(service)) for _ in range(CROWD)]
            wait_until(lambda: predicts(service), "those that are idle for a second make room", 10)
            assert all(predicts(service) for _ in range(20))
            worker = worker_of(service)
            wait_until(lambda: worker.num_fds() < LIMIT + 200, "the limit holds")
            answers = Counter(told(stream).partition(b"\r\n")[0] for stream in streams)
            assert set(answers) <= {b"", b"closed", b"HTTP/1.1 503 Service Unavailable"}
            assert LIMIT * 0.9 < answers[b""] <= LIMIT
        assert predicts(service)


def give_up_over_http(service: Running, number: int) -> None:
    """Reset connections in the midst of a head, of a body, of an answer, and of a second request."""
    chance = random.Random(number)
    for _ in range(STORM // 4):
        with contextlib.suppress(OSError), connect(service) as stream:
            whole = (HEAD + ROW) * chance.choice([1, 1, 3])
            stream.sendall(whole[: chance.choice([20, len(HEAD), len(HEAD) + 9, len(whole), len(whole)])])
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


def give_up_over_grpc(service: Running) -> None:
    """Cancel calls, some at once and some while they are answered."""
    request = message("iris", tensor("x", rows_of(IRIS, 1)))
    chance = random.Random(0)
    flying = deque[object]()
    for _ in range(STORM):
        flying.append(GRPCInferenceServiceStub(service.channel).ModelInfer.future(request, timeout=60))
        while len(flying) > chance.choice([0, 1, 8, 16]):
            flying.popleft().cancel()  # type: ignore[attr-defined]  # grpc's stubs have no type for it


def test_requests_that_are_given_up_leave_nothing_behind(pinned: Path, tmp_path: Path) -> None:
    with descriptors(16_000), running(pinned, tmp_path / "log", WORKERS="1") as service:
        known = service.client.post("/predict/iris", json=IRIS.example).json()
        assert predicts(service)
        request = message("iris", tensor("x", rows_of(IRIS, 1)))
        outputs = service.stub.ModelInfer(request, timeout=60).outputs
        worker = worker_of(service)
        give_up_over_grpc(service)  # Once, so that the memory of the libraries has grown by then.
        files, memory = worker.num_fds(), worker.memory_info().rss
        with ThreadPoolExecutor(5) as pool:
            storms = [pool.submit(give_up_over_http, service, number) for number in range(4)]
            storms.append(pool.submit(give_up_over_grpc, service))
            wait_until(lambda: all(storm.done() for storm in storms), "the storm is over")
            for storm in storms:
                storm.result()
        answer = service.client.post("/predict/iris", json=IRIS.example).json()
        assert answer | {"prediction_id": ""} == known | {"prediction_id": ""}
        assert service.stub.ModelInfer(request, timeout=60).outputs == outputs

        def in_progress() -> float:
            page = scrape(service.client)
            return page.value("bentoml_service_request_in_progress") + page.value("grpc_server_in_progress")

        wait_until(lambda: in_progress() == 0, lambda: f"{in_progress()} are counted as in progress", 30)
        wait_until(lambda: worker.num_fds() <= files + 10, lambda: f"{worker.num_fds()} files, {files} before", 30)
        grown = (worker.memory_info().rss - memory) / MB
        assert grown < 40, "MB"
        counted = scrape(service.client).of(
            "bentoml_service_request_total", "http_response_code", endpoint="/predict/iris"
        )
        assert {status for status, count in counted.items() if count} <= {"200", "429", "499"}, counted
        assert "Traceback" not in service.log.read_text()
