"""A server that runs for as long as a block lasts, and its answers to single requests."""

import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx

from load_tests.benchmark import process_tree
from load_tests.benchmark.deployment import Deployment
from load_tests.benchmark.errors import BenchmarkError
from load_tests.benchmark.grpc_load import METHOD
from load_tests.benchmark.payloads import FloatMatrix
from load_tests.benchmark.servers import WORKERS, Line, Server

INHERITED = ("HOME", "LANG", "TMPDIR", "BENTOML_HOME", "MODELS_DIR")
READY_WITHIN = 90
"""Seconds after which a server that gives no answer is given up."""
ANSWER_WITHIN = 20
"""Seconds after which one request is given up."""


class NoAnswer(Exception):
    """No success, for the reason in ``str(error)``."""


@dataclass(frozen=True)
class Running:
    """A server that answers. ``pid`` is the root of its processes; ``ready_seconds`` from start to the first answer."""

    server: Server
    pid: int
    port: int
    grpc_port: int
    ready_seconds: float

    def url(self, path: str) -> str:
        """The URL of a path."""
        return f"http://127.0.0.1:{self.port}{path}"

    @property
    def grpc_target(self) -> str:
        """Where gRPC listens."""
        return f"127.0.0.1:{self.grpc_port}"

    def ask(self, line: Line, rows: FloatMatrix) -> list[float] | None:
        """The predictions for rows ``[N, F]``, None from a floor.

        Raises:
            NoAnswer: there is none, or it is no success.
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


def free_ports(count: int) -> list[int]:
    """TCP ports of the loopback address that nobody listens on now."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@contextmanager
def running(server: Server, commands: Path, deployment: Deployment, rows: FloatMatrix) -> Iterator[Running]:
    """Start a server, wait until its first line answers ``rows``, stop it after the block.

    Args:
        server: what to start.
        commands: the folder of commands of its environment.
        deployment: the model.
        rows: ``[1, F]``.

    Raises:
        BenchmarkError: it stopped, or gave no answer in time; has the end of its log.
    """
    port, grpc_port, metrics_port = free_ports(3)
    with tempfile.TemporaryDirectory(prefix=f"benchmark-{server.key}-") as scratch:
        places = {
            "port": str(port),
            "grpc_port": str(grpc_port),
            "metrics_port": str(metrics_port),
            "workers": str(WORKERS),
            "onnx": str(deployment.onnx),
            "estimator": str(deployment.estimator),
            "mlflow_model": str(deployment.mlflow_model),
            "scratch": scratch,
        }
        log = Path(scratch) / "server.log"
        started = time.perf_counter()
        with log.open("wb") as sink:
            process = subprocess.Popen(  # noqa: S603 # our own command
                [str(commands / server.command[0]), *(part.format(**places) for part in server.command[1:])],
                cwd=server.folder,
                env=_environment(server, commands, places),
                stdout=sink,
                stderr=subprocess.STDOUT,
            )
        try:
            answering = Running(server, process.pid, port, grpc_port, 0.0)
            _wait_for_answer(answering, process, rows, log)
            yield Running(server, process.pid, port, grpc_port, time.perf_counter() - started)
        finally:
            process_tree.stop(process.pid)
            process.wait()


def _environment(server: Server, commands: Path, places: dict[str, str]) -> dict[str, str]:
    inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
    return inherited | {
        "PATH": f"{commands}:{os.environ['PATH']}",
        "PYTHONPATH": str(server.checkout),
        "PORT": places["grpc_port"] if server.lines[0].grpc else places["port"],
        "WORKERS": places["workers"],
        # A worker is a process: threads in the numerical libraries would only wait for each other.
        "OMP_NUM_THREADS": "1",
        **{name: text.format(**places) for name, text in server.environment.items()},
    }


def _wait_for_answer(running: Running, process: "subprocess.Popen[bytes]", rows: FloatMatrix, log: Path) -> None:
    deadline = time.perf_counter() + READY_WITHIN
    problem = "nobody listened"
    while time.perf_counter() < deadline:
        if process.poll() is not None:
            raise BenchmarkError(f"{running.server.title} stopped while starting: {_tail(log)}")
        try:
            running.ask(running.server.lines[0], rows)
        except NoAnswer as error:
            problem = str(error)
            time.sleep(0.02)
        else:
            return
    raise BenchmarkError(f"{running.server.title} gave no answer in {READY_WITHIN} s ({problem}): {_tail(log)}")


def _tail(log: Path) -> str:
    return log.read_text(errors="replace").strip()[-1500:]
