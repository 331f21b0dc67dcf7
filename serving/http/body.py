"""What a request says of itself, and its body, read within the limits of size and time."""

import asyncio

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from contract.errors import DeadlineExceeded, MethodNotAllowed, PayloadTooLarge

CLIENT_CLOSED_REQUEST = 499
"""nginx's status for a client that left before it was answered: only metrics see it."""

_LATE = "the body is late"
"""By this the cancellation of a timer is told from any other."""


def header(scope: Scope, name: bytes) -> str | None:
    """A header of the request, by its name in lower case."""
    for key, value in scope["headers"]:
        if key == name:
            text: str = value.decode("latin-1")
            return text
    return None


def media_type(scope: Scope) -> str:
    """The media type of the body, in lower case and without parameters; "" if the request does not say."""
    return (header(scope, b"content-type") or "").partition(";")[0].strip().lower()


def check_method(scope: Scope, allowed: str) -> None:
    """Refuse a method that the path does not take; who takes GET takes HEAD too.

    Raises:
        MethodNotAllowed: names both.
    """
    if scope["method"] != allowed and (scope["method"], allowed) != ("HEAD", "GET"):
        raise MethodNotAllowed(f"{scope['path'][:200]} takes {allowed}, not {scope['method'][:20]}.", allowed)


async def read_body(scope: Scope, receive: Receive, limit: int, seconds: float) -> bytes:
    """The whole body.

    Args:
        scope, receive: of the request, as ASGI has them.
        limit: the most bytes to take.
        seconds: the longest time to wait for the whole of it.

    Raises:
        PayloadTooLarge: it is longer; what its length announces is not read at all.
        DeadlineExceeded: it did not arrive in time.
        ClientDisconnect: nobody waits for an answer any more.
    """
    # As asyncio.timeout does it, which takes a twentieth of a small prediction's time.
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("a body is read outside of a task")
    timer = asyncio.get_running_loop().call_later(seconds, task.cancel, _LATE)
    try:
        return await _read(scope, receive, limit)
    except asyncio.CancelledError as error:
        if error.args != (_LATE,):
            raise
        task.uncancel()
        raise DeadlineExceeded(f"The body did not arrive within {seconds:g} seconds.") from None
    finally:
        timer.cancel()


async def _read(scope: Scope, receive: Receive, limit: int) -> bytes:
    length = header(scope, b"content-length") or "0"
    if length.isdecimal() and int(length) > limit:
        raise _too_large(limit)
    chunks = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"The body is larger than {limit} bytes; send the rows in several requests.")
