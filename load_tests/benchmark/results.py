"""What was measured: the raw figures, and the medians over rounds."""

from collections.abc import Iterable
from datetime import datetime
from statistics import median
from typing import Self

from pydantic import BaseModel, ConfigDict

from load_tests.benchmark.load import Load


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Sample(_Record):
    """One measure of one line: ``rows`` a request over ``connections``, in a round (from 0).

    ``cpu_seconds`` are of the server's whole process tree; ``memory_bytes`` its PSS right after, ``worker_bytes`` the
    mean PSS of its largest processes, one a worker. ``others_cores`` is how many cores were busy with neither the
    server nor the load generator.
    """

    line: str
    connections: int
    rows: int
    round: int
    load: Load
    cpu_seconds: float
    others_cores: float
    memory_bytes: int
    worker_bytes: int
    stall: bool = False

    @property
    def requests_per_second(self) -> float:
        """Answers a second."""
        return self.load.requests / self.load.seconds

    @property
    def cpu_ms(self) -> float:
        """CPU-milliseconds of the server for one request."""
        return self.cpu_seconds * 1000 / max(self.load.requests, 1)


class Start(_Record):
    """One start of a server: seconds to its first answer."""

    server: str
    round: int
    seconds: float


class Direct(_Record):
    """onnxruntime called directly: ``rows`` a call, a process a core."""

    round: int
    rows: int
    processes: int
    rows_per_second: float


class Failure(_Record):
    """A server or a line that could not be measured, and why."""

    subject: str
    reason: str


class ServerNote(_Record):
    """What the reader must know of a server to judge its figures; ``versions`` by package."""

    key: str
    title: str
    model: str
    settings: str
    floor: bool
    versions: dict[str, str]


class LineNote(_Record):
    """A line of the report, and the server that answers for it."""

    key: str
    server: str
    title: str
    protocol: str
    grpc: bool


class Machine(_Record):
    """Where it was measured. ``load_average`` is of the minute before: a busy machine measures itself."""

    cpu: str
    cores: int
    memory_bytes: int
    system: str
    python: str
    load_average: float


class Figure(_Record):
    """The median of a figure over the rounds, and its extremes."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Self | None:
        """The figure of some values; None if there are none."""
        found = sorted(values)
        return cls(median=median(found), low=found[0], high=found[-1]) if found else None

    @property
    def spread(self) -> float:
        """Half the distance of the extremes, as a share of the median."""
        return (self.high - self.low) / 2 / self.median if self.median else 0.0


class Report(_Record):
    """All of one run."""

    started_at: datetime
    seconds: float
    revision: str
    model: str
    machine: Machine
    workers: int
    connections: tuple[int, ...]
    rows: tuple[int, ...]
    rows_connections: int
    servers: list[ServerNote]
    lines: list[LineNote]
    samples: list[Sample]
    starts: list[Start]
    direct: list[Direct]
    failures: list[Failure]

    def of(self, line: str, connections: int, rows: int = 1, *, stall: bool = False) -> list[Sample]:
        """The samples of a line that are valid: every answer was a success."""
        return [sample for sample in self.taken(line, connections, rows, stall=stall) if not sample.load.problem]

    def taken(self, line: str, connections: int, rows: int = 1, *, stall: bool = False) -> list[Sample]:
        """All samples of a line, valid or not."""
        wanted = (line, connections, rows, stall)
        return [one for one in self.samples if (one.line, one.connections, one.rows, one.stall) == wanted]

    def problem(self, line: str, connections: int, rows: int = 1) -> str:
        """Why there is no figure, empty if there is one: one round that is invalid makes the figure invalid."""
        taken = self.taken(line, connections, rows)
        problems = [sample.load.problem for sample in taken if sample.load.problem]
        return problems[0] if problems else "" if taken else "not measured"

    def requests_per_second(self, line: str, connections: int = 64, rows: int = 1) -> Figure | None:
        """Answers a second, if every answer of every round was a success."""
        return self._figure(line, connections, rows, "requests_per_second")

    def rows_per_second(self, line: str, rows: int) -> Figure | None:
        """Rows a second in requests of so many rows."""
        figure = self.requests_per_second(line, self.rows_connections, rows)
        return figure and Figure(median=figure.median * rows, low=figure.low * rows, high=figure.high * rows)

    def cpu_ms(self, line: str, connections: int = 64, rows: int = 1) -> Figure | None:
        """CPU-milliseconds of the server's process tree a request."""
        return self._figure(line, connections, rows, "cpu_ms")

    def latency(self, line: str, which: str, connections: int = 64) -> Figure | None:
        """``p50_ms``, ``p99_ms`` or ``max_ms``, in milliseconds."""
        if self.problem(line, connections):
            return None
        return Figure.of(getattr(sample.load, which) for sample in self.of(line, connections))

    def stall(self, line: str) -> Sample | None:
        """The measure of a whole minute, if it is valid."""
        return next((one for one in self.samples if one.line == line and one.stall and not one.load.problem), None)

    def ready_seconds(self, server: str) -> Figure | None:
        """Seconds from start to the first answer."""
        return Figure.of(start.seconds for start in self.starts if start.server == server)

    def peak_memory(self, server: str) -> int:
        """The largest memory of the server's process tree after a measure, in bytes; 0 if there is none."""
        return max((sample.memory_bytes for sample in self._of_server(server)), default=0)

    def worker_memory(self, server: str) -> int:
        """The largest memory of a worker process after a measure, in bytes; 0 if there is none."""
        return max((sample.worker_bytes for sample in self._of_server(server)), default=0)

    def direct_rows_per_second(self) -> Figure | None:
        """Rows a second of onnxruntime called directly."""
        return Figure.of(one.rows_per_second for one in self.direct)

    def others_cores(self) -> float:
        """How many cores were busy with something else, on average over the measures."""
        weight = sum(sample.load.seconds for sample in self.samples)
        return sum(sample.others_cores * sample.load.seconds for sample in self.samples) / weight if weight else 0.0

    def _figure(self, line: str, connections: int, rows: int, what: str) -> Figure | None:
        if self.problem(line, connections, rows):
            return None
        return Figure.of(getattr(sample, what) for sample in self.of(line, connections, rows))

    def _of_server(self, server: str) -> list[Sample]:
        lines = {line.key for line in self.lines if line.server == server}
        return [sample for sample in self.samples if sample.line in lines]
