"""What tests ask of processes, each of which may end between two looks at it."""

from collections.abc import Iterable

import psutil

from serving.telemetry.scrape import is_alive


def alive(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Those that run."""
    return [process for process in processes if is_alive(process.pid)]


def arguments(process: psutil.Process) -> list[str]:
    """The command line of a process; empty once it has ended."""
    try:
        return list(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []
