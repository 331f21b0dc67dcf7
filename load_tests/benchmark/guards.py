"""What the guards of HTTP cost: ``python -m load_tests.benchmark.guards``.

First the protocol classes alone, in this process and without sockets: uvicorn's own, which has no door and no limits of
headers, connections and times, and ours. Then this service without and with ours: both run at once, and each round
loads one and then the other, so that what else the machine does slows both alike. The figure to read is the ratio of
CPU-milliseconds a request, of all workers; on a busy machine it is noise, which the first table hardly has.
"""

import asyncio
import json
import math
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from statistics import median
from typing import Any

import uvicorn
import uvloop
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from contract import DATASETS
from load_tests.benchmark import command
from load_tests.benchmark.ledger import compare, start
from load_tests.benchmark.plan import OURS
from load_tests.benchmark.report import table
from serving.http.door import STATE, Door
from serving.http.guard import Guard
from serving.settings import Settings

CONNECTIONS, ROUNDS, REPETITIONS = 32, 1000, 5
_ROW = json.dumps(next(iter(DATASETS.values())).example).encode()
REQUEST = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (
    len(_ROW),
    _ROW,
)
UNGUARDED = replace(
    OURS,
    title="without",
    command=("bentoml", "serve", "load_tests.benchmark.peers.unguarded:PredictionService"),
    environment={**OURS.environment, "LEDGER": "off"},
)
GUARDED = replace(OURS, title="with", environment={**OURS.environment, "LEDGER": "off"})


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print two tables."""

    def both(rounds: int, seconds: int, say: command.Say) -> None:
        say(alone())
        say(measure(rounds, seconds))

    return command.run("guards", __doc__, both, arguments, rounds=10)


def alone() -> str:
    """A request in the protocol classes of this process; a table."""
    kinds = (HttpToolsProtocol, Guard)
    pairs = [[uvloop.run(_microseconds(kind)) for kind in kinds] for _ in range(REPETITIONS)]
    without, guarded = map(min, zip(*pairs, strict=True))
    heads = ("", "CPU-µs without", "with", "more")
    line = (
        "a request of a row, its answer made by nobody",
        f"{without:.1f}",
        f"{guarded:.1f}",
        f"{guarded - without:.1f}",
    )
    return table("The protocol class alone: the least of all rounds", heads, [line])


async def _microseconds(kind: type[HttpToolsProtocol]) -> float:
    """CPU time for a request: the least of all rounds, since what else the machine does only adds to it."""
    config = uvicorn.Config(_answer, log_config=None, access_log=False, lifespan="off")
    config.load()
    server, state = ServerState(), {STATE: Door(Settings())}
    connections = [(kind(config, server, state), _Nowhere()) for _ in range(CONNECTIONS)]
    for protocol, transport in connections:
        protocol.connection_made(transport)
    least = math.inf
    for number in range(1, ROUNDS + 1):
        started = time.process_time()
        for protocol, _ in connections:
            protocol.data_received(REQUEST)
        while any(transport.answers < number for _, transport in connections):
            await asyncio.sleep(0)
        least = min(least, time.process_time() - started)
    return least / CONNECTIONS * 1e6


async def _answer(_: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"{}"})


class _Nowhere(asyncio.Transport):
    """A connection whose answers are counted and go nowhere."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.answers = 0

    def write(self, data: Any) -> None:
        self.answers += bytes(data).endswith(b"{}")

    def is_closing(self) -> bool:
        return False

    def resume_reading(self) -> None:
        """Nothing was paused."""


def measure(rounds: int, seconds: int) -> str:
    """Load each line of single rows over HTTP; a table of medians, and of the ratios' spread."""
    lines = []
    with ExitStack() as stack:
        servers = start(stack, (UNGUARDED, GUARDED))
        for line in (line for line in OURS.lines if not line.grpc and not line.rows_only):
            title, pairs = compare(servers, line, rounds, seconds)
            ratios = sorted(guarded.workers / without.workers for without, guarded in pairs)
            off, on = (median(cost.workers for cost in some) for some in zip(*pairs, strict=True))
            spread = f"{ratios[0] - 1:+.1%} to {ratios[-1] - 1:+.1%}"
            lines.append((title, f"{off:.4f}", f"{on:.4f}", f"{median(ratios) - 1:+.1%}", spread))
    heads = ("", "CPU-ms without", "with", "with against without", "of all rounds")
    return table("The guards' cost: medians of the rounds", heads, lines)


if __name__ == "__main__":
    sys.exit(main())
