"""What the door of a worker lets in: byte by byte, over real sockets, against the real protocol class."""

import asyncio
import json
import resource
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvicorn
import uvloop
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.server import ServerState

from serving.http import door as door_module
from serving.http.body import read_body
from serving.http.door import RESERVE, STATE, Door, connection_limit
from serving.http.guard import Guard
from serving.receiving import STATE as RECEIVING
from serving.settings import Settings
from serving.telemetry import bulk
from serving.telemetry.call import ARRIVED

GET = b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n"
PROBE = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"


class Server:
    """A server of this process, and its door."""

    def __init__(self, app: ASGIApp, limits: dict[str, Any]) -> None:
        self.door = Door(Settings.model_validate(limits))
        self.door.exempt = {b"/livez"}
        self.refused = Counter[tuple[str, int]]()
        self.door.listener = self.refused.update
        self.state = ServerState()
        self.address: tuple[str, int] = ("", 0)
        self._app = app
        self._clients: list[Client] = []

    async def run(self, story: "Callable[[Server], Awaitable[None]]") -> None:
        config = uvicorn.Config(self._app, log_config=None, access_log=False, lifespan="off")
        state = {STATE: self.door, RECEIVING: self.door.receiving}
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Guard(config, self.state, state), "127.0.0.1", 0)
        async with server, asyncio.timeout(10):
            self.address = server.sockets[0].getsockname()
            try:
                await story(self)
            finally:
                relieve(self)
                for client in self._clients:
                    client.writer.close()
                await self.until(lambda: not self.state.connections)
                bulk.flush()

    async def connect(self) -> "Client":
        client = Client(*await asyncio.open_connection(*self.address))
        self._clients.append(client)
        return client

    async def until(self, condition: Callable[[], object]) -> None:
        while not condition():
            await asyncio.sleep(0.005)


class Client:
    """A connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def answer(self) -> tuple[int, dict[str, str], Any]:
        """Status, headers and body of the next answer."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().splitlines()
        headers = dict(line.split(": ", 1) for line in head[1:] if line)
        body = await self.reader.readexactly(int(headers["content-length"]))
        return int(head[0].split()[1]), headers, json.loads(body) if body else None

    async def ask(self, request: bytes) -> tuple[int, dict[str, str], Any]:
        self.writer.write(request)
        return await self.answer()

    async def ended(self) -> bool:
        return await self.reader.read() == b""

    def reset(self) -> None:
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


async def fine(scope: Scope, receive: Receive, send: Send) -> None:
    del scope, receive
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"{}"})


def tell(story: Callable[[Server], Awaitable[None]], app: ASGIApp = fine, **limits: Any) -> Server:
    """Run a story against a server with these limits, on the event loop that the service has."""
    server = Server(app, limits)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(server.run(story))
    return server


@pytest.mark.parametrize("cut", [1 << 20, 1000], ids=["whole", "pieces"])
@pytest.mark.parametrize(
    ("head", "sentence"),
    [
        (b"X-Long: " + b"a" * 5000 + b"\r\n\r\n", "The headers are larger than 4096 bytes."),
        (b"X-Long: " + b"a" * 5000, "The headers are larger than 4096 bytes."),
        (b"".join(b"X-%d: 1\r\n" % number for number in range(60)) + b"\r\n", "There are more than 50 headers."),
    ],
    ids=["long", "endless", "many"],
)
def test_headers_beyond_the_limits_are_refused(head: bytes, sentence: str, cut: int) -> None:
    if cut > len(head) and not head.endswith(b"\r\n\r\n"):
        head *= 2

    async def story(server: Server) -> None:
        client = await server.connect()
        stream = b"GET / HTTP/1.1\r\nHost: x\r\n" + head
        for start in range(0, len(stream), cut):
            client.writer.write(stream[start : start + cut])
            await asyncio.sleep(0.001)
        status, headers, body = await client.answer()
        assert (status, headers["connection"], body) == (431, "close", {"error": sentence, "detail": []})
        assert headers["x-request-id"]
        assert await client.ended()

    server = tell(story, HTTP_MAX_HEADER_BYTES=4096, HTTP_MAX_HEADERS=50)
    assert sum(server.refused.values()) == 1


