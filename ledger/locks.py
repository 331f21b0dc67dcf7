"""Locks on files. The kernel releases a lock when its holder dies, for whatever reason.

They hold among the processes of one machine (or of the containers on it that share a volume), by ``flock``.
"""

import fcntl
import os
from pathlib import Path


def acquire(path: Path, *, shared: bool = False) -> int | None:
    """Lock a file, which is made if there is none.

    Returns:
        A descriptor that holds the lock until it is closed; None if somebody else holds it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def is_held(path: Path) -> bool:
    """Whether some process holds a lock on this file; False if there is no such file."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
