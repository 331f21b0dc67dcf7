"""Runs a command so that none of its processes outlives the starter: ``python loop/child.py DESCRIPTOR command …``.

The descriptor is one end of a pipe; only the starter has the other. When that end closes, however the starter died,
every process of the command is stopped, and killed if it does not stop. Processes that have left the group or lost
their parent are found too: they become children of this process, or of the starter if this one is killed.
"""

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

import psutil

GRACE_SECONDS = 5.0
"""A stage that is stopped removes its temporary files within this time."""
MARK = "LOOP_COMMAND"
"""Variable that marks the processes of a command: they all inherit it."""
STOPPED = 128 + signal.SIGTERM
"""Exit status of a command that was stopped."""
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
"""Constant of <linux/prctl.h>."""


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent dies. On other systems than Linux: nothing."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_descendants(mark: str, grace_seconds: float = GRACE_SECONDS) -> None:
    """Stop every process of a command, and kill what is left after a while.

    Args:
        mark: what ``start`` has put into its environment.
        grace_seconds: how long.
    """
    deadline = time.monotonic() + grace_seconds
    number = signal.SIGTERM
    told: set[int] = set()
    while running := _descendants(mark):
        if time.monotonic() >= deadline and number is signal.SIGTERM:
            number, told = signal.SIGKILL, set()
        for process in running:
            # Send one signal only: a second one would interrupt a clean end.
            if process.pid not in told:
                told.add(process.pid)
                _signal(process, number)
        psutil.wait_procs(running, timeout=0.05)


def _descendants(mark: str) -> list[psutil.Process]:
    """The processes that run."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue  # It has ended.
    return found


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return  # It has ended.


def start(command: Sequence[str], mark: str, **options: object) -> "tuple[subprocess.Popen[bytes], int]":
    """Start a command under the control of this module.

    Args:
        command: and its arguments.
        mark: tells it from all other commands.
        options: of ``subprocess.Popen``.

    Returns:
        The process, whose exit status is that of the command, and a descriptor: the command ends when it is closed.
    """
    theirs, mine = os.pipe()
    try:
        process: subprocess.Popen[bytes] = subprocess.Popen(  # type: ignore[call-overload]  # noqa: S603 - of any options
            # Started by its path, with that folder kept off the search path: the command may run anywhere.
            [sys.executable, "-P", __file__, str(theirs), *command],
            pass_fds=[theirs],
            env={**os.environ, MARK: mark},
            start_new_session=True,  # Ctrl-C must reach only the starter, which then ends the command.
            **options,
        )
    except OSError:
        os.close(mine)
        raise
    finally:
        os.close(theirs)
    return process, mine


def _run(descriptor: int, command: Sequence[str]) -> int:
    adopt_orphans()
    # A signal that only we get ends the command too.
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    child = subprocess.Popen(command, preexec_fn=_die_with_parent)  # noqa: S603 - of who started it
    ended = os.pidfd_open(child.pid)
    ready, _, _ = select.select([descriptor, reading, ended], [], [])
    status = child.wait() if ended in ready else None
    end_descendants(os.environ[MARK], GRACE_SECONDS if status is None else 0)
    _reap()
    return STOPPED if status is None else status if status >= 0 else 128 - status


def _reap() -> None:
    """Collect the exit status of all processes that have ended; otherwise they would stay as zombies."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return  # There are no more children.


def _die_with_parent() -> None:
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(_run(int(sys.argv[1]), sys.argv[2:]))
