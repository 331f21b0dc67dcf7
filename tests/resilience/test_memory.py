"""The README's promise of 512 MB: many callers of the largest legal batches, at the default limits."""

import json
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import pytest

from contract.dataset import MAXIMUM_BATCH_ROWS
from contract.datasets.housing import HOUSING
from tests.resilience.trees import LONG, counted
from tests.serving.running import Running, running
from tests.waiting import wait_until

pytestmark = pytest.mark.integration
logger = logging.getLogger(__name__)

CALLERS = 32
SECONDS = 20 if LONG else 8
LIMIT = 512 * 2**20
"""Of a container, in bytes."""
CGROUPS = Path("/sys/fs/cgroup/memory")


@contextmanager
def container() -> Iterator[Path]:
    """A cgroup with that limit, as a container has one; whoever goes over it is killed."""
    ours = CGROUPS / f"tests-{os.getpid()}"
    try:
        ours.mkdir()
        (ours / "memory.limit_in_bytes").write_text(str(LIMIT))
    except OSError as error:
        pytest.skip(f"this machine gives us no cgroup for memory: {error}")
    try:
        yield ours
    finally:
        wait_until(lambda: not (ours / "cgroup.procs").read_text(), "its processes have ended")
        ours.rmdir()


@contextmanager
def inside(cgroup: Path) -> Iterator[None]:
    """Processes that are started in this block are in the cgroup."""
    former = CGROUPS / Path("/proc/self/cgroup").read_text().partition(":memory:/")[2].partition("\n")[0]
    (cgroup / "cgroup.procs").write_text(str(os.getpid()))
    try:
        yield
    finally:
        (former / "cgroup.procs").write_text(str(os.getpid()))


def flat() -> tuple[str, bytes, dict[str, str]]:
    """The largest legal batch in flat JSON."""
    body = json.dumps({"rows": [HOUSING.example] * MAXIMUM_BATCH_ROWS}).encode()
    return "/predict/housing/batch", body, {"content-type": "application/json"}


def protocol() -> tuple[str, bytes, dict[str, str]]:
    """The same in the JSON of the Open Inference Protocol."""
    data = [*HOUSING.example.values()] * MAXIMUM_BATCH_ROWS
    tensor = {"name": "x", "datatype": "FP64", "shape": [MAXIMUM_BATCH_ROWS, len(HOUSING.features)], "data": data}
    return "/v2/models/housing/infer", json.dumps({"inputs": [tensor]}).encode(), {"content-type": "application/json"}


def call_again_and_again(
    service: Running, path: str, body: bytes, headers: dict[str, str], answers: Counter[int], over: threading.Event
) -> None:
    url = service.client.base_url
    while not over.is_set():
        connection = HTTPConnection(url.host, url.port, timeout=60)
        with suppress(OSError, HTTPException):
            connection.request("POST", path, body, headers)
            response = connection.getresponse()
            response.read()
            answers[response.status] += 1
            if response.status != 200:
                over.wait(1)  # As `Retry-After` says.
        connection.close()


@pytest.mark.parametrize("form", [flat, pytest.param(protocol, marks=pytest.mark.weekly)])
def test_any_number_of_large_batches_fits_into_a_small_container(
    pinned: Path, tmp_path: Path, form: Callable[[], tuple[str, bytes, dict[str, str]]]
) -> None:
    answers = Counter[int]()
    over = threading.Event()
    with container() as cgroup, ExitStack() as stack:
        with inside(cgroup):
            service = stack.enter_context(running(pinned, tmp_path / "log", WORKERS="2", LEDGER="on"))
        before = int((cgroup / "memory.usage_in_bytes").read_text())
        with ThreadPoolExecutor(CALLERS) as pool:
            callers = [pool.submit(call_again_and_again, service, *form(), answers, over) for _ in range(CALLERS)]
            time.sleep(SECONDS)
            over.set()
            for caller in callers:
                caller.result()
        most = int((cgroup / "memory.max_usage_in_bytes").read_text())
        logger.info("%d MB before, %d MB at most, answers %s", before / 2**20, most / 2**20, dict(answers))
        assert answers[200]
        assert set(answers) <= {200, 429}
        assert counted(service.client, 'ml_worker_exits_total{reason="died"}') == 0
        assert "oom_kill 0" in (cgroup / "memory.oom_control").read_text()
        assert "Traceback" not in service.log.read_text()