@pytest.mark.parametrize("url", ["/" + "a" * 5000, "/?" + "a" * 5000], ids=["path", "query"])
def test_an_address_beyond_the_limit_is_refused(url: str) -> None:
    async def story(server: Server) -> None:
        client = await server.connect()
        assert (await client.ask(f"GET {url} HTTP/1.1\r\nHost: x\r\n\r\n".encode()))[0] == 431

    tell(story, HTTP_MAX_HEADER_BYTES=4096)


def test_headers_up_to_the_limit_and_pipelined_requests_are_taken() -> None:
    async def story(server: Server) -> None:
        client = await server.connect()
        request = b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 4000 + b"\r\n\r\n"
        client.writer.write(request * 50)
        assert [(await client.answer())[0] for _ in range(50)] == [200] * 50

    tell(story, HTTP_MAX_HEADER_BYTES=4096)


async def read(scope: Scope, receive: Receive, send: Send) -> None:
    await read_body(scope, receive, 10**6, 20)
    await fine(scope, receive, send)


@pytest.mark.parametrize("flood", [b"X-Trailer: " + b"a" * 1000, b"1;" + b"a" * 1000], ids=["trailer", "extension"])
def test_what_comes_with_a_chunked_body_and_is_none_of_it_is_bounded(flood: bytes) -> None:
    async def story(server: Server) -> None:
        client = await server.connect()
        client.writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        client.writer.write(b"0\r\n" if flood.startswith(b"X") else b"")
        client.writer.write(flood)
        answer = asyncio.create_task(client.answer())
        while not answer.done():
            client.writer.write(b"a" * 1000)
            await asyncio.sleep(0.001)
        assert (await answer)[0] in {400, 431}

    tell(story, read, HTTP_MAX_HEADER_BYTES=4096)


