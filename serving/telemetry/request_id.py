"""Request identifiers: each is in the answer, and in every log line of the request."""

import re
import time
from contextvars import ContextVar
from random import Random

HEADER = "x-request-id"
"""Name of the HTTP header and of the gRPC metadata, in requests and answers."""
CURRENT: ContextVar[str] = ContextVar("request_id", default="")
"""The identifier of the current request; "" outside of a request."""

# Identifiers are names, not secrets: as unlikely to collide as UUIDs, without a system call for each.
_RANDOM = Random()  # noqa: S311
_TAKEN = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}").fullmatch


def begin(asked: str | None) -> str:
    """Start a request and return its identifier, as ``choose`` has it."""
    identifier = choose(asked)
    CURRENT.set(identifier)
    return identifier


def choose(asked: str | None) -> str:
    """The identifier that was asked for, or a new one if it is unusable."""
    return asked if asked is not None and _TAKEN(asked) else new()


def new() -> str:
    """A new identifier of 32 hexadecimal digits: nanoseconds since 1970, then 64 random bits.

    They grow with time because the ledger indexes them: keys in order cost a third to write.
    """
    return f"{time.time_ns():016x}{_RANDOM.getrandbits(64):016x}"
