"""The protocol class that uvicorn speaks HTTP/1.1 with.

It adds three things to uvicorn's own class:

- An offer to upgrade the connection is declined, as RFC 9110 (7.8) allows, and the request is answered as if there
  were none. httptools stops parsing at the offer, and uvicorn would drop the body (uvicorn#2722).
- A request that is refused before its body has arrived gets its answer. Closing a socket with unread bytes resets the
  connection, and the client then loses what it has not read yet (RFC 9112, 9.6). So we stop sending first, and keep
  reading for a while.
- A client may stop sending, and keep reading, once its request is complete.
"""

import asyncio
import os
from collections.abc import Callable
from time import perf_counter
from typing import Any

import httptools
import uvicorn
from uvicorn import config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from serving.draining import DRAINING
from serving.http.door import LEFT, Door, Refusal
from serving.settings import Settings
from serving.telemetry import request_id
from serving.telemetry.call import ARRIVED

DRAIN_BYTES = 64 * 1024 * 1024
"""Maximum bytes of a refused body that are read and thrown away."""
DRAIN_SECONDS = 5.0
"""Maximum seconds that a refused body is read."""
REQUEST_ID = request_id.HEADER.encode()
VERSIONS = ("1.1", "1.0")
OTHER_VERSIONS = ("Invalid HTTP version", "Pause on PRI/Upgrade")
"""httptools' errors for an unknown version of HTTP, and for HTTP/2."""
OTHER_VERSION = Refusal(505, "HTTP Version Not Supported", "The service speaks HTTP/1.1 and HTTP/1.0.")
CONNECT = Refusal(400, "Bad Request", "The service is no proxy: it does not take CONNECT.")


def install(settings: Settings) -> None:
    """Make uvicorn use ``Guard`` for the servers that are configured from now on."""
    # By default uvicorn trusts every process of this machine.
    os.environ["FORWARDED_ALLOW_IPS"] = settings.FORWARDED_ALLOW_IPS
    config.HTTP_PROTOCOLS["auto"] = f"{Guard.__module__}:{Guard.__qualname__}"


