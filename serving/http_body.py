"""The body of a request, read within the size limit."""

import asyncio

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from contract.errors import DeadlineExceeded, PayloadTooLarge

CLIENT_CLOSED_REQUEST = 499
"""nginx's status for a client that left before it was answered: only metrics see it."""


def header(scope: Scope, name: bytes) -> str | None:
    """A header of the request, by its name in lower case."""
    for key, value in scope["headers"]:
        if key == name:
            text: str = value.decode("latin-1")
            return text
    return None


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
    try:
        async with asyncio.timeout(seconds):
            return await _read(scope, receive, limit)
    except TimeoutError:
        raise DeadlineExceeded(f"The body did not arrive within {seconds:g} seconds.") from None


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
