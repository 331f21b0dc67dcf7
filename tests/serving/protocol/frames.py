"""HTTP/2 frames by hand: what a client of gRPC would never send. https://www.rfc-editor.org/rfc/rfc9113"""

import select
import socket
import struct
import time
from collections import defaultdict

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
FRAME = 16_384
"""Largest frame that every server takes, in bytes."""
INFER = "/inference.GRPCInferenceService/ModelInfer"


class Frames:
    """A connection that sends frames and heeds the windows of the server."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.window = 65_535
        self._initial = 65_535
        self.windows: dict[int, int] = defaultdict(lambda: self._initial)
        self.ended: dict[int, int] = {}
        """Streams that the server has ended: the kind of the frame."""
        self.closed = False
        self._buffer = b""
        self.socket.sendall(PREFACE)
        self.send(SETTINGS, 0, b"")

    def send(self, kind: int, stream: int, payload: bytes, flags: int = 0) -> None:
        head = struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream)
        self.socket.sendall(head + payload)

    def call(self, stream: int, path: str = INFER) -> None:
        """Begin a call."""
        headers = {
            ":method": "POST",
            ":scheme": "http",
            ":path": path,
            ":authority": "localhost",
            "content-type": "application/grpc",
            "te": "trailers",
        }
        block = b"".join(b"\x00" + _text(name) + _text(value) for name, value in headers.items())
        self.send(HEADERS, stream, block, flags=0x4)

    def reset(self, stream: int) -> None:
        """Cancel a call."""
        self.send(RST_STREAM, stream, struct.pack(">I", 8))

    def message(self, size: int, sent: int) -> bytes:
        """The first ``sent`` bytes of a message of this size."""
        return (b"\x00" + struct.pack(">I", size) + b"\x3a" + bytes(sent))[:sent]

    def pour(self, streams: dict[int, bytes], seconds: float) -> int:
        """Send what the windows allow, for so long; the number of bytes that were sent."""
        end = time.monotonic() + seconds
        sent = 0
        while streams and time.monotonic() < end and not self.closed:
            self.listen(0.01)
            for stream, rest in list(streams.items()):
                room = min(self.window, self.windows[stream], FRAME, len(rest))
                if stream in self.ended or not rest:
                    del streams[stream]
                elif room > 0:
                    self.send(DATA, stream, rest[:room])
                    self.window -= room
                    self.windows[stream] -= room
                    streams[stream] = rest[room:]
                    sent += room
        return sent

    def listen(self, seconds: float) -> None:
        """Take what the server sends, for so long at least."""
        while not self.closed and select.select([self.socket], [], [], seconds)[0]:
            seconds = 0
            try:
                received = self.socket.recv(65_536)
            except ConnectionError:
                received = b""
            self.closed = not received
            self._buffer += received
        while len(self._buffer) >= 9:
            size = int.from_bytes(self._buffer[:3], "big")
            if len(self._buffer) < 9 + size:
                return
            kind, flags = self._buffer[3:5]
            stream = int.from_bytes(self._buffer[5:9], "big")
            self._take(kind, flags, stream, self._buffer[9 : 9 + size])
            self._buffer = self._buffer[9 + size :]

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == SETTINGS and not flags & 1:
            for position in range(0, len(payload), 6):
                name, value = struct.unpack(">HI", payload[position : position + 6])
                if name == 4:
                    for known in self.windows:
                        self.windows[known] += value - self._initial
                    self._initial = value
            self.send(SETTINGS, 0, b"", flags=1)
        elif kind == PING and not flags & 1:
            self.send(PING, 0, payload, flags=1)
        elif kind == WINDOW_UPDATE:
            more = int.from_bytes(payload, "big")
            if stream:
                self.windows[stream] += more
            else:
                self.window += more
        elif kind == GOAWAY:
            self.closed = True
        elif kind == RST_STREAM or (kind == HEADERS and flags & 1):
            self.ended[stream] = kind


def _text(text: str) -> bytes:
    """A word of HPACK, as it is."""
    return bytes([len(text)]) + text.encode()
