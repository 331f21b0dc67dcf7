"""The door of a worker: which requests come in, which wait, and which are refused before they cost anything.

**Overload.** The event loop is what a worker has least of. By itself it reads and parses everything that has arrived on
all sockets before it answers anybody. With thousands of connections, one turn then takes longer than callers wait. So:

- At most ``TURN_REQUESTS`` requests come in during one turn of the event loop. What is read beyond that waits here,
  unparsed, first come first served. The clock of a request is started when it is read, so waiting here counts.
- The queue holds as many requests as the worker can answer in ``WAIT_SHARE`` of ``MAX_LATENCY_MS``, at its recent
  speed. Requests beyond that are refused as soon as they are read. So refusals come fast, bursts are answered, and
  every request that is let in can be answered in time.
- Refusing is cheap (only the head is parsed), but clients that retry at once could keep a worker busy with refusals
  alone. So refusals get ``REFUSAL_SHARE`` of the time. Beyond that, a refused connection rests: it is not read until
  there is time for another refusal, or room. TCP then slows its client down, at no cost to us.
- Probes and scrapes wait, but are never refused.

**Connections.** Their number is limited, by default by the file descriptors of the process. At the limit, the
connection that has kept us waiting longest (for a request, or for the rest of one) is closed first. If all are busy, a
new connection is read, since it may be a probe, and refused; with ``RESERVE`` more open, it is refused unread.
"""

import resource
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping, MutableMapping, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any, Self

from pydantic_core import to_json

from serving.receiving import ReceiveBudget
from serving.settings import Settings
from serving.telemetry import bulk

if TYPE_CHECKING:
    import asyncio

    from serving.http.guard import Guard

STATE = "door"
"""Key of the door in the ASGI lifespan state: the application puts it there, and each connection finds it."""
LEFT = "left"
"""Key in the state of a request; present once its client has left."""
TURN_REQUESTS = 64
"""Requests that come in during one turn of the event loop, at most: a turn then takes some 10 ms."""
WAIT_SHARE = 0.6
"""Share of ``MAX_LATENCY_MS`` that a request may wait here; the rest is for its answer."""
STALL = 10
"""A measurement counts for at most ten times the mean: the process may have been kept from running."""
REFUSAL_SHARE = 0.02
"""Share of the time for refusals; reading and writing the sockets takes as much again."""
FIRST_SECONDS = 0.0002
"""Seconds per request until there is a measurement."""
WEIGHT = 0.1
"""Weight of the latest turn in the moving mean of that time."""
RESERVE = 64
"""Connections beyond the limit that are still read: they may be probes."""
DESCRIPTOR_SHARE = 0.75
"""Share of the process' file descriptors for HTTP; the others are for gRPC, files and the ledger."""
MOST_CONNECTIONS = 10_000
"""Default limit where descriptors abound: an idle connection takes some 10 kB."""
PATIENCE_SECONDS = 1.0
"""At the limit, connections that have kept us waiting for less than this are not closed."""
SWEEP_SECONDS = 1.0


class Refusal:
    """An answer of the door, ready to be sent.

    Args:
        status: of HTTP.
        reason: the words behind it in the status line.
        error: the sentence of the answer.
        retry_after: in whole seconds; None if a retry would not help.
    """

    def __init__(self, status: int, reason: str, error: str, retry_after: int | None = None) -> None:
        self.status = status
        self.flat = to_json({"error": error, "detail": []})
        self.protocol = to_json({"error": error})
        """The error body of the Open Inference Protocol, under ``/v2``."""
        retry = "" if retry_after is None else f"retry-after: {retry_after}\r\n"
        self.head = f"HTTP/1.1 {status} {reason}\r\ncontent-type: application/json\r\n{retry}".encode()