@pytest.mark.parametrize("sent", [b"G", b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: a"])
def test_headers_that_do_not_arrive_are_not_awaited_for_ever(sent: bytes) -> None:
    async def story(server: Server) -> None:
        client = await server.connect()
        client.writer.write(sent)
        status, headers, body = await client.answer()
        assert (status, headers["connection"]) == (408, "close")
        assert body["error"] == "The headers did not arrive within 0.1 seconds."
        assert await client.ended()

    tell(story, HTTP_HEADER_SECONDS=0.1)


def test_a_slow_body_is_not_taken_for_slow_headers() -> None:
    async def story(server: Server) -> None:
        client = await server.connect()
        client.writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n")
        for _ in range(4):
            await asyncio.sleep(0.1)
            client.writer.write(b"a")
        assert (await client.answer())[0] == 200

    tell(story, read, HTTP_HEADER_SECONDS=0.1)


def test_a_connection_that_asks_nothing_is_closed_silently() -> None:
    async def story(server: Server) -> None:
        client = await server.connect()
        assert await client.ended()

    tell(story, HTTP_KEEP_ALIVE_SECONDS=0.1)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"garbage\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"GET / HTTP/1.1\r\nNo colon\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\n\r\n", 400),
        (b"GET http://[ HTTP/1.1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"CONNECT example.com:443 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET / HTTP/3.0\r\n\r\n", 505),
        (b"GET / HTTP/2.0\r\n\r\n", 505),
        (b"GET /\r\n\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    ],
)
def test_what_is_no_request_is_refused_in_the_one_form(
    sent: bytes, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(server: Server) -> None:
        client = await server.connect()
        got, headers, body = await client.ask(sent)
        assert (got, headers["connection"], headers["content-type"]) == (status, "close", "application/json")
        assert set(body) == {"error", "detail"}
        assert len(body["error"]) < 150
        assert await client.ended()

    assert tell(story).refused.total() == 1
    assert not caplog.records  # strangers do not fill the log


class Blocked:
    """An application whose requests wait until they are let go."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.waiting = 0
        self.arrived: list[float] = []
        self.answered: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.arrived.append(scope["state"][ARRIVED])
        if scope["path"] != "/livez":
            self.waiting += 1
            await self.go.wait()
        await fine(scope, receive, send)
        self.answered.append(scope["path"])


def test_a_full_worker_refuses_what_is_new_but_probes() -> None:
    app = Blocked()

    async def story(server: Server) -> None:
        busy = [await server.connect() for _ in range(3)]
        for client in busy:
            client.writer.write(GET)
        await server.until(lambda: app.waiting == 3)
        status, headers, body = await (await server.connect()).ask(GET)
        assert (status, headers["connection"], headers["retry-after"]) == (503, "close", "1")
        assert "3 connections" in body["error"]
        assert (await (await server.connect()).ask(b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n"))[0] == 503
        assert (await (await server.connect()).ask(PROBE))[0] == 200
        app.go.set()
        assert [(await client.answer())[0] for client in busy] == [200, 200, 200]

    tell(story, app, HTTP_MAX_CONNECTIONS=3)


def test_what_does_not_even_fit_into_the_reserve_is_closed_with_an_answer() -> None:
    app = Blocked()

    async def story(server: Server) -> None:
        clients = [await server.connect() for _ in range(1 + RESERVE)]
        clients[0].writer.write(GET)
        await server.until(lambda: len(server.state.connections) == 1 + RESERVE)
        late = await server.connect()
        assert (await late.answer())[0] == 503
        assert await late.ended()
        app.go.set()
        assert (await clients[0].answer())[0] == 200

    tell(story, app, HTTP_MAX_CONNECTIONS=1)


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET / HTTP/1.1\r\nX-Slow: a", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\na"],
    ids=["silent", "half headers", "half a body"],
)
def test_those_that_keep_a_full_worker_waiting_make_room(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    # Long enough for the last client to ask on a busy machine.
    monkeypatch.setattr(door_module, "PATIENCE_SECONDS", 0.5)

    async def story(server: Server) -> None:
        idle = [await server.connect() for _ in range(8)]
        for client in idle:
            client.writer.write(sent)
        await asyncio.sleep(0.6)
        assert (await (await server.connect()).ask(GET))[0] == 200

    tell(story, read, HTTP_MAX_CONNECTIONS=8)


def test_a_new_connection_is_not_the_one_that_is_closed() -> None:
    """The door looks at the clock once a turn and once a second: a new connection may seem to be older than it is."""

    async def story(server: Server) -> None:
        for _ in range(8):
            await server.connect()
        await server.until(lambda: len(server.state.connections) == 8)
        server.door.now -= 10
        assert (await (await server.connect()).ask(PROBE))[0] == 200

    tell(story, read, HTTP_MAX_CONNECTIONS=8)


def test_a_burst_waits_at_the_door_and_is_answered_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_module, "TURN_REQUESTS", 2)
    app = Blocked()
    app.go.set()

    async def story(server: Server) -> None:
        clients = [await server.connect() for _ in range(40)]
        for client in clients:
            client.writer.write(GET)
        assert [(await client.answer())[0] for client in clients] == [200] * 40
        # All were read in one turn of the event loop: what they waited at the door counts.
        assert app.arrived == sorted(app.arrived)

    server = tell(story, app, MAX_LATENCY_MS=60_000)
    assert not server.refused


def overload(server: Server) -> None:
    """Have the door take requests for so slow that none is in time, until it is relieved."""
    server.door._seconds = 1e6
    server.door.room = 0
    server.door.turning = True
    server.door._queue.append(_Nobody())  # type: ignore[arg-type]


def relieve(server: Server) -> None:
    server.door._seconds = 0.0
    server.door.turn(asyncio.get_running_loop())


class _Nobody:
    """In the queue of the door: a connection whose client has left."""

    held = None


REFUSED = [
    (GET, False),
    (b"POST /predict/iris HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}", False),
    (b"POST /predict/iris HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{}", True),
    (b"POST /predict/iris HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n", True),
    (b"GET / HTTP/1.0\r\n\r\n", True),
    (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", True),
]


@pytest.mark.parametrize(("request_", "closes"), REFUSED)
def test_what_would_wait_too_long_is_refused_before_it_is_looked_at(request_: bytes, closes: bool) -> None:
    async def story(server: Server) -> None:
        client = await server.connect()
        assert (await client.ask(PROBE))[0] == 200
        overload(server)
        status, headers, body = await client.ask(request_.replace(b"Host: x\r\n", b"Host: x\r\nX-Request-ID: mine\r\n"))
        assert (status, headers["retry-after"]) == (429, "1")
        assert ("connection" in headers) == closes
        assert body == {
            "error": "The service is overloaded: an answer would take longer than the limit of 500 ms.",
            "detail": [],
        }
        if b"Host" in request_:
            assert headers["x-request-id"] == "mine"
        if closes:
            assert await client.ended()
        else:
            relieve(server)
            assert (await client.ask(GET))[0] == 200

    assert list(tell(story).refused.values()) == [1]


def test_under_v2_a_refusal_has_the_form_of_the_protocol() -> None:
    async def story(server: Server) -> None:
        client = await server.connect()
        overload(server)
        status, _, body = await client.ask(b"GET /v2/models/iris HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (status, set(body)) == (429, {"error"})

    tell(story)


def test_pipelined_requests_are_refused_up_to_a_probe() -> None:
    async def story(server: Server) -> None:
        client = await server.connect()
        overload(server)
        client.writer.write(GET + GET + PROBE + GET)
        assert [(await client.answer())[0] for _ in range(4)] == [429, 429, 200, 200]

    tell(story)


def test_whoever_tries_again_at_once_is_read_less_often() -> None:
    """And comes in once there is room."""

    async def story(server: Server) -> None:
        client = await server.connect()
        overload(server)
        server.door._allowance = -1e9
        assert (await client.ask(GET))[0] == 429
        assert server.door._resting
        client.writer.write(GET)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(answer := asyncio.ensure_future(client.answer())), 0.05)
        relieve(server)
        assert (await answer)[0] == 200

    tell(story)


@pytest.mark.parametrize("how", ["reset", "closed", "shut"])
def test_a_client_that_leaves_while_it_waits_at_the_door_is_forgotten(how: str) -> None:
    app = Blocked()
    app.go.set()

    async def story(server: Server) -> None:
        client = await server.connect()
        await server.until(lambda: server.state.connections)
        (guard,) = server.state.connections
        assert isinstance(guard, Guard)
        guard.hold(GET, 0.0)
        if how == "reset":
            client.reset()
        elif how == "closed":
            client.writer.close()
        else:
            client.writer.write_eof()
            await asyncio.sleep(0.02)
            guard.admit()
            assert (await client.answer())[0] == 200
        await server.until(lambda: not server.state.connections or guard._ended)
        guard.admit()

    tell(story, app)
    assert app.answered == (["/slow"] if how == "shut" else app.answered)


def test_unfinished_bodies_share_a_budget_and_single_requests_need_none() -> None:
    async def story(server: Server) -> None:
        half = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n" + b"a" * 50_000
        first = await server.connect()
        first.writer.write(half)
        await server.until(lambda: server.door.receiving.taken == 50_000)
        second = await server.connect()
        second.writer.write(half)
        assert (await asyncio.wait_for(second.answer(), 10))[0] == 429
        third = await server.connect()
        whole = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n" + b"a" * 60_000
        assert (await third.ask(whole))[0] in {200, 429}
        assert (await third.ask(GET))[0] == 200
        first.writer.write(b"a" * 10_000)
        assert (await first.answer())[0] == 200
        assert server.door.receiving.taken == 0
        assert (await (await server.connect()).ask(whole))[0] == 200

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        from serving.errors import Overloaded

        try:
            await read(scope, receive, send)
        except Overloaded as error:
            start = {"type": "http.response.start", "status": error.status, "headers": [(b"content-length", b"0")]}
            await send(start)
            await send({"type": "http.response.body"})

    tell(story, app, MAX_RECEIVING_BYTES=65_536, MAX_BODY_BYTES=65_536)


def test_the_limit_of_connections_follows_the_file_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    for descriptors, limit in [(1024, 704), (64, 1), (1_000_000, 10_000), (resource.RLIM_INFINITY, 10_000)]:
        monkeypatch.setattr(resource, "getrlimit", lambda _, soft=descriptors: (soft, soft))
        assert connection_limit() == limit
