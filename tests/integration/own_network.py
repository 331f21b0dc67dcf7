"""A network of one's own: nothing but a loopback, on which every port is free."""

import ctypes
import os
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

CLONE_NEWNET = 0x40000000
"""linux/sched.h; ``os.unshare`` and ``os.setns`` came with Python 3.12."""


@contextmanager
def own_network() -> Iterator[None]:
    """This thread, and what it starts, in a new network namespace; afterwards back in the one it came from."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/thread-self/ns/net").open("rb") as before:
        _check(libc.unshare(CLONE_NEWNET))
        try:
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            yield
        finally:
            _check(libc.setns(before.fileno(), CLONE_NEWNET))


def _check(result: int) -> None:
    if result:
        error = ctypes.get_errno()
        raise OSError(error, f"{os.strerror(error)} (a network of one's own takes root)")


@contextmanager
def names(hosts: Iterable[str], resolv_conf: Path) -> Iterator[None]:
    """A DNS server on this loopback by which each host is this machine, and the ``resolv.conf`` that names it.

    It stands in for the one that compose gives its networks: Prometheus finds the service by DNS, not in a hosts file.
    """
    resolv_conf.write_text("nameserver 127.0.0.1\n")
    command = ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--no-resolv", "--no-hosts"]
    command += ["--listen-address=127.0.0.1", "--bind-interfaces", "--user=root"]
    command += [f"--address=/{host}/127.0.0.1" for host in hosts]
    with subprocess.Popen(command) as server:
        try:
            yield
        finally:
            server.terminate()