class Door:
    """The door of a worker, on its event loop.

    Args:
        settings: the limits.
        receiving: the worker's budget for unfinished bodies; default: one of its own.

    ``listener`` is told how many requests were refused, by path and status, within ``bulk.FLUSH_SECONDS``.
    """

    def __init__(self, settings: Settings, receiving: ReceiveBudget | None = None) -> None:
        self.exempt: Collection[bytes] = ()
        """Paths that are never refused because of the load, or of too many connections."""
        self.receiving = receiving or ReceiveBudget(settings.MAX_RECEIVING_BYTES)
        self.header_bytes = settings.HTTP_MAX_HEADER_BYTES
        self.headers = settings.HTTP_MAX_HEADERS
        self.header_seconds = settings.HTTP_HEADER_SECONDS
        self.idle_seconds = settings.HTTP_KEEP_ALIVE_SECONDS
        self.max_connections = settings.HTTP_MAX_CONNECTIONS or connection_limit()
        self.listener: Callable[[Mapping[tuple[str, int], int]], None] = lambda _: None
        self.room = TURN_REQUESTS
        """Requests that may still come in during this turn; 0 while others wait."""
        self.turning = False
        self.now = perf_counter()
        """The time of the last turn or sweep: cheap, and exact enough for limits of seconds."""
        milliseconds = settings.MAX_LATENCY_MS
        self._max_latency = milliseconds / 1000
        self._max_wait = WAIT_SHARE * self._max_latency
        self._seconds = FIRST_SECONDS
        self._came_in = 0
        self._queue: deque[Guard] = deque()
        self._resting: deque[Guard] = deque()
        self._allowance = REFUSAL_SHARE * self._max_wait
        self._refusal_seconds = FIRST_SECONDS / 10
        self._refused: Counter[tuple[str, int]] = Counter()
        self.turns = 0
        """Turns of the event loop so far, of those that had requests."""
        self._headers: Sequence[tuple[bytes, bytes]] = ()
        self._header_lines = b""
        self._sweeping = False
        self._crowded_at = 0.0
        self.overloaded = Refusal(
            429,
            "Too Many Requests",
            f"The service is overloaded: an answer would take longer than the limit of {milliseconds:g} ms.",
            retry_after=1,
        )
        self.crowded = Refusal(
            503,
            "Service Unavailable",
            f"This worker has {self.max_connections} connections, and takes no more (HTTP_MAX_CONNECTIONS).",
            retry_after=1,
        )
        self.late_head = Refusal(
            408, "Request Timeout", f"The headers did not arrive within {self.header_seconds:g} seconds."
        )
        self.large_head = Refusal(
            431, "Request Header Fields Too Large", f"The headers are larger than {self.header_bytes} bytes."
        )
        self.many_headers = Refusal(
            431, "Request Header Fields Too Large", f"There are more than {self.headers} headers."
        )

    @classmethod
    def of(cls, state: MutableMapping[str, Any]) -> Self:
        """The door in the lifespan state; without one, a door with the default limits."""
        if STATE not in state:
            state[STATE] = cls(Settings())
        found: Self = state[STATE]
        return found

    # Requests

    def begin_turn(self, loop: "asyncio.AbstractEventLoop") -> None:
        """Schedule ``turn`` for when the event loop has read what has arrived."""
        self.turning = True
        loop.call_soon(self.turn, loop)

    def receive(self, guard: "Guard", data: bytes) -> None:
        """Take the first bytes of a request for which this turn has no room: it waits or is refused."""
        now = perf_counter()
        arrived = guard.arrived_at(now)
        if now - arrived + len(self._queue) * self._seconds > self._max_wait:
            self._refuse(guard, data)
        else:
            guard.hold(data, arrived)
            self._queue.append(guard)

    def turn(self, loop: "asyncio.AbstractEventLoop") -> None:
        """Let waiting requests in, as many as fit into a turn."""
        now = perf_counter()
        elapsed, self.now = now - self.now, now
        self.turns += 1
        self._allowance = min(self._allowance + REFUSAL_SHARE * elapsed, self._max_wait * REFUSAL_SHARE)
        if self._came_in == TURN_REQUESTS:
            self._seconds += (min(elapsed / TURN_REQUESTS, STALL * self._seconds) - self._seconds) * WEIGHT
        self._came_in = 0
        try:
            self._let_in(now)
            self._wake()
        finally:
            self.room = 0 if self._queue else TURN_REQUESTS - self._came_in
            self.turning = bool(self._came_in or self._queue or self._resting)
            if self.turning:
                loop.call_soon(self.turn, loop)

    def _let_in(self, now: float) -> None:
        while self._queue and self._came_in < TURN_REQUESTS:
            guard = self._queue.popleft()
            held = guard.held
            if held is None:  # The client left.
                continue
            if now - guard.held_since > self._max_latency:
                guard.held = None
                self._refuse(guard, held)
            else:
                self._came_in += 1
                guard.admit()

    def _refuse(self, guard: "Guard", data: bytes) -> None:
        started = perf_counter()
        guard.refuse(self.overloaded, data)
        seconds = min(perf_counter() - started, STALL * self._refusal_seconds)
        self._refusal_seconds += (seconds - self._refusal_seconds) * WEIGHT
        self._allowance -= seconds
        if self._allowance < 0 and guard.rest():
            self._resting.append(guard)

    def _wake(self) -> None:
        """Read resting connections again: as many as may be let in, and as many as may be refused."""
        queued = len(self._queue)
        refusals = int(self._allowance / self._refusal_seconds) if queued else TURN_REQUESTS
        woken = 0
        while self._resting and woken < TURN_REQUESTS:
            wait = self.now - self._resting[0].rests_since + (queued + woken) * self._seconds
            if wait > self._max_wait and woken >= refusals:
                break
            self._resting.popleft().wake()
            woken += 1

    # Connections

    def watch(self, loop: "asyncio.AbstractEventLoop", connections: Collection[Any]) -> None:
        """Watch the time limits of these connections for as long as there are any."""
        if not self._sweeping:
            self._sweeping = True
            self.now = perf_counter()
            self._sweep_later(loop, connections)

    def make_room(self, guard: "Guard", connections: Collection[Any]) -> None:
        """Close connections that keep us waiting, since there are too many; or refuse the new one."""
        now = perf_counter()
        excess = len(connections) - self.max_connections
        # Nothing was found to close; do not search again for a while.
        if now - self._crowded_at > PATIENCE_SECONDS / 10:
            # Not the new one: its time is that of the last turn or sweep, which may be a second ago.
            waiting = [(one.kept_waiting(now) or 0, id(one), one) for one in connections if one is not guard]
            waiting = [each for each in waiting if each[0] >= PATIENCE_SECONDS]
            waiting.sort(reverse=True)
            # Close a few more, so that the next connection needs no search.
            for _, _, one in waiting[: excess + len(connections) // 32]:
                one.evict()
                excess -= 1
            if not waiting:
                self._crowded_at = now
        if excess > 0:
            guard.turn_away(self.crowded, at_once=excess > RESERVE)

    def _sweep_later(self, loop: "asyncio.AbstractEventLoop", connections: Collection[Any]) -> None:
        seconds = min(SWEEP_SECONDS, self.header_seconds / 2, self.idle_seconds / 2)
        loop.call_later(seconds, self._sweep, loop, connections)

    def _sweep(self, loop: "asyncio.AbstractEventLoop", connections: Collection[Any]) -> None:
        now = perf_counter()
        if not self.turning:
            self.now = now
        for guard in list(connections):
            guard.check_time(now)
        self._sweeping = bool(connections)
        if self._sweeping:
            self._sweep_later(loop, connections)

    # Answers

    def default_headers(self, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
        """The headers that uvicorn adds to every answer, as bytes. uvicorn renews them each second."""
        if headers is not self._headers:
            self._headers = headers
            self._header_lines = b"".join(b"%s: %s\r\n" % header for header in headers)
        return self._header_lines

    def note(self, path: bytes, status: int) -> None:
        """Count a refused request."""
        self._refused[path.decode("latin-1"), status] += 1
        bulk.note(self)

    def write(self) -> None:
        """Tell the listener."""
        refused, self._refused = self._refused, Counter()
        self.listener(refused)


def connection_limit() -> int:
    """How many connections fit into the file descriptors that this process may open."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if descriptors == resource.RLIM_INFINITY:
        return MOST_CONNECTIONS
    return max(min(int(descriptors * DESCRIPTOR_SHARE) - RESERVE, MOST_CONNECTIONS), 1)
