"""Connections as strangers use them: byte by byte, against the real service."""

import asyncio
import json
import shutil
import socket
import struct
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import httpx
import pytest
import uvicorn
import uvloop
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.server import ServerState

from contract.datasets.iris import IRIS
from serving.http import guard
from serving.http.door import STATE, Door
from serving.settings import Settings

ROW = json.dumps(IRIS.example).encode()
INFER = json.dumps(
    {"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP64", "data": list(IRIS.example.values())}]}
).encode()
POSTS = {
    "/predict/iris": ROW,
    "/predict/iris/batch": b'{"rows": [%s]}' % ROW,
    "/v2/models/iris/infer": INFER,
    "/v2/repository/index": b'{"ready": true}',
}
OFFERS = [
    "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n",
    "Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OQ==\r\n",
    "Upgrade: TLS/1.0, h2c\r\nUpgrade: websocket\r\nConnection: keep-alive\r\nConnection: upgrade\r\n",
]
LIMIT = 2_000_000
"""MAX_BODY_BYTES of the service."""


def post(path: str, body: bytes, headers: str = "", length: int | None = None) -> bytes:
    headers += f"Content-Type: application/json\r\nContent-Length: {len(body) if length is None else length}\r\n"
    return f"POST {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode() + body


class Connection:
    """A connection, and the answers that come on it."""

    def __init__(self, stream: socket.socket) -> None:
        self.stream = stream
        self._file = stream.makefile("rb")

    def send(self, data: bytes) -> None:
        self.stream.sendall(data)

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the next answer."""
        status = int(self._file.readline().split()[1])
        headers = {}
        while line := self._file.readline().strip():
            name, _, value = line.decode().partition(": ")
            headers[name] = value
        return status, headers, self._file.read(int(headers["content-length"]))

    def ended(self) -> bool:
        """Whether the server has sent its last byte, without a reset."""
        return self._file.read() == b""


@pytest.fixture
def connection(client: httpx.Client) -> Iterator[Connection]:
    with connected(client) as opened:
        yield opened


@contextmanager
def connected(client: httpx.Client) -> Iterator[Connection]:
    with socket.create_connection((client.base_url.host, client.base_url.port or 80), timeout=20) as stream:
        yield Connection(stream)


def fields(content: bytes) -> object:
    """The names in a JSON object, or a list as it is: the identifier of a prediction differs from call to call."""
    parsed = json.loads(content)
    return set(parsed) if isinstance(parsed, dict) else parsed


@pytest.mark.parametrize("offer", OFFERS, ids=["h2c", "websocket", "several"])
@pytest.mark.parametrize("path", POSTS)
def test_an_offer_to_upgrade_changes_nothing(connection: Connection, path: str, offer: str) -> None:
    connection.send(post(path, POSTS[path]))
    plain = connection.answer()
    connection.send(post(path, POSTS[path], offer))
    offered = connection.answer()
    assert offered[0] == plain[0] == 200
    assert offered[1].keys() == plain[1].keys()
    assert fields(offered[2]) == fields(plain[2])


@pytest.mark.parametrize("cut", [1, 40, 10_000], ids=["bytes", "pieces", "whole"])
def test_requests_with_and_without_an_offer_follow_each_other(connection: Connection, cut: int) -> None:
    """However the network cuts them, sent in one go."""
    stream = b"".join(
        [
            post("/predict/iris", ROW, OFFERS[0]),
            post("/predict/iris", ROW),
            f"GET /livez HTTP/1.1\r\nHost: x\r\n{OFFERS[1]}\r\n".encode(),
            post("/predict/iris", b"{}", OFFERS[2]),
            post("/predict/iris", ROW, OFFERS[0]),
        ]
    )
    connection.stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for start in range(0, len(stream), cut):
        connection.send(stream[start : start + cut])
    assert [connection.answer()[0] for _ in range(5)] == [200, 200, 200, 400, 200]


def test_many_offers_in_a_row_are_declined(connection: Connection) -> None:
    count = 300
    connection.send(f"GET /livez HTTP/1.1\r\nHost: x\r\n{OFFERS[0]}\r\n".encode() * count)
    assert {connection.answer()[0] for _ in range(count)} == {200}


def test_a_chunked_body_with_an_offer_is_read(connection: Connection) -> None:
    head = "POST /predict/iris HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n" + OFFERS[0] + "\r\n"
    connection.send(head.encode())
    for half in (ROW[:20], ROW[20:]):
        connection.send(b"%x\r\n%s\r\n" % (len(half), half))
    connection.send(b"0\r\n\r\n")
    assert connection.answer()[0] == 200


def test_curl_with_http2_is_answered(client: httpx.Client) -> None:
    curl = shutil.which("curl")
    assert curl, "the tests need curl"
    command = [curl, "-sS", "--http2", "-H", "Content-Type: application/json", "-d", ROW.decode()]
    ended = subprocess.run(
        [*command, str(client.base_url.join("/predict/iris"))], capture_output=True, text=True, check=True
    )
    assert json.loads(ended.stdout)["label"] == "setosa"


def test_connect_is_refused(connection: Connection) -> None:
    connection.send(b"CONNECT /predict/iris HTTP/1.1\r\nHost: x\r\n\r\nanything")
    assert connection.answer()[0] == 400
    assert connection.ended()


@pytest.mark.parametrize("offer", ["", OFFERS[0]], ids=["plain", "offer"])
@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("sent", [0, 5])
def test_a_body_that_is_cut_off_is_not_answered(connection: Connection, path: str, sent: int, offer: str) -> None:
    connection.send(post(path, POSTS[path][:sent], offer, length=len(POSTS[path])))
    connection.stream.shutdown(socket.SHUT_WR)
    assert connection.ended()


def test_a_client_that_stops_sending_gets_its_answers(connection: Connection) -> None:
    connection.send(post("/predict/iris/batch", POSTS["/predict/iris/batch"]) + post("/predict/iris", ROW))
    connection.stream.shutdown(socket.SHUT_WR)
    assert [connection.answer()[0] for _ in range(2)] == [200, 200]
    assert connection.ended()


REFUSALS = [
    ("/predict/iris/batch", "application/json", 413),
    ("/v2/models/iris/infer", "application/json", 413),
    ("/predict/iris", "text/plain", 415),
    ("/v2/models/iris/infer", "text/plain", 415),
    ("/nowhere", "application/json", 404),
    ("/v2/models/tulips/infer", "application/json", 404),
    ("/livez", "application/json", 405),
    ("/docs", "application/json", 405),
    ("/v2", "application/json", 405),
]


@pytest.mark.parametrize("headers", ["", "Connection: close\r\n", OFFERS[0]], ids=["keep-alive", "close", "offer"])
@pytest.mark.parametrize(("path", "media_type", "status"), REFUSALS)
def test_a_client_that_sends_a_large_body_first_can_read_the_refusal(
    connection: Connection, path: str, media_type: str, status: int, headers: str
) -> None:
    size = 8 * LIMIT
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {media_type}\r\nContent-Length: {size}\r\n{headers}\r\n"
    connection.send(head.encode())
    for _ in range(0, size, LIMIT):
        connection.send(b" " * LIMIT)
    got, answered, body = connection.answer()
    assert (got, answered["connection"]) == (status, "close")
    assert json.loads(body)["error"]
    assert connection.ended()


@pytest.mark.parametrize("sends_anyway", [False, True])
def test_a_client_that_asks_first_is_refused_at_once(connection: Connection, sends_anyway: bool) -> None:
    connection.send(post("/predict/iris/batch", b"", "Expect: 100-continue\r\n", length=8 * LIMIT))
    assert connection.answer()[0] == 413
    if sends_anyway:
        for _ in range(8):
            connection.send(b" " * LIMIT)
    assert connection.ended()


def test_a_client_that_asks_first_is_told_to_go_on(connection: Connection) -> None:
    connection.send(post("/predict/iris", b"", "Expect: 100-continue\r\n", length=len(ROW)))
    assert connection.stream.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.send(ROW)
    assert connection.answer()[0] == 200


def test_a_chunked_body_over_the_limit_is_refused_readably(connection: Connection) -> None:
    connection.send(b"POST /predict/iris/batch HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(4):
        connection.send(b"%x\r\n%s\r\n" % (LIMIT, b" " * LIMIT))
    assert connection.answer()[0] == 413
    assert connection.ended()


def test_a_refusal_of_a_complete_request_keeps_the_connection(connection: Connection) -> None:
    for path, body, status in [("/predict/iris", b"{}", 400), ("/nowhere", b"{}", 404), ("/predict/iris", ROW, 200)]:
        connection.send(post(path, body))
        got, headers, _ = connection.answer()
        assert (got, "connection" in headers) == (status, False)


@pytest.mark.parametrize("path", ["/predict/iris/batch", "/nowhere"])
def test_what_never_ends_is_not_read_for_ever(connection: Connection, path: str) -> None:
    connection.send(post(path, b"", "Connection: close\r\n", length=10**12))
    assert connection.answer()[1]["connection"] == "close"
    with pytest.raises(OSError, match=r"reset|pipe"):
        connection.send(bytes(500 * LIMIT))


Story = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def with_a_server(app: ASGIApp, story: Story, **limits: float) -> None:
    """Run a story on one connection to a server of this process, on the event loop that the service has."""

    async def run() -> None:
        state = {STATE: Door(Settings.model_validate(limits))}
        config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off")
        loop = asyncio.get_running_loop()
        server_state = ServerState()
        server = await loop.create_server(lambda: guard.Guard(config, server_state, state), "127.0.0.1", 0)
        async with server, asyncio.timeout(20):
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            await story(reader, writer)
            writer.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


async def turns() -> None:
    """Let the event loop do what has come."""
    for _ in range(20):
        await asyncio.sleep(0)


async def refuse(_: Scope, __: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 413, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body"})


def test_a_client_that_dawdles_is_not_read_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "DRAIN_SECONDS", 0.1)

    async def dawdle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(post("/", b"", length=10**9))
        assert (await reader.read()).startswith(b"HTTP/1.1 413 ")
        with pytest.raises(ConnectionError):
            await send_for_ever(writer)

    with_a_server(refuse, dawdle)


async def send_for_ever(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b" ")
        await writer.drain()
        await turns()  # a drain of a socket with room does not wait, and the server is in this process


def test_a_connection_that_is_idle_is_closed() -> None:
    async def idle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        # It ends without a `connection: close`.
        assert b"connection" not in await reader.read()

    with_a_server(refuse, idle, HTTP_KEEP_ALIVE_SECONDS=0.1)


def test_what_follows_garbage_is_not_answered(caplog: pytest.LogCaptureFixture) -> None:
    refused = asyncio.Event()

    async def answer_later(scope: Scope, receive: Receive, send: Send) -> None:
        await refused.wait()
        await refuse(scope, receive, send)

    async def send_garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(post("/", b"{}") + b"garbage\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
        refused.set()
        await turns()

    with_a_server(answer_later, send_garbage)
    assert not caplog.records  # the door counts it


@pytest.mark.parametrize("stops_first", [True, False])
def test_a_client_that_leaves_while_it_is_answered_is_no_bug(
    caplog: pytest.LogCaptureFixture, stops_first: bool
) -> None:
    gone = asyncio.Event()
    answered = []

    async def answer_later(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await gone.wait()
        await turns()
        await refuse(scope, receive, send)
        answered.append(scope["path"])

    async def leave(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"".join(post(f"/{number}", b"{}") for number in range(3)))
        await writer.drain()
        if stops_first:
            writer.write_eof()
            await turns()
        # So that the end of the connection is a reset.
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        gone.set()
        while not answered:
            await turns()

    with_a_server(answer_later, leave)
    assert not caplog.records
