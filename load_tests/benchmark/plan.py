"""What is measured, in which order, and how long it will take."""

from collections.abc import Sequence
from dataclasses import dataclass

from load_tests.benchmark.servers import Line, Server

START_SECONDS = 6
"""Of a server, start, warm-up and stop together: a guess for the estimate."""


@dataclass(frozen=True)
class Step:
    """One measure: ``rows`` a request over ``connections`` for some seconds."""

    connections: int
    rows: int
    seconds: int


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Each round starts each server anew and measures it once: noise that comes and goes shows between rounds. ``rows``
    are measured over ``rows_connections``; ``stalls`` are the lines that are loaded for ``stall_seconds`` at the end.
    """

    rounds: int
    main: Step
    connections: tuple[int, ...]
    rows: tuple[int, ...]
    rows_connections: int
    seconds: int
    warm_up_seconds: int
    direct_seconds: float
    stalls: tuple[str, ...]
    stall_seconds: int

    def steps(self, line: Line, server: Server) -> list[Step]:
        """The measures of a line in one round; of a floor no requests of several rows."""
        steps = []
        if not line.rows_only:
            steps = [
                self.main if count == self.main.connections else Step(count, 1, self.seconds)
                for count in self.connections
            ]
        if not server.floor:
            covered = {1} if not line.rows_only and self.rows_connections in self.connections else set()
            steps += [Step(self.rows_connections, rows, self.seconds) for rows in self.rows if rows not in covered]
        return steps

    def estimate(self, servers: Sequence[Server]) -> float:
        """Seconds that it will take, environments apart."""
        a_round = sum(START_SECONDS + self._server_seconds(server) for server in servers) + self.direct_seconds + 2
        stalled = [server for server in servers for line in server.lines if line.key in self.stalls]
        return self.rounds * a_round + len(stalled) * (START_SECONDS + self.stall_seconds)

    def _server_seconds(self, server: Server) -> float:
        return sum(
            self.warm_up_seconds + sum(step.seconds + 0.4 for step in self.steps(line, server)) for line in server.lines
        )


FULL = Plan(
    rounds=3,
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
