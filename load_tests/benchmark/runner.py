"""Run a plan: each round starts each server, warms it up, checks its answers, loads it, and reads what it used."""

import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import bentoml
import numpy as np
import psutil
from bentoml.exceptions import NotFound

from contract.datasets.housing import HOUSING
from contract.table import FloatMatrix
from load_tests.benchmark import payloads, processes
from load_tests.benchmark.load import LoadResult, load_grpc, load_http, write_bodies
from load_tests.benchmark.peers import onnx_model
from load_tests.benchmark.plan import WORKERS, Line, Plan, Server, Step
from load_tests.benchmark.processes import NoAnswer, Running, running
from load_tests.benchmark.result import Failure, Machine, Run, Sample
from load_tests.errors import LoadTestError
from local_service import PROJECT
from model.card import ONNX_FILE
from model.deployed import Deployment, DeploymentError

TOLERANCE = 1e-3
"""Allowed difference of a prediction: some servers run the estimator, others its ONNX conversion."""
WARM_UP_REQUESTS = 20
"""Checked requests before each step, besides the load that warms up the line."""
SHOWN = ("bentoml", "fastapi", "litserve", "mlflow", "mlserver", "scikit-learn", "onnxruntime", "uvicorn", "grpcio")
"""Packages whose versions are reported."""


def deployed_model() -> tuple[str, dict[str, Path]]:
    """The tag of the model that our own service would serve as Housing, and its files: see ``processes.running``.

    Raises:
        LoadTestError: nothing is deployed, the store does not have the model, or ``deployed.json`` is damaged.
    """
    try:
        tag = Deployment(models_folder()).tags().get(HOUSING.name)
        if tag is None:
            raise LoadTestError(
                f"{models_folder()} has no deployed {HOUSING.name}. Run `make train` to train and import it."
            )
        stored = bentoml.models.get(tag)
    except DeploymentError as error:
        raise LoadTestError(str(error)) from error
    except NotFound:
        raise LoadTestError(
            f"The model {tag} is not in the BentoML store. Run `make train` to train and import it."
        ) from None
    folder = Path(stored.path_of("mlflow_model"))
    files = {"mlflow_model": folder, "estimator": folder / "model.skops", "onnx": folder / "extra_files" / ONNX_FILE}
    return str(stored.tag), files


def models_folder() -> Path:
    """The folder in which the pipeline wrote which models are deployed."""
    return Path(os.environ.get("MODELS_DIR") or PROJECT / "models")


