"""One run: each round starts each server, warms each line up, loads it, and reads what it used."""

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol as Interface

import numpy as np

from load_tests.benchmark import direct, environments, grpc_load, payloads, process_tree, wrk
from load_tests.benchmark.deployment import Deployment
from load_tests.benchmark.errors import BenchmarkError
from load_tests.benchmark.load import Load
from load_tests.benchmark.payloads import FloatMatrix
from load_tests.benchmark.peers import onnx_model
from load_tests.benchmark.plan import Plan, Step
from load_tests.benchmark.process_tree import cpu_seconds, machine_cpu_seconds, own_cpu_seconds
from load_tests.benchmark.results import Direct, Failure, Sample, Start
from load_tests.benchmark.running import NoAnswer, Running, running
from load_tests.benchmark.servers import WORKERS, Line, Server

TOLERANCE = 1e-3
"""Of a prediction, in its unit: some servers run the estimator, the others the model it was converted to."""
WARM_UP_REQUESTS = 20
"""Before each measure, beside the load that warms the line up as a whole."""


class Progress(Interface):
    """Who is told what happens."""

    def doing(self, what: str) -> None:
        """Something begins."""

    def measured(self, line: Line, sample: Sample) -> None:
        """A measure is done."""

    def failed(self, failure: Failure) -> None:
        """Something could not be measured."""


@dataclass
class Run:
    """What a run has measured so far."""

    samples: list[Sample] = field(default_factory=list)
    starts: list[Start] = field(default_factory=list)
    direct: list[Direct] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)


class Benchmark:
    """Measures servers after a plan.

    Args:
        deployment: the model.
        plan: what is measured.
        progress: who is told.
    """

    def __init__(self, deployment: Deployment, plan: Plan, progress: Progress) -> None:
        self.run = Run()
        self._deployment = deployment
        self._plan = plan
        self._progress = progress
        self._table = payloads.table()
        self._expected = onnx_model.load(deployment.onnx)(self._table)

    def measure(self, servers: Sequence[Server], commands: Mapping[str, Path]) -> None:
        """All rounds, then the minute without a stall.

        Args:
            servers: in the order in which they are measured.
            commands: the folder of commands of each server's environment, by its name.
        """
        with tempfile.TemporaryDirectory(prefix="benchmark-bodies-") as folder:
            bodies = Bodies(Path(folder), self._table)
            for number in range(self._plan.rounds):
                for server in servers:
                    with self._attempt(server.title):
                        self._measure_server(server, commands[server.environment_name], bodies, number)
                self._measure_direct(number)
            for server in servers:
                for line in server.lines:
                    if line.key in self._plan.stalls:
                        with self._attempt(server.title):
                            self._measure_stall(server, line, commands[server.environment_name], bodies)

    @contextmanager
    def _attempt(self, subject: str) -> Iterator[None]:
        """One server that fails is told and left out; the others are still measured."""
        try:
            yield
        except BenchmarkError as error:
            failure = Failure(subject=subject, reason=str(error))
            self.run.failures.append(failure)
            self._progress.failed(failure)

    def _measure_server(self, server: Server, commands: Path, bodies: "Bodies", number: int) -> None:
        self._progress.doing(f"round {number + 1} of {self._plan.rounds}: start {server.title}")
        with running(server, commands, self._deployment, self._table[:1]) as target:
            self.run.starts.append(Start(server=server.key, round=number, seconds=target.ready_seconds))
            for line in server.lines:
                steps = self._plan.steps(line, server, number)
                if not steps:
                    continue
                self._progress.doing(f"round {number + 1} of {self._plan.rounds}: {server.title}, {line.title}")
                load(target, line, Step(64, steps[0].rows, self._plan.warm_up_seconds), bodies)
                for step in steps:
                    check(target, line, self._table, self._expected, step.rows)
                    self._sample(target, line, step, bodies, number)

    def _measure_stall(self, server: Server, line: Line, commands: Path, bodies: "Bodies") -> None:
        self._progress.doing(f"{server.title}: stalls in {self._plan.stall_seconds} s")
        with running(server, commands, self._deployment, self._table[:1]) as target:
            load(target, line, Step(64, 1, self._plan.warm_up_seconds), bodies)
            self._sample(target, line, Step(64, 1, self._plan.stall_seconds), bodies, 0, stall=True)

    def _measure_direct(self, number: int) -> None:
        rows = max(self._plan.rows)
        self._progress.doing(f"onnxruntime called directly, {rows} rows a call")
        speed = direct.rows_per_second(
            self._deployment.onnx, rows=rows, seconds=self._plan.direct_seconds, processes=WORKERS
        )
        self.run.direct.append(Direct(round=number, rows=rows, processes=WORKERS, rows_per_second=speed))

    def _sample(
        self, target: Running, line: Line, step: Step, bodies: "Bodies", number: int, *, stall: bool = False
    ) -> None:
        before = _clocks(target.pid)
        measured = load(target, line, step, bodies)
        used, generator, machine, elapsed = np.subtract(_clocks(target.pid), before).tolist()
        memory = process_tree.memory(target.pid)
        sample = Sample(
            line=line.key,
            connections=step.connections,
            rows=step.rows,
            round=number,
            load=measured,
            cpu_seconds=used,
            others_cores=max(machine - used - generator, 0.0) / elapsed,
            memory_bytes=memory.total,
            worker_bytes=sum(memory.processes[:WORKERS]) // WORKERS,
            stall=stall,
        )
        self.run.samples.append(sample)
        self._progress.measured(line, sample)


