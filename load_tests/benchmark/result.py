"""The result of a run: what was measured, the medians over the rounds, and the targets."""

from collections.abc import Sequence
from datetime import date
from statistics import median
from typing import Literal

from pydantic import BaseModel, ConfigDict

from load_tests.benchmark.load import LoadResult
from load_tests.benchmark.plan import OURS, Plan, Server

NOT_MEASURED = "not measured"
"""The problem of figures that there are none of."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Sample(_Record):
    """One measurement: requests of ``rows`` rows to a line over ``connections``, in a round (from 0).

    ``cpu_seconds`` and ``memory_bytes`` (PSS) are of the server's process tree, ``worker_bytes`` of a worker.
    ``others_cores``: cores that were busy with neither the server nor the load generator.
    """

    line: str
    connections: int
    rows: int
    round: int
    load: LoadResult
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


class Failure(_Record):
    """A server that could not be measured, and why."""

    subject: str
    reason: str


class Run(_Record):
    """What a run measured. ``ready_seconds`` of each start by server; ``direct``: rows/s of onnxruntime itself."""

    samples: list[Sample] = []
    ready_seconds: dict[str, list[float]] = {}
    direct: list[float] = []
    versions: dict[str, dict[str, str]] = {}
    failures: list[Failure] = []


class SizeFigures(_Record):
    """Medians over the rounds for one size of request; None if it was not measured or a request of a round failed.

    ``spread`` is half the distance from the lowest to the highest requests/s, as a share of the median.
    """

    connections: int
    rows: int = 1
    problem: str = ""
    requests_per_second: float | None = None
    spread: float | None = None
    cpu_ms: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    max_ms: float | None = None

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> "SizeFigures":
        """The figures of the rounds of one size; one failed request makes them invalid."""
        size = {"connections": samples[0].connections, "rows": samples[0].rows}
        if problems := [sample.load.problem for sample in samples if sample.load.problem]:
            return cls(**size, problem=problems[0])
        speeds = [sample.requests_per_second for sample in samples]
        return cls(
            **size,
            requests_per_second=median(speeds),
            spread=(max(speeds) - min(speeds)) / 2 / median(speeds),
            cpu_ms=median(sample.cpu_ms for sample in samples),
            p50_ms=median(sample.load.p50_ms for sample in samples),
            p99_ms=median(sample.load.p99_ms for sample in samples),
            max_ms=median(sample.load.max_ms for sample in samples),
        )


class LineResult(_Record):
    """A line of the report, with the figures of each size of request."""

    key: str
    title: str
    figures: list[SizeFigures]


class ServerResult(_Record):
    """What a reader must know of a server to judge its figures. Memory is the largest seen, in MB."""

    title: str
    model: str
    requests: str
    settings: str
    versions: dict[str, str]
    ready_seconds: float | None
    memory_mb: float | None
    worker_mb: float | None


class Demand(_Record):
    """A demand, and what was measured; None if a figure is missing."""

    subject: str
    bound: Literal["at least", "at most"]
    limit: float
    unit: str
    measured: float | None

    @property
    def met(self) -> bool | None:
        """Whether it is met; None if it was not measured."""
        if self.measured is None:
            return None
        return self.measured >= self.limit if self.bound == "at least" else self.measured <= self.limit


class Machine(_Record):
    """Where it was measured. ``others_cores``: cores kept busy by other processes, on average."""

    cpu: str
    cores: int
    python: str
    others_cores: float = 0.0


class Result(_Record):
    """The result of one run. ``note``: what else a reader must know, in Markdown, by whoever publishes it."""

    day: date
    revision: str
    model: str
    machine: Machine
    rounds: int
    note: str = ""
    lines: list[LineResult]
    servers: list[ServerResult]
    targets: list[Demand]
    failures: list[Failure]
    direct_rows_per_second: float | None = None
    samples: list[Sample] = []

    def figures(self, line: str, connections: int = 64, rows: int = 1) -> SizeFigures:
        """The figures of a line for one size of request; empty if it was not measured."""
        found = [
            figures
            for one in self.lines
            if one.key == line
            for figures in one.figures
            if (figures.connections, figures.rows) == (connections, rows)
        ]
        return found[0] if found else SizeFigures(connections=connections, rows=rows, problem=NOT_MEASURED)


def summarise(
    run: Run, plan: Plan, servers: Sequence[Server], *, day: date, revision: str, model: str, machine: Machine
) -> Result:
    """The medians of a run and its targets."""
    steps = [sample for sample in run.samples if not sample.stall]
    lines = []
    for server in servers:
        for line in server.lines:
            sizes = dict.fromkeys((one.connections, one.rows) for one in steps if one.line == line.key)
            figures = [
                SizeFigures.of([one for one in steps if (one.line, one.connections, one.rows) == (line.key, *size)])
                for size in sizes
            ]
            lines.append(LineResult(key=line.key, title=server.line_title(line), figures=figures))
    seconds = sum(sample.load.seconds for sample in run.samples)
    busy = sum(sample.others_cores * sample.load.seconds for sample in run.samples) / seconds if seconds else 0.0
    result = Result(
        day=day,
        revision=revision,
        model=model,
        machine=machine.model_copy(update={"others_cores": round(busy, 3)}),
        rounds=len({sample.round for sample in steps}),
        lines=lines,
        servers=[_server(server, run) for server in servers],
        targets=[],
        failures=run.failures,
        direct_rows_per_second=median(run.direct) if run.direct else None,
        samples=run.samples,
    )
    return result.model_copy(update={"targets": evaluate(result, run, plan)})


def _server(server: Server, run: Run) -> ServerResult:
    keys = {line.key for line in server.lines}
    samples = [sample for sample in run.samples if sample.line in keys]
    ready = run.ready_seconds.get(server.key)
    return ServerResult(
        title=server.title,
        model=server.model,
        requests="; ".join(dict.fromkeys(line.protocol.name for line in server.lines)),
        settings=server.settings,
        versions=run.versions.get(server.key, {}),
        ready_seconds=median(ready) if ready else None,
        memory_mb=max((one.memory_bytes / 1e6 for one in samples), default=None),
        worker_mb=max((one.worker_bytes / 1e6 for one in samples), default=None),
    )


def evaluate(result: Result, run: Run, plan: Plan) -> list[Demand]:
    """Every target, the most important first."""
    housing = "/predict/housing"
    p99, cpu = result.figures("ours").p99_ms, result.figures("ours").cpu_ms
    stalls = [one.load.max_ms for one in run.samples if one.line == "ours" and one.stall and not one.load.problem]
    binary = result.figures("ours-binary", plan.rows_connections, max(plan.rows)).requests_per_second
    rows = binary and binary * max(plan.rows)
    ours = next((server for server in result.servers if server.title == OURS.title), None)

    def speed(subject: str, mine: str, peer: str, limit: float) -> Demand:
        measured = ratio(result.figures(mine).requests_per_second, result.figures(peer).requests_per_second)
        return _target(f"{subject}, requests/s", "at least", limit, "×", measured)

    def cpu_share(subject: str, mine: str, peer: str, limit: float) -> Demand:
        return _target(subject, "at most", limit, "×", ratio(result.figures(mine).cpu_ms, result.figures(peer).cpu_ms))

    return [
        speed(f"{housing} against MLServer REST", "ours", "mlserver", 3),
        cpu_share(f"{housing} against MLServer REST, CPU a request", "ours", "mlserver", 1 / 2),
        speed("/v2 JSON against MLServer REST", "ours-v2", "mlserver", 4),
        speed("gRPC against MLServer gRPC", "ours-grpc", "mlserver-grpc", 3),
        cpu_share("gRPC against MLServer gRPC, CPU a request", "ours-grpc", "mlserver-grpc", 1 / 3),
        speed(f"{housing} against FastAPI with predict per request", "ours", "fastapi", 6),
        speed(f"{housing} against BentoML's batchable=True", "ours", "bentoml", 6),
        _target("p99 at 64 connections", "at most", 30, "ms", p99),
        _target("longest answer in a minute, 64 connections", "at most", 100, "ms", stalls[0] if stalls else None),
        _target(
            "rows/s with 1,000-row binary requests, against onnxruntime called directly",
            *("at least", 0.5, "×", ratio(rows, result.direct_rows_per_second)),
        ),
        _target(f"{housing}, CPU a request", "at most", 0.30, "ms", cpu),
        cpu_share(f"{housing}, CPU a request, against FastAPI's empty handler (goal)", "ours", "empty", 1),
        cpu_share(f"{housing}, CPU a request, metrics on against off", "ours", "unmetered", 1.05),
        _target("memory a worker", "at most", 200, "MB", ours.worker_mb if ours else None),
        _target("start to the first answer", "at most", 6, "s", ours.ready_seconds if ours else None),
    ]


def _target(subject: str, bound: str, limit: float, unit: str, measured: float | None) -> Demand:
    return Demand(subject=subject, bound=bound, limit=limit, unit=unit, measured=measured)


def ratio(mine: float | None, other: float | None) -> float | None:
    """One figure divided by another; None if one is missing."""
    return mine / other if mine is not None and other else None
