"""What a server's whole process tree used: CPU time and memory."""

from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class Memory:
    """Proportional set size: what is shared between processes counts once, divided among them.

    ``total`` and each of ``processes`` (largest first) are in bytes.
    """

    total: int
    processes: tuple[int, ...]


def tree(pid: int) -> list[psutil.Process]:
    """A process and all that descend from it and live."""
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and all that descend from it, user and system, in seconds.

    A child that ended counts with the one that waited for it: the difference of two readings has it too. One that
    ended and was waited for by a process outside of the tree is lost.
    """
    total = 0.0
    for process in tree(pid):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue  # It ended since it was listed: its parent has its time.
        total += times.user + times.system + times.children_user + times.children_system
    return total


def machine_cpu_seconds() -> float:
    """CPU time that all processes of the machine have used since it started, in seconds."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0))


def own_cpu_seconds() -> float:
    """CPU time of this process and of the children that it waited for: of the load generators, in seconds."""
    times = psutil.Process().cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)


def memory(pid: int) -> Memory:
    """Memory of a process and all that descend from it, now."""
    sizes = []
    for process in tree(pid):
        try:
            sizes.append(int(process.memory_full_info().pss))
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return Memory(sum(sizes), tuple(sorted(sizes, reverse=True)))


def stop(pid: int, seconds: float = 15) -> None:
    """Ask a process to end, then what is left of its tree; who does not end in time is killed."""
    try:
        processes = tree(pid)
    except psutil.NoSuchProcess:
        return
    _signal(processes[:1], kill=False)
    # The root ends its own children, in its own order; what outlives it is asked too.
    psutil.wait_procs(processes[:1], timeout=seconds)
    _, alive = psutil.wait_procs(processes, timeout=2)
    _signal(alive, kill=False)
    _, alive = psutil.wait_procs(alive, timeout=5)
    _signal(alive, kill=True)
    psutil.wait_procs(alive, timeout=5)


def _signal(processes: list[psutil.Process], *, kill: bool) -> None:
    for process in processes:
        try:
            if kill:
                process.kill()
            else:
                process.terminate()
        except psutil.NoSuchProcess:
            continue