def check(target: Running, line: Line, table: FloatMatrix, expected: FloatMatrix, rows: int) -> None:
    """Warm up requests of this size, and compare the answers with the model's: a wrong answer does not count as fast.

    Raises:
        BenchmarkError: an answer is no success, or differs.
    """
    for number in range(WARM_UP_REQUESTS):
        first = number * rows % (len(table) - rows + 1)
        some = slice(first, first + rows)
        try:
            found = target.ask(line, table[some])
        except NoAnswer as error:
            raise BenchmarkError(f"{line.title} refused a request of {rows} rows: {error}") from None
        if found is None:
            continue
        difference = np.abs(np.array(found) - expected[some]).max() if len(found) == rows else np.inf
        if not difference <= TOLERANCE:
            raise BenchmarkError(f"{line.title} answered {rows} rows off by {difference:g}.")


def load(target: Running, line: Line, step: Step, bodies: "Bodies", channels: int | None = None) -> Load:
    """Load one line of a server; gRPC callers share ``channels``, by default each has its own."""
    path, protocol = line.way(step.rows)
    file, headers = bodies.of(protocol, step.rows)
    size = {"connections": step.connections, "seconds": step.seconds}
    if line.grpc:
        return grpc_load.run(target.grpc_target, file, channels=channels, **size)
    return wrk.run(target.url(path), file, headers, **size)


def _clocks(pid: int) -> tuple[float, float, float, float]:
    """CPU-seconds of the server, of the load generators and of the machine, and the time, in seconds."""
    return cpu_seconds(pid), own_cpu_seconds(), machine_cpu_seconds(), time.monotonic()


class Bodies:
    """Files of bodies for the load generators, each written once."""

    def __init__(self, folder: Path, table: FloatMatrix) -> None:
        self._folder = folder
        self._table = table
        self._files: dict[tuple[str, int], tuple[Path, Mapping[str, str]]] = {}

    def of(self, protocol: payloads.Protocol, rows: int) -> tuple[Path, Mapping[str, str]]:
        """The file of a protocol and a size, and the headers of its requests."""
        key = (protocol.name, rows)
        if key not in self._files:
            written = [protocol.write(batch) for batch in payloads.batches(self._table, rows)]
            file = self._folder / str(len(self._files))
            wrk.write_bodies(file, [body for body, _ in written])
            (_, headers), *_ = written
            self._files[key] = (file, {"Content-Type": protocol.content_type, **headers})
        return self._files[key]


def prepare(servers: Sequence[Server], progress: Progress) -> tuple[dict[str, Path], list[Failure]]:
    """The environments of servers, by name, and those that could not be made."""
    commands: dict[str, Path] = {}
    failures = []
    for server in servers:
        name = server.environment_name
        if name in commands:
            continue
        if not environments.is_ready(name, server.lock):
            progress.doing(f"set up the environment of {server.title}")
        try:
            commands[name] = environments.prepare(name, server.lock)
        except BenchmarkError as error:
            failures.append(Failure(subject=server.title, reason=str(error)))
    return commands, failures
