"""The keeper of the workers, with processes that beat, sleep, spin or are stopped."""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil
import pytest

from local_service import PROJECT
from serving import heartbeat
from serving.workers import HUNG_LOOKS, START_LOOKS, STUCK_LOOKS, Keeper
from tests.waiting import wait_until

BEATS = """
import os, threading, time
from serving import heartbeat
def beat(times):
    for _ in range(times):
        heartbeat.beat(int(os.environ[heartbeat.VARIABLE]))
        time.sleep(0.01)
"""
ALIVE = f"{BEATS}\nbeat(10**6)"
ASLEEP = f"{BEATS}\nbeat(10)\ntime.sleep(600)"
SPINNING = f"{BEATS}\nbeat(10)\nwhile True: pass"
HALF_ASLEEP = f"""{BEATS}
def work():
    while True: sum(range(1000))
beat(10)
threading.Thread(target=work, daemon=True).start()
time.sleep(600)
"""
"""Its main thread hangs, while another goes on."""
STARTING = "import time\ntime.sleep(600)"
FAILING = "raise SystemExit(1)"
LOOK = 0.01
"""Between two looks, in seconds: silence is counted in looks."""


@pytest.fixture
def keeper() -> Iterator[Keeper]:
    made = Keeper(2)
    yield made
    made.close()


@contextmanager
def worker(keeper: Keeper, code: str) -> Iterator[psutil.Popen]:
    environment = dict(os.environ)
    keeper.introduce(environment)
    pipe = int(environment[heartbeat.VARIABLE])
    process = psutil.Popen([sys.executable, "-c", code], cwd=PROJECT, env=environment, pass_fds=[pipe])
    try:
        if "beat(" in code:
            wait_until(lambda: started(keeper, process), "it beats")
        yield process
    finally:
        with suppress(psutil.NoSuchProcess):
            process.kill()
        process.wait()


def started(keeper: Keeper, process: psutil.Popen) -> bool:
    keeper.look([process.pid])
    return keeper._workers[process.pid].started


def killed_within(keeper: Keeper, process: psutil.Popen, looks: int) -> bool:
    """Whether it is killed within so many looks, after the last beat is read."""
    keeper.look([process.pid])
    for _ in range(looks):
        keeper.look([process.pid])
        time.sleep(LOOK)
        if process.poll() is not None:
            return True
    return False


@pytest.mark.parametrize("code", [ASLEEP, HALF_ASLEEP], ids=["asleep", "half asleep"])
def test_a_worker_whose_event_loop_does_nothing_any_more_is_killed(keeper: Keeper, code: str) -> None:
    with worker(keeper, code) as process:
        assert killed_within(keeper, process, 10 * HUNG_LOOKS)
        assert process.returncode == -signal.SIGKILL


def test_a_stopped_worker_is_killed(keeper: Keeper) -> None:
    with worker(keeper, ALIVE) as process:
        assert not killed_within(keeper, process, 3 * HUNG_LOOKS)
        process.suspend()
        assert killed_within(keeper, process, 3 * HUNG_LOOKS)


def test_a_busy_worker_gets_a_minute(keeper: Keeper) -> None:
    with worker(keeper, SPINNING) as process:
        assert not killed_within(keeper, process, STUCK_LOOKS - 20)
        assert killed_within(keeper, process, STUCK_LOOKS)


def test_a_worker_that_starts_has_time(keeper: Keeper) -> None:
    with worker(keeper, STARTING) as process:
        assert not killed_within(keeper, process, 3 * HUNG_LOOKS)
        assert killed_within(keeper, process, 2 * START_LOOKS)


def test_a_machine_that_stops_for_a_while_kills_nobody(keeper: Keeper) -> None:
    """Nobody looks while all stop together, so that nobody is silent for long afterwards."""
    with worker(keeper, ALIVE) as process:
        process.suspend()
        time.sleep(20 * LOOK)
        keeper.look([process.pid])
        process.resume()
        assert not killed_within(keeper, process, 3 * HUNG_LOOKS)


@pytest.mark.skipif(sys.platform != "linux", reason="attaches by Linux' ptrace")
def test_a_worker_in_a_debugger_is_left_alone(keeper: Keeper) -> None:
    attach, detach = 16, 17
    ptrace = ctypes.CDLL(None, use_errno=True).ptrace
    with worker(keeper, ALIVE) as process:
        if ptrace(attach, process.pid, None, None):
            pytest.skip("this machine does not let a process attach to its child")
        try:
            wait_until(lambda: process.status() == psutil.STATUS_TRACING_STOP, "it is stopped")
            for _ in range(3 * HUNG_LOOKS):
                keeper.look([process.pid])
            assert process.status() == psutil.STATUS_TRACING_STOP
        finally:
            os.waitpid(process.pid, os.WUNTRACED)
            ptrace(detach, process.pid, None, None)


def fail(keeper: Keeper) -> None:
    with worker(keeper, FAILING) as process:
        keeper.look([process.pid])
        process.wait()
    keeper.look([])


def test_after_failures_the_next_start_waits_ever_longer(keeper: Keeper) -> None:
    delays = []
    for _ in range(8):
        begun = time.monotonic()
        fail(keeper)
        delays.append(keeper._start_at - begun)
    assert delays[0] < 1.5 <= delays[2] - delays[1] + 1.5
    assert 8 < delays[4] < 20
    assert 30 <= delays[-1] < 40
    assert not keeper.may_start


def test_a_worker_that_served_is_replaced_at_once_however_often(keeper: Keeper) -> None:
    for _ in range(5):
        with worker(keeper, ALIVE) as process:
            keeper.look([process.pid])
        keeper.look([])
        assert keeper.may_start


def test_one_that_lives_does_not_hide_that_another_cannot_start(keeper: Keeper) -> None:
    with worker(keeper, ALIVE) as living:
        for _ in range(4):
            with worker(keeper, FAILING) as process:
                keeper.look([living.pid, process.pid])
                process.wait()
            keeper.look([living.pid])
        wait_until(lambda: started(keeper, living), "it beats on")
        assert not keeper.may_start


def test_where_no_worker_ever_starts_there_is_no_hope(keeper: Keeper) -> None:
    fail(keeper)
    assert not keeper.hopeless, "the other may start"
    fail(keeper)
    assert keeper.hopeless


def test_where_one_has_started_there_is_hope(keeper: Keeper) -> None:
    with worker(keeper, ALIVE) as process:
        keeper.look([process.pid])
    for _ in range(3):
        fail(keeper)
    assert not keeper.hopeless


def test_a_worker_that_was_told_to_end_has_not_failed(keeper: Keeper, caplog: pytest.LogCaptureFixture) -> None:
    with worker(keeper, ALIVE) as process:
        keeper.look([process.pid])
        keeper.dismiss(process.pid)
    keeper.look([])
    assert not caplog.records
    assert keeper.may_start


def test_a_worker_learns_that_nobody_looks_after_it_any_more() -> None:
    keeper = Keeper(1)
    environment: dict[str, str] = {}
    keeper.introduce(environment)
    pipe = os.dup(int(environment[heartbeat.VARIABLE]))
    keeper.close()
    with pytest.raises(BrokenPipeError):
        heartbeat.beat(pipe)
    os.close(pipe)


def test_a_parent_that_does_not_read_holds_no_worker_up(keeper: Keeper) -> None:
    environment: dict[str, str] = {}
    keeper.introduce(environment)
    for _ in range(20_000):  # 80 kB: more than a pipe holds
        heartbeat.beat(int(environment[heartbeat.VARIABLE]))
