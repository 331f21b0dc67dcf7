import subprocess
import sys
import time

import pytest

from load_tests.benchmark import processes
from tests.processes import alive

BURN = "import time\nwhile time.process_time() < {seconds}: pass\n"
PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]])
if sys.argv[2] == "wait":
    child.wait()
print("ready", flush=True)
sys.stdin.read()
"""


def start(code: str, what: str) -> "subprocess.Popen[str]":
    """A parent with a child that runs ``code``; it says "ready" and lives until its input ends."""
    return subprocess.Popen(
        [sys.executable, "-c", PARENT, code, what], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def end(parent: "subprocess.Popen[str]") -> None:
    """Kill both: ``processes.stop`` would give them time to end."""
    for process in processes.tree(parent.pid):
        process.kill()
    parent.communicate()


@pytest.mark.parametrize("what", ["wait", "leave"])
def test_cpu_of_a_child_counts_whether_it_lives_or_ended(what: str) -> None:
    seconds = 0.3
    lasting = "time.sleep(60)" if what == "leave" else ""
    parent = start(BURN.format(seconds=seconds) + lasting, what)
    try:
        assert parent.stdout is not None
        parent.stdout.readline()
        deadline = time.monotonic() + 30
        used = 0.0
        while used < seconds and time.monotonic() < deadline:
            used = processes.cpu_seconds(parent.pid)
        # A clock tick (10 ms) is cut off of each figure; interpreters that start use some of their own.
        assert seconds - 0.05 <= used < seconds + 1.5
    finally:
        end(parent)


def test_an_idle_tree_uses_nothing() -> None:
    parent = start("", "wait")
    try:
        assert parent.stdout is not None
        parent.stdout.readline()
        before = processes.cpu_seconds(parent.pid)
        time.sleep(0.2)
        assert processes.cpu_seconds(parent.pid) - before < 0.05
    finally:
        end(parent)


def test_memory_counts_each_process() -> None:
    parent = start("block = bytearray(40_000_000)\nprint('filled', flush=True)\nimport time\ntime.sleep(60)", "leave")
    try:
        assert parent.stdout is not None
        while "filled" not in parent.stdout.readline():
            pass
        memory = processes.memory(parent.pid)
        assert len(memory.processes) == 2
        assert memory.total == sum(memory.processes)
        assert memory.processes[0] > 40_000_000 > memory.processes[1]
    finally:
        end(parent)


def test_stopping_ends_the_children_too() -> None:
    parent = start("import time\ntime.sleep(60)", "leave")
    assert parent.stdout is not None
    parent.stdout.readline()
    started = processes.tree(parent.pid)
    assert len(started) == 2
    processes.stop(parent.pid)
    parent.communicate()
    assert not alive(started)
