"""The identifier of a request: in its answer, and in every line that is logged on its way."""

import re
from contextvars import ContextVar
from random import Random

HEADER = "x-request-id"
"""Name of the HTTP header and of the gRPC metadata, asked and answered."""
CURRENT: ContextVar[str] = ContextVar("request_id", default="")
"""The identifier of the request that is being answered; "" outside of one."""

# Names, no secrets: as unlikely to meet twice as a UUID, without the system call of each.
_RANDOM = Random()  # noqa: S311
_TAKEN = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}").fullmatch


def begin(asked: str | None) -> str:
    """The identifier that the caller asked for; a new one if it asked for none, or for one too long or odd to log."""
    identifier = asked if asked is not None and _TAKEN(asked) else new()
    CURRENT.set(identifier)
    return identifier


def new() -> str:
    """An identifier of 32 hexadecimal digits that nothing else has."""
    return f"{_RANDOM.getrandbits(128):032x}"
