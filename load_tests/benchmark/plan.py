"""What is measured, in which order, and how long it will take."""

from collections.abc import Sequence
from dataclasses import dataclass

from load_tests.benchmark.servers import Line, Server

START_SECONDS = 4
"""Of a server, start and stop together: a guess for the estimate."""
PAUSE_SECONDS = 0.4
"""Between measures: a few requests whose answers are checked, a reading of memory."""


@dataclass(frozen=True)
class Step:
    """One measure: ``rows`` a request over ``connections`` for some seconds."""

    connections: int
    rows: int
    seconds: int


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Each round starts each server anew and measures it once: noise that comes and goes shows between rounds. ``main`` is
    measured in each round, the other ``connections`` and the ``rows`` in the first ``side_rounds``, ``seconds`` each.
    ``rows`` go over ``rows_connections``; ``stalls`` are the lines that are loaded for ``stall_seconds`` at the end.
    """

    rounds: int
    side_rounds: int
    main: Step
    connections: tuple[int, ...]
    rows: tuple[int, ...]
    rows_connections: int
    seconds: int
    warm_up_seconds: int
    direct_seconds: float
    stalls: tuple[str, ...]
    stall_seconds: int

    def steps(self, line: Line, server: Server, number: int) -> list[Step]:
        """The measures of a line in a round; of a floor no requests of several rows, of a brief server the main one."""
        steps = [] if line.rows_only else [self.main]
        if number >= self.side_rounds or server.brief:
            return steps
        rows = {(self.rows_connections, count) for count in self.rows} if not server.floor else set()
        connections = {(count, 1) for count in self.connections} if not line.rows_only else set()
        side = sorted(rows | connections, key=lambda pair: (pair[1], pair[0]))
        return steps + [Step(*pair, self.seconds) for pair in side if pair != (self.main.connections, self.main.rows)]

    def estimate(self, servers: Sequence[Server]) -> float:
        """Seconds that it will take, environments apart."""
        total = self.rounds * (self.direct_seconds + 2)
        for server in servers:
            for number in range(self.rounds):
                total += START_SECONDS + sum(self._line_seconds(line, server, number) for line in server.lines)
            total += sum(START_SECONDS + self.stall_seconds for line in server.lines if line.key in self.stalls)
        return total

    def _line_seconds(self, line: Line, server: Server, number: int) -> float:
        steps = self.steps(line, server, number)
        return self.warm_up_seconds + sum(step.seconds + PAUSE_SECONDS for step in steps) if steps else 0.0


FULL = Plan(
    rounds=3,
    side_rounds=2,
    main=Step(64, 1, 4),
    connections=(1, 16, 64, 256),
    rows=(1, 10, 100, 1000),
    rows_connections=16,
    seconds=2,
    warm_up_seconds=1,
    direct_seconds=2,
    stalls=("ours", "mlserver"),
    stall_seconds=60,
)
QUICK = Plan(
    rounds=1,
    side_rounds=1,
    main=Step(64, 1, 4),
    connections=(1, 64),
    rows=(1, 1000),
    rows_connections=16,
    seconds=2,
    warm_up_seconds=1,
    direct_seconds=2,
    stalls=(),
    stall_seconds=0,
)
QUICK_SERVERS = ("ours", "fastapi", "empty")
