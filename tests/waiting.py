"""Waiting for a condition, in place of sleeping for a time that is hoped to be enough."""

import time
from collections.abc import Callable

import httpx


def wait_until(condition: Callable[[], object], what: str | Callable[[], str], seconds: float = 120) -> None:
    """Wait for a condition; fail with the words ``what`` if it does not come within these seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what if isinstance(what, str) else what()}"
        time.sleep(0.02)


def answers(url: str) -> bool:
    """Whether a server answers a GET with success."""
    try:
        return httpx.get(url, timeout=5).is_success
    except httpx.TransportError:
        return False
