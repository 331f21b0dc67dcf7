"""Processes that do the same at once."""

import multiprocessing
from multiprocessing.pool import Pool

_CONTEXT = multiprocessing.get_context("forkserver")
# Imported once, and not by each process.
_CONTEXT.set_forkserver_preload([f"tests.ledger.test_{name}" for name in ("database", "jobs", "store")])


def pool(processes: int) -> Pool:
    """A pool of processes. They are not forked from that of the tests, which has threads of its own.

    In a fork, a lock that another thread held is held for ever.
    """
    return _CONTEXT.Pool(processes)
