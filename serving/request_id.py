"""The identifier of a request: in its answer, and in every line that is logged on its way."""

import re
from contextvars import ContextVar
from uuid import uuid4

HEADER = "x-request-id"
"""Name of the HTTP header and of the gRPC metadata, asked and answered."""
CURRENT: ContextVar[str] = ContextVar("request_id", default="")
"""The identifier of the request that is being answered; "" outside of one."""

_TAKEN = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}").fullmatch


def begin(asked: str | None) -> str:
    """The identifier that the caller asked for; a new one if it asked for none, or for one too long or odd to log."""
    identifier = asked if asked is not None and _TAKEN(asked) else uuid4().hex
    CURRENT.set(identifier)
    return identifier
