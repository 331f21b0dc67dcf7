"""Waiting for a condition, in place of sleeping for a time that is hoped to be enough."""

import time
from collections.abc import Callable

import httpx


def wait_until(condition: Callable[[], object], what: str | Callable[[], str], seconds: float = 120) -> None:
    """Wait for a condition; fail with the words ``what`` if it does not come within these seconds."""
    started = time.monotonic()
    while not condition():
        waited = time.monotonic() - started
        assert waited < seconds, f"not within {seconds:g} s: {what if isinstance(what, str) else what()}"
        # To look takes time of a core that what we wait for may need: after a long wait, a little later is soon enough.
        time.sleep(min(max(waited / 20, 0.02), 0.1))


def answers(url: str) -> bool:
    """Whether a server answers a GET with success."""
    try:
        return httpx.get(url, timeout=5).is_success
    except httpx.TransportError:
        return False