class Guard(HttpToolsProtocol):
    """One connection."""

    transport: "ClosingTransport"  # type: ignore[assignment]  # uvicorn calls it as it would call its own

    def __init__(
        self, config: uvicorn.Config, server_state: ServerState, app_state: dict[str, Any], *args: Any, **kwargs: Any
    ) -> None:
        super().__init__(config, server_state, app_state, *args, **kwargs)
        self.ws_protocol_class = None
        self.parser = Parser(self)
        self.door = Door.of(app_state)
        self.held: bytes | None = None
        """Bytes received while it waits at the door; None if it does not wait."""
        self.held_since = 0.0
        self._ended = False
        self.rests_since = 0.0
        self._rests = False
        self._woken = -1
        self._between = True
        self._received = 0.0
        self._since = 0.0
        self._chunk = 0
        self._fruitless = 0
        self._progress = False
        self._banned: Refusal | None = None
        self._refusal: Refusal | None = None
        self._skipped: Refusal | None = None
        self._malformed = False
        self._reusable = False
        self._closing_since: float | None = None
        self._answered: Any = None

    @property
    def unread(self) -> bool:
        """Whether the client may still be sending: the rest of a body, or more than will be answered."""
        cycle: Any = self.cycle  # None before the first request, whatever uvicorn's types say
        refused = self._malformed or self._skipped is not None
        return refused or bool(self.pipeline) or (cycle is not None and cycle.more_body)

    @property
    def _head_complete(self) -> bool:
        return "method" in self.scope

    @property
    def idle(self) -> bool:
        """Whether every request that began has its answer."""
        cycle: Any = self.cycle
        return self._between and (cycle is None or cycle.response_complete) and not self.pipeline

    # What asyncio calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Begin, and give uvicorn a transport that drains before it closes."""
        super().connection_made(ClosingTransport(transport, self))  # type: ignore[arg-type]
        self.door.watch(self.loop, self.connections)
        self._since = self.door.now
        if len(self.connections) > self.door.max_connections:
            self.door.make_room(self, self.connections)

    def data_received(self, data: bytes) -> None:
        """Parse what was received; the first bytes of a request may have to wait at the door."""
        if self._between:
            door = self.door
            if door.room:
                door.room -= 1
                if not door.turning:
                    door.begin_turn(self.loop)
            elif self.held is not None:
                self.hold(self.held + data, self.held_since)
                return
            elif self.idle:
                door.receive(self, data)
                return
        self._received = perf_counter()
        self._feed(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """End. An answer that is still being made is dropped."""
        self.held = None
        self.transport.lose()
        answered = self._answered
        if answered is not None and not answered.response_complete:
            # uvicorn notifies the last request, which may be behind this one in the pipeline.
            answered.disconnected = True
            answered.scope["state"][LEFT] = True
            answered.message_event.set()
        super().connection_lost(exc)
        # Break the reference: the garbage collector rarely runs.
        self.transport.forget()

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio takes a bool; uvicorn always closes
        """Keep the connection open if a complete request is still to be answered; the client stopped sending."""
        if self.held is not None:
            self._ended = True
            return True
        cycle: Any = self.cycle
        if cycle is None or cycle.response_complete or cycle.more_body:
            return False
        cycle.keep_alive = False
        return True

    # What the door calls

    def arrived_at(self, now: float) -> float:
        """When bytes received now may have arrived: they may have waited while the connection rested."""
        return self.rests_since if self._woken == self.door.turns else now

    def hold(self, data: bytes, arrived: float) -> None:
        """Keep the first bytes of a request, which came at this time of ``perf_counter``."""
        self.held, self.held_since = data, arrived
        if len(data) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()

    def admit(self) -> None:
        """Parse what was held."""
        held, self.held = self.held, None
        if held is None:
            return
        self.flow.resume_reading()
        self._received = self.held_since
        self._feed(held)
        if self._ended and not self.eof_received():
            self.transport.close()

    def refuse(self, refusal: Refusal, data: bytes) -> None:
        """Parse a request only as far as it takes to refuse it, unless it is exempt."""
        self.flow.resume_reading()
        self._received = perf_counter()
        self._refusal = refusal
        self._feed(data)
        if self._ended and not self.eof_received():
            self.transport.close()

    def rest(self) -> bool:
        """Stop reading for now. False if an answer is due, or the client is gone."""
        if not self.idle or self.transport.is_closing():
            return False
        self._rests = True
        self.rests_since = self.door.now
        self.flow.pause_reading()
        return True

    def wake(self) -> None:
        """Read again."""
        self._rests = False
        self._woken = self.door.turns
        if not self.transport.is_closing():
            self.flow.resume_reading()

    def turn_away(self, refusal: Refusal, *, at_once: bool) -> None:
        """Refuse the connection's request, unless it is exempt; or close the connection now."""
        self._banned = refusal
        if at_once:
            self.door.note(b"", refusal.status)
            self._write(refusal, b"", close=True)
            self.transport.end()

    def kept_waiting(self, now: float) -> float | None:
        """Seconds for which the client has not sent what is next; None if it is not its turn."""
        if self.held is not None or self._rests:
            return None
        return now - self._since if self.idle or not self._between else None

    def evict(self) -> None:
        """Close the connection, since others need it."""
        if not self._between:
            self._write(self.door.crowded, self._path(), close=True)
            self.door.note(self._path(), self.door.crowded.status)
        self.transport.end()

    def check_time(self, now: float) -> None:
        """Close the connection if its client takes too long."""
        seconds = self.kept_waiting(now)
        if self.transport.is_closing():
            self._closing_since = now if self._closing_since is None else self._closing_since
            if now - self._closing_since > 2 * DRAIN_SECONDS:
                # The client does not read its answer.
                self.transport.abort()
        elif seconds is None:
            return
        elif self._between:
            if seconds > self.door.idle_seconds:
                self.transport.close()
        elif not self._head_complete and seconds > self.door.header_seconds:
            self._refuse(self.door.late_head)

    # What the parser calls

    def on_message_begin(self) -> None:
        """Note that a request has begun."""
        self._between = False
        self._since = self.door.now
        self._fruitless = 0
        if self._refusal is None:
            super().on_message_begin()
        else:
            self._begin_cheaply()

    def on_headers_complete(self) -> None:
        """Start a request, except one that offers an upgrade: that one is parsed again, without the offer."""
        door = self.door
        if len(self.headers) > door.headers:
            raise _Refused(door.many_headers)
        if self._chunk + self._fruitless > door.header_bytes and self._head_bytes() > door.header_bytes:
            raise _Refused(door.large_head)
        if self.parser.get_http_version() not in VERSIONS:
            raise _Refused(OTHER_VERSION)
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise _Refused(CONNECT)
            return
        refusal = self._banned or self._refusal
        cycle: Any = self.cycle
        # A pipelined request waits for the answer to the one before.
        if refusal is not None and (cycle is None or cycle.response_complete):
            if self._path() in door.exempt:
                self._refusal = None
                url, headers = self.url, self.headers
                super().on_message_begin()
                self.url = url
                self.headers += headers
            else:
                self._skipped = refusal
                self.scope["method"] = self.parser.get_method().decode("ascii")
                return
        self._progress = True
        self.scope["state"][ARRIVED] = self._received
        super().on_headers_complete()
        if not self.pipeline:
            self._answered = self.cycle
        # A connection is used again only if the body has arrived by the time of the answer.
        self._reusable = self.cycle.keep_alive and self._banned is None
        self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Take a part of a body."""
        if self._skipped is None:
            self._progress = True
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that the body is complete."""
        if self.parser.should_upgrade():
            return
        self._between = self._progress = True
        if self._skipped is not None:
            refusal, self._skipped = self._skipped, None
            self._answer_refused(refusal, close=self._banned is not None or not self.parser.should_keep_alive())
            return
        if not self.cycle.response_started:
            self.cycle.keep_alive = self._reusable
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Go on with the next request, if there is one."""
        if self.pipeline:
            self._answered = self.pipeline[-1][0]
        elif not self.transport.is_closing():
            # As uvicorn does, but without a timer for each request.
            self.server_state.total_requests += 1
            self._since = self.door.now
            self.flow.resume_reading()
            return
        super().on_response_complete()

    def _begin_cheaply(self) -> None:
        """Begin a request that is likely to be refused: it needs no scope."""
        self.url = b""
        self.headers = []
        self.scope = {}  # type: ignore[typeddict-item]

    def _feed(self, data: bytes) -> None:
        self._chunk = len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._refuse(_refusal_of(error))
            return
        if not self._between:
            self._check_unfinished()
        elif self._refusal is not None:
            self._refusal = None

    def _check_unfinished(self) -> None:
        """Check what was received of a request that goes on."""
        if self._skipped is not None:
            self._answer_refused(self._skipped, close=True)
        elif self._progress:
            self._progress = False
            self._fruitless = 0
        else:
            # Part of the headers, or bytes around a body that are not part of it.
            self._fruitless += self._chunk
            if self._fruitless > self.door.header_bytes:
                self._refuse(self.door.large_head)

    def _head_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _path(self) -> bytes:
        """The path of the request whose headers were read last."""
        return (getattr(self, "url", None) or b"").partition(b"?")[0]

    def _refuse(self, refusal: Refusal) -> None:
        """Refuse what cannot be served, and whatever follows it."""
        self._malformed = True
        self.door.note(b"", refusal.status)
        self._write(refusal, self._path(), close=True)
        self.transport.close()

    def _answer_refused(self, refusal: Refusal, *, close: bool) -> None:
        """Answer a request that was not let in."""
        path = self._path()
        close = close or DRAINING.begun
        self.door.note(path, refusal.status)
        self._write(refusal, path, close=close)
        self._since = self.door.now
        if close:
            # `unread` is right until here: whether the client may still be sending.
            self.transport.close()
        self._skipped = None

    def _write(self, refusal: Refusal, path: bytes, *, close: bool) -> None:
        body = refusal.protocol if path.startswith(b"/v2") else refusal.flat
        asked = None
        for name, value in self.headers or ():
            if name == REQUEST_ID:
                asked = value.decode("latin-1")
                break
        end = b"connection: close\r\n\r\n" if close else b"\r\n"
        scope: Any = self.scope  # None before the first request, whatever uvicorn's types say
        if scope is not None and scope.get("method") == "HEAD":
            body = b""
        self.transport.write(
            b"%s%sx-request-id: %s\r\ncontent-length: %d\r\n%s%s"
            % (
                refusal.head,
                self.door.default_headers(self.server_state.default_headers),
                request_id.choose(asked).encode(),
                len(body),
                end,
                body,
            )
        )

    def decline_upgrade(self, rest: memoryview) -> None:
        """Parse the request whose headers were last read again, without its offer of an upgrade.

        Args:
            rest: what has been received behind those headers.
        """
        while True:
            head = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
            head += [b"%s: %s" % (name, value) for name, value in self.headers if name != b"upgrade"]
            self.parser = Parser(self)
            # Call the parser's feed_data, not ours: many such requests in a row would recurse.
            feed = super(Parser, self.parser).feed_data
            feed(b"\r\n".join([*head, b"\r\n"]))
            try:
                feed(rest)
            except httptools.HttpParserUpgrade as offer:
                rest = rest[offer.args[0] :]
            else:
                return

    def shutdown(self) -> None:
        """Close once the current request is answered."""
        self.admit()
        self._reusable = False
        super().shutdown()


class _Refused(Exception):
    """Ends the parsing of a request that is refused."""

    def __init__(self, refusal: Refusal) -> None:
        self.refusal = refusal


def _refusal_of(error: httptools.HttpParserError) -> Refusal:
    """What a client is told of an error of the parser."""
    reason = error.__context__
    if isinstance(reason, _Refused):
        return reason.refusal
    if str(error) in OTHER_VERSIONS:
        return OTHER_VERSION
    detail = str(reason or error)
    return Refusal(400, "Bad Request", f"This is not a valid HTTP request: {detail[:60]}.")


class Parser(httptools.HttpRequestParser):
    """httptools' parser, going on where it stops at an offer of an upgrade."""

    def __init__(self, guard: Guard) -> None:
        super().__init__(guard)
        # As in uvicorn: bytes after a request with `Connection: close` are ignored.
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

    def end(self) -> None:
        """Close without a drain."""
        self._closing = True
        self.lose()
        self._transport.close()

    def forget(self) -> None:
        """Drop the references that form a cycle."""
        del self._guard

    def lose(self) -> None:
        """Stop writing: after the end uvloop raises, where asyncio ignores writes."""
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