class LoadedServer:
    """A running server, and the rows, answers and request bodies to load it with.

    Args:
        running: the server.
        bodies: shared by all targets.
    """

    def __init__(self, running: Running, bodies: "Bodies") -> None:
        self.running = running
        self._bodies = bodies

    def check(self, line: Line, rows: int) -> None:
        """Warm up requests of this size, and compare the answers with the model's: a wrong answer does not count.

        Raises:
            LoadTestError: a request failed, or an answer differs.
        """
        table, expected = self._bodies.table, self._bodies.expected
        for number in range(WARM_UP_REQUESTS):
            first = number * rows % (len(table) - rows + 1)
            some = slice(first, first + rows)
            try:
                found = self.running.ask(line, table[some])
            except NoAnswer as error:
                raise LoadTestError(f"{line.title} refused a request of {rows} rows: {error}") from None
            if found is None:
                continue
            difference = np.abs(np.array(found) - expected[some]).max() if len(found) == rows else np.inf
            if not difference <= TOLERANCE:
                raise LoadTestError(f"{line.title} answered {rows} rows off by {difference:g}.")

    def load(self, line: Line, step: Step, channels: int | None = None) -> LoadResult:
        """Load a line; gRPC callers share ``channels``, by default each has its own."""
        path, protocol = line.way(step.rows)
        file, headers = self._bodies.of(protocol, step.rows)
        if line.grpc:
            count = step.connections
            return load_grpc(
                self.running.grpc_target, file, callers=count, channels=channels or count, seconds=step.seconds
            )
        url = self.running.url(path)
        return load_http(url, file, headers, connections=step.connections, seconds=step.seconds)

    def sample(self, line: Line, step: Step, number: int, *, stall: bool = False) -> Sample:
        """Load a line and read what the server used."""
        before = self._clocks()
        measured = self.load(line, step)
        used, generator, machine, elapsed = np.subtract(self._clocks(), before).tolist()
        memory = processes.memory(self.running.pid)
        return Sample(
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

    def _clocks(self) -> tuple[float, float, float, float]:
        """CPU-seconds of the server, of the load generators and of the machine, and the time."""
        return (
            processes.cpu_seconds(self.running.pid),
            processes.own_cpu_seconds(),
            processes.machine_cpu_seconds(),
            time.monotonic(),
        )


class Bodies:
    """The rows, the model's predictions for them, and files of request bodies, each written once.

    Args:
        folder: of the files.
        onnx: the model.
        table: the rows ``[N, F]``, by default those of Housing.
    """

    def __init__(self, folder: Path, onnx: Path, table: FloatMatrix | None = None) -> None:
        self.table = payloads.table() if table is None else table
        self.expected: FloatMatrix = onnx_model.load(onnx)(self.table)
        self._folder = folder
        self._files: dict[tuple[str, int], tuple[Path, Mapping[str, str]]] = {}

    def of(self, protocol: payloads.PayloadFormat, rows: int) -> tuple[Path, Mapping[str, str]]:
        """The file of a protocol and a size, and the headers of its requests."""
        key = (protocol.name, rows)
        if key not in self._files:
            written = [protocol.write(batch) for batch in payloads.batches(self.table, rows)]
            file = self._folder / str(len(self._files))
            write_bodies(file, [body for body, _ in written])
            (_, headers), *_ = written
            self._files[key] = (file, {"Content-Type": protocol.content_type, **headers})
        return self._files[key]


class Benchmark:
    """Measures servers according to a plan.

    Args:
        plan: what is measured.
        model: the files of the model.
        say: is told each step in a line.
    """

    def __init__(self, plan: Plan, model: Mapping[str, Path], say: Callable[[str], object]) -> None:
        self.run = Run()
        self._plan = plan
        self._model = model
        self._say = say

    def measure(self, servers: Sequence[Server], commands: Mapping[Path, Path] | None = None) -> Run:
        """All rounds, then the minutes in which the longest answer is looked for. A server that fails is left out.

        Args:
            servers: in the order in which they are measured.
            commands: the ``bin`` folder of the environment of each lock; by default they are made, by uv.
        """
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-bodies-"))
            bodies = Bodies(Path(folder), self._model["onnx"])
            known = dict(commands or {})
            for server in servers:
                with self._attempt(server):
                    if server.lock not in known:
                        self._say(f"install the environment of {server.title}")
                        known[server.lock] = stack.enter_context(processes.environment(server.lock))
                    self.run.versions[server.key] = versions(known[server.lock])
            ready = [server for server in servers if server.lock in known]
            for number in range(self._plan.rounds):
                for server in ready:
                    with self._attempt(server), self._start(server, known, bodies, number) as target:
                        self._round(target, server, number)
                self._direct()
            for server in ready:
                for line in (line for line in server.lines if line.key in self._plan.stalls):
                    with self._attempt(server), self._start(server, known, bodies, None) as target:
                        target.load(line, Step(64, 1, self._plan.warm_up_seconds))
                        self._tell(line, target.sample(line, Step(64, 1, self._plan.stall_seconds), 0, stall=True))
        return self.run

    @contextmanager
    def _attempt(self, server: Server) -> Iterator[None]:
        try:
            yield
        except LoadTestError as error:
            self.run.failures.append(Failure(subject=server.title, reason=str(error)))
            self._say(f"{server.title} failed: {error}")

    @contextmanager
    def _start(
        self, server: Server, commands: Mapping[Path, Path], bodies: Bodies, number: int | None
    ) -> Iterator[LoadedServer]:
        what = "longest answer" if number is None else f"round {number + 1} of {self._plan.rounds}"
        self._say(f"{what}: {server.title}")
        with running(server, commands[server.lock], self._model, bodies.table[:1]) as started:
            if number is not None:
                self.run.ready_seconds.setdefault(server.key, []).append(started.ready_seconds)
            yield LoadedServer(started, bodies)

    def _round(self, target: LoadedServer, server: Server, number: int) -> None:
        for line in server.lines:
            steps = self._plan.steps(line, server, number)
            if steps:
                target.load(line, Step(64, steps[0].rows, self._plan.warm_up_seconds))
            for step in steps:
                target.check(line, step.rows)
                self._tell(line, target.sample(line, step, number))

    def _tell(self, line: Line, sample: Sample) -> None:
        self.run.samples.append(sample)
        problem = f" INVALID: {sample.load.problem}" if sample.load.problem else ""
        self._say(
            f"    {line.title}, {sample.connections} connections, {sample.rows} rows: "
            f"{sample.requests_per_second:,.0f} requests/s, {sample.cpu_ms:.3f} CPU-ms, "
            f"p50 {sample.load.p50_ms:.1f} ms, p99 {sample.load.p99_ms:.1f} ms{problem}"
        )

    def _direct(self) -> None:
        """Rows a second of onnxruntime called directly, in as many processes as a service has workers."""
        rows, seconds = max(self._plan.rows), self._plan.direct_seconds
        self._say(f"onnxruntime called directly, {rows} rows a call")
        command = [sys.executable, "-m", "load_tests.benchmark.peers.onnx_model", str(self._model["onnx"])]
        command += [str(rows), str(seconds)]
        started = [
            subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True)  # noqa: S603 # our own command
            for _ in range(WORKERS)
        ]
        self.run.direct.append(sum(float(process.communicate()[0]) for process in started))


def machine() -> Machine:
    """This machine."""
    names = [line for line in _read("/proc/cpuinfo").splitlines() if line.startswith("model name")]
    cpu = names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine()
    return Machine(cpu=cpu, cores=psutil.cpu_count() or 0, python=platform.python_version())


def _read(path: str) -> str:
    return Path(path).read_text() if Path(path).exists() else ""


def versions(commands: Path) -> dict[str, str]:
    """The versions of the packages that matter in an environment, by its ``bin`` folder."""
    code = "import importlib.metadata as m; [print(d.metadata['Name'].lower(), d.version) for d in m.distributions()]"
    listed = subprocess.run([str(commands / "python"), "-c", code], capture_output=True, text=True, check=True)  # noqa: S603 # our own command
    found = dict(line.split() for line in listed.stdout.splitlines())
    return {name: found[name] for name in SHOWN if name in found}


def revision() -> str:
    """The commit that is measured, with ``+dirty`` for a changed tree; ``unknown`` outside of git."""
    command = ["git", "describe", "--always", "--dirty=+dirty"]
    listed = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)  # noqa: S603 # our own
    return listed.stdout.strip() or "unknown"
