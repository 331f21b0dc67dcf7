"""The protocol class that uvicorn speaks HTTP/1.1 with.

It adds three things to uvicorn's own class:

- An offer to upgrade the connection is declined, as RFC 9110 (7.8) allows, and the request is answered as if there
  were none. httptools stops parsing at the offer, and uvicorn would drop the body (uvicorn#2722).
- A request that is refused before its body has arrived gets its answer. Closing a socket with unread bytes resets the
  connection, and the client then loses what it has not read yet (RFC 9112, 9.6). So we first stop sending, and read on
  for a while.
- A client may stop sending, and keep reading, once its request is complete.
"""

import asyncio
import os
from collections.abc import Callable
from typing import Any

import httptools
from uvicorn import config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.settings import Settings

DRAIN_BYTES = 64 * 1024 * 1024
"""How much of a refused body is read and thrown away, at most."""
DRAIN_SECONDS = 5.0
"""How long a refused body is read, at most."""


def install(settings: Settings) -> None:
    """Make uvicorn use ``Guard`` for the servers that are configured from now on."""
    Guard.keep_alive_seconds = settings.HTTP_KEEP_ALIVE_SECONDS
    # uvicorn by itself believes every process of this machine.
    os.environ["FORWARDED_ALLOW_IPS"] = settings.FORWARDED_ALLOW_IPS
    config.HTTP_PROTOCOLS["auto"] = f"{Guard.__module__}:{Guard.__qualname__}"


class Guard(HttpToolsProtocol):
    """One connection."""

    keep_alive_seconds: float = Settings.model_fields["HTTP_KEEP_ALIVE_SECONDS"].default

    transport: "ClosingTransport"  # type: ignore[assignment]  # uvicorn calls it as it would call its own

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.timeout_keep_alive = self.keep_alive_seconds  # type: ignore[assignment]  # any number of seconds will do
        self.ws_protocol_class = None
        self.parser = Parser(self)
        self._malformed = False
        self._reusable = False

    @property
    def unread(self) -> bool:
        """Whether the client may still be sending: the rest of a body, or more than will be answered."""
        cycle: Any = self.cycle  # None before the first request, whatever uvicorn's types say
        return self._malformed or bool(self.pipeline) or (cycle is not None and cycle.more_body)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Begin; uvicorn gets a transport that drains before it closes."""
        super().connection_made(ClosingTransport(transport, self))  # type: ignore[arg-type]

    def connection_lost(self, exc: Exception | None) -> None:
        """End; an answer that is still being made goes nowhere."""
        self.transport.lose()
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio takes a bool; uvicorn always closes
        """Keep the connection open if a complete request is still to be answered; the client stopped sending."""
        cycle: Any = self.cycle
        if cycle is None or cycle.response_complete or cycle.more_body:
            return False
        cycle.keep_alive = False
        return True

    def on_headers_complete(self) -> None:
        """Start a request, except one that offers an upgrade: that one is parsed again, without the offer."""
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise ValueError("CONNECT is for proxies")
            return
        super().on_headers_complete()
        # A connection is used again only if the body has arrived by the time of the answer.
        self._reusable = self.cycle.keep_alive
        self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        """Note that the body is complete."""
        if self.parser.should_upgrade():
            return
        if not self.cycle.response_started:
            self.cycle.keep_alive = self._reusable
        super().on_message_complete()

    def decline_upgrade(self, rest: memoryview) -> None:
        """Parse the request whose headers were last read again, without its offer of an upgrade.

        Args:
            rest: what has been received behind those headers.
        """
        while True:
            head = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
            head += [b"%s: %s" % (name, value) for name, value in self.headers if name != b"upgrade"]
            self.parser = Parser(self)
            # Not our own feed_data: many such requests in a row would recurse.
            feed = super(Parser, self.parser).feed_data
            feed(b"\r\n".join([*head, b"\r\n"]))
            try:
                feed(rest)
            except httptools.HttpParserUpgrade as offer:
                rest = rest[offer.args[0] :]
            else:
                return

    def send_400_response(self, msg: str) -> None:
        """Refuse what cannot be parsed, and whatever follows it."""
        self._malformed = True
        super().send_400_response(msg)

    def shutdown(self) -> None:
        """Close once the current request is answered."""
        self._reusable = False
        super().shutdown()


class Parser(httptools.HttpRequestParser):
    """httptools' parser, going on where it stops at an offer of an upgrade."""

    def __init__(self, guard: Guard) -> None:
        super().__init__(guard)
        # As uvicorn has it: what follows a request with `Connection: close` is ignored.
        self.set_dangerous_leniencies(lenient_data_after_close=True)
        self._guard = guard

    def feed_data(self, data: Any) -> None:
        """Parse what was received."""
        try:
            super().feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            self._guard.decline_upgrade(memoryview(data)[offer.args[0] :])


class ClosingTransport:
    """A transport, whose ``close`` lets the client read the answer."""

    def __init__(self, transport: asyncio.Transport, guard: Guard) -> None:
        self._transport = transport
        self._guard = guard
        self._closing = False
        self.write: Callable[[bytes], None] = transport.write

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        """Whether no more requests are answered."""
        return self._closing or self._transport.is_closing()

    def close(self) -> None:
        """Close at once, or after a drain if the client may still be sending."""
        if self.is_closing() or not self._guard.unread:
            self._transport.close()
            return
        self._closing = True
        self.lose()
        self._guard.flow.resume_reading()
        self._transport.set_protocol(Drain(self._transport, self._guard))
        if self._transport.can_write_eof():
            self._transport.write_eof()

    def lose(self) -> None:
        """Write no more: uvloop raises, where asyncio ignores what comes after the end."""
        self.write = _discard


class Drain(asyncio.Protocol):
    """Reads what a client still sends, until it stops or the limits are reached."""

    def __init__(self, transport: asyncio.Transport, guard: Guard) -> None:
        self._transport = transport
        self._guard = guard
        self._bytes_left = DRAIN_BYTES
        self._timer = guard.loop.call_later(DRAIN_SECONDS, transport.close)

    def data_received(self, data: bytes) -> None:
        """Throw it away."""
        self._bytes_left -= len(data)
        if self._bytes_left < 0:
            self._transport.close()

    def pause_writing(self) -> None:
        """The client reads slowly."""
        self._guard.pause_writing()

    def resume_writing(self) -> None:
        """The client has caught up."""
        self._guard.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """The end, for uvicorn too."""
        self._timer.cancel()
        self._guard.connection_lost(exc)


def _discard(_: bytes) -> None:
    pass
