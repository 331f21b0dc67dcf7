"""Servers as processes: their environment, start and stop, the CPU time and the memory of the whole process tree."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import httpx
import psutil

from contract.table import FloatMatrix
from load_tests.benchmark.plan import WORKERS, Line, Server
from load_tests.errors import LoadTestError
from load_tests.grpc_protocol import METHOD
from local_service import free_port

INHERITED = ("HOME", "LANG", "TMPDIR", "BENTOML_HOME", "MODELS_DIR")
READY_WITHIN = 90
"""Seconds to wait for the first answer of a server."""
ANSWER_WITHIN = 20
"""Seconds to wait for one answer."""


class NoAnswer(Exception):
    """A request failed; the message says why."""


@dataclass(frozen=True)
class Memory:
    """Proportional set size in bytes: shared pages are divided among the processes. ``processes``: largest first."""

    total: int
    processes: tuple[int, ...]


@contextmanager
def environment(lock: Path) -> Iterator[Path]:
    """The ``bin`` folder of an environment with the packages of a lock file, kept for the length of the block.

    Raises:
        LoadTestError: uv could not install them; contains what it printed.
    """
    # The process holds the environment open: uv deletes it when its command ends.
    holder = "import sys; print(sys.prefix, flush=True); sys.stdin.read()"
    python = Path(sys.base_prefix) / "bin" / Path(sys.executable).name
    command = [Path(sys.executable).with_name("uv"), "run", "--quiet", "--isolated", "--no-project", "--python", python]
    command += ["--compile-bytecode", "--with-requirements", lock, "--", "python", "-c", holder]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:  # type: ignore[call-overload]  # noqa: S603 # our own
        prefix = process.stdout.readline().strip()
        if not prefix:
            _, errors = process.communicate()
            raise LoadTestError(f"uv could not install {lock}: {errors.strip()[-1000:]}")
        try:
            yield Path(prefix) / "bin"
        finally:
            process.communicate()


@dataclass(frozen=True)
class Running:
    """A server that answers. ``pid``: the root of its processes; ``ready_seconds``: from start to the first answer."""

    server: Server
    pid: int
    port: int
    grpc_port: int
    ready_seconds: float = 0.0

    def url(self, path: str) -> str:
        """The URL of a path."""
        return f"http://127.0.0.1:{self.port}{path}"

    @property
    def grpc_target(self) -> str:
        """The address of gRPC."""
        return f"127.0.0.1:{self.grpc_port}"

    def ask(self, line: Line, rows: FloatMatrix) -> list[float] | None:
        """The predictions for rows ``[N, F]``; None from a floor.

        Raises:
            NoAnswer: the request failed.
        """
        path, protocol = line.way(len(rows))
        body, headers = protocol.write(rows)
        if line.grpc:
            content = self._call(body)
        else:
            content = self._post(path, body, {"content-type": protocol.content_type, **headers})
        return protocol.read(content) if protocol.read else None

    def _call(self, body: bytes) -> bytes:
        with grpc.insecure_channel(self.grpc_target) as channel:
            call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)
            try:
                return call(body, timeout=ANSWER_WITHIN)
            except grpc.RpcError as error:
                raise NoAnswer(str(error)) from None

    def _post(self, path: str, body: bytes, headers: dict[str, str]) -> bytes:
        try:
            answer = httpx.post(self.url(path), content=body, headers=headers, timeout=ANSWER_WITHIN)
        except httpx.TransportError as error:
            raise NoAnswer(f"{type(error).__name__} {error}") from None
        if not answer.is_success:
            raise NoAnswer(f"{answer.status_code} {answer.text[:300]}")
        return answer.content


@contextmanager
def running(server: Server, commands: Path, model: Mapping[str, Path], rows: FloatMatrix) -> Iterator[Running]:
    """Start a server, wait until its first line answers ``rows``, stop it after the block.

    Args:
        server: what to start.
        commands: the ``bin`` folder of its environment.
        model: the files it may serve: ``onnx``, ``estimator`` and ``mlflow_model``.
        rows: ``[1, F]``.

    Raises:
        LoadTestError: it stopped or did not answer in time; contains the end of its log.
    """
    port, grpc_port, metrics_port = (free_port() for _ in range(3))
    with tempfile.TemporaryDirectory(prefix=f"benchmark-{server.key}-") as scratch:
        places = {
            "port": port,
            "grpc_port": grpc_port,
            "metrics_port": metrics_port,
            "workers": WORKERS,
            "scratch": scratch,
            **model,
        }
        variables = {name: os.environ[name] for name in INHERITED if name in os.environ} | {
            "PATH": f"{commands}:{os.environ['PATH']}",
            "PYTHONPATH": str(server.checkout),
            "PORT": str(grpc_port if server.lines[0].grpc else port),
            "WORKERS": str(WORKERS),
            # Workers are processes: threads in the numerical libraries would only wait for each other.
            "OMP_NUM_THREADS": "1",
        }
        variables |= {name: text.format(**places) for name, text in server.environment.items()}
        command = [str(commands / server.command[0]), *(part.format(**places) for part in server.command[1:])]
        log = Path(scratch) / "server.log"
        started = time.perf_counter()
        with log.open("wb") as sink:
            process = subprocess.Popen(  # noqa: S603 # our own command
                command, cwd=server.folder, env=variables, stdout=sink, stderr=subprocess.STDOUT
            )
        try:
            target = Running(server, process.pid, port, grpc_port)
            _wait_for_answer(target, process, rows, log)
            yield replace(target, ready_seconds=time.perf_counter() - started)
        finally:
            stop(process.pid)
            process.wait()


def _wait_for_answer(target: Running, process: "subprocess.Popen[bytes]", rows: FloatMatrix, log: Path) -> None:
    deadline = time.perf_counter() + READY_WITHIN
    problem = "nothing listened"
    while time.perf_counter() < deadline and process.poll() is None:
        try:
            target.ask(target.server.lines[0], rows)
        except NoAnswer as error:
            problem = str(error)
            time.sleep(0.02)
        else:
            return
    what = f"gave no answer in {READY_WITHIN} s ({problem})" if process.poll() is None else "stopped while starting"
    raise LoadTestError(f"{target.server.title} {what}: {log.read_text(errors='replace').strip()[-1500:]}")


def tree(pid: int) -> list[psutil.Process]:
    """A process and all its descendants that are alive."""
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def cpu_seconds(pid: int) -> float:
    """CPU time of a process tree, user and system.

    The time of a child that ended is part of its parent's once the parent has waited for it.
    """
    total = 0.0
    for process in tree(pid):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue  # It ended since it was listed: its parent has its time.
        total += times.user + times.system + times.children_user + times.children_system
    return total


def own_cpu_seconds() -> float:
    """CPU time of this process and of the children that ended: the load generators."""
    times = psutil.Process().cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)


def machine_cpu_seconds() -> float:
    """CPU time that all processes of the machine have used since it started."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0))


def memory(pid: int) -> Memory:
    """Memory of a process tree, now."""
    sizes = []
    for process in tree(pid):
        try:
            sizes.append(int(process.memory_full_info().pss))
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return Memory(sum(sizes), tuple(sorted(sizes, reverse=True)))


def stop(pid: int, seconds: float = 15) -> None:
    """Ask a process to end, then what is left of its tree, and kill what does not end in time."""
    try:
        processes = tree(pid)
    except psutil.NoSuchProcess:
        return
    _signal("terminate", processes[:1])
    # The root stops its own children in its own order.
    psutil.wait_procs(processes[:1], timeout=seconds)
    _, alive = psutil.wait_procs(processes, timeout=2)
    for how in ("terminate", "kill"):
        _signal(how, alive)
        _, alive = psutil.wait_procs(alive, timeout=5)


def _signal(how: str, processes: list[psutil.Process]) -> None:
    for process in processes:
        try:
            getattr(process, how)()
        except psutil.NoSuchProcess:
            continue
