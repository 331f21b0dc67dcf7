"""What is measured: the servers with their recommended settings, the ways to call them, and the steps of a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from load_tests.benchmark import payloads
from load_tests.benchmark.payloads import PayloadFormat
from local_service import PROJECT

PEERS = Path(__file__).with_name("peers")
WORKERS = 2
START_SECONDS = 4
"""Estimate of starting and stopping a server."""
PAUSE_SECONDS = 0.4
"""Estimate of what happens between two steps: checked requests, a reading of memory."""


@dataclass(frozen=True)
class Line:
    """One way to call a server: a line of the report.

    ``path`` takes requests of one row, ``batch_path`` those of several (None: the same). ``rows_only`` skips
    requests of one row.
    """

    key: str
    title: str
    protocol: PayloadFormat
    path: str = ""
    batch_path: str | None = None
    batch_protocol: PayloadFormat | None = None
    grpc: bool = False
    rows_only: bool = False

    def way(self, rows: int) -> tuple[str, PayloadFormat]:
        """Path and protocol of a request of so many rows."""
        if rows == 1 or self.batch_path is None:
            return self.path, self.protocol
        return self.batch_path, self.batch_protocol or self.protocol


@dataclass(frozen=True)
class Server:
    """A server: its environment, its command, and the lines of the report it answers for.

    ``command`` and ``environment`` may contain {port}, {grpc_port}, {metrics_port}, {workers}, {onnx}, {estimator},
    {mlflow_model} and {scratch}, a folder that is empty at each start. ``model`` and ``settings`` describe it to the
    reader. Our packages are imported from ``checkout``. A ``floor`` has no model; a ``brief`` server gets the main step
    only.
    """

    key: str
    title: str
    command: tuple[str, ...]
    model: str
    settings: str
    lines: tuple[Line, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    lock: Path = PROJECT / "requirements" / "serving.txt"
    folder: Path = PROJECT
    checkout: Path = PROJECT
    floor: bool = False
    brief: bool = False

    def line_title(self, line: Line) -> str:
        """Server and line, as in "MLServer · REST"; the server alone if it has one line."""
        return self.title if len(self.lines) == 1 else f"{self.title} · {line.title}"


def _peer(key: str, folder: str, title: str, command: str, **rest: Any) -> Server:
    return Server(
        key, title, tuple(command.split()), lock=PEERS / folder / "requirements.txt", folder=PEERS / folder, **rest
    )


SESSION = "ONNX session, 1 thread"
UVICORN = (
    " --host 127.0.0.1 --port {port} --workers {workers} --loop uvloop --http httptools"
    " --log-level warning --no-access-log"
)
MLSERVER_SETTINGS = {
    "BENCHMARK_ONNX": "{onnx}",
    "MLSERVER_HTTP_PORT": "{port}",
    "MLSERVER_GRPC_PORT": "{grpc_port}",
    "MLSERVER_METRICS_PORT": "{metrics_port}",
    "MLSERVER_METRICS_DIR": "{scratch}",
}
HOUSING, HOUSING_BATCH, HOUSING_V2 = "/predict/housing", "/predict/housing/batch", "/v2/models/housing/infer"

OURS = Server(
    key="ours",
    title="This service",
    command=("bentoml", "serve"),
    environment={
        "API_HOST": "127.0.0.1",
        "API_PORT": "{port}",
        "GRPC_PORT": "{grpc_port}",
        "WORKERS": "{workers}",
        "STATE_DIR": "{scratch}/state",
        "BENTOML_DO_NOT_TRACK": "True",
    },
    model=SESSION,
    settings="production settings: validation and metrics on",
    lines=(
        Line("ours", "/predict/housing", payloads.ROW, HOUSING, HOUSING_BATCH, payloads.ROWS),
        Line("ours-v2", "/v2 JSON", payloads.V2_JSON, HOUSING_V2),
        Line("ours-grpc", "gRPC", payloads.V2_GRPC, grpc=True),
        Line("ours-binary", "/v2 binary", payloads.V2_BINARY, HOUSING_V2, rows_only=True),
    ),
)
UNMETERED = replace(
    OURS,
    key="unmetered",
    title="This service, metrics off",
    command=("bentoml", "serve", "load_tests.benchmark.peers.unmetered:PredictionService"),
    settings="as above, without the metrics of requests and models: shows what they cost",
    brief=True,
    lines=(replace(OURS.lines[0], key="unmetered"),),
)
FASTAPI = _peer(
    "fastapi",
    "fastapi",
    "FastAPI, predict per request",
    "uvicorn estimator_server:app" + UVICORN,
    environment={"BENCHMARK_ESTIMATOR": "{estimator}"},
    model="scikit-learn estimator",
    settings="uvicorn, uvloop, httptools, no access log, OMP_NUM_THREADS=1; the same pydantic row",
    lines=(Line("fastapi", "predict", payloads.ROW, HOUSING, HOUSING_BATCH, payloads.ROWS),),
)
FASTAPI_ONNX = _peer(
    "fastapi-onnx",
    "fastapi",
    "FastAPI, ONNX per request",
    "uvicorn onnx_server:app" + UVICORN,
    environment={"BENCHMARK_ONNX": "{onnx}"},
    model=SESSION,
    settings="as above, with onnxruntime instead of scikit-learn",
    lines=(Line("fastapi-onnx", "ONNX", payloads.ROW, HOUSING, HOUSING_BATCH, payloads.ROWS),),
)
BENTOML = _peer(
    "bentoml",
    "bentoml",
    "BentoML, batchable=True",
    "bentoml serve server:Housing --host 127.0.0.1 --port {port}",
    environment={"BENCHMARK_ONNX": "{onnx}", "BENTOML_HOME": "{scratch}", "BENTOML_DO_NOT_TRACK": "True"},
    model=SESSION,
    settings="batchable=True, max_batch_size=512, access log and tracing off, uvloop, httptools; the same pydantic row",
    lines=(Line("bentoml", "batchable=True", payloads.ROWS_TO_LIST, HOUSING_BATCH),),
)
MLSERVER = _peer(
    "mlserver",
    "mlserver",
    "MLServer",
    "mlserver start .",
    environment={**MLSERVER_SETTINGS, "MLSERVER_PARALLEL_WORKERS": "{workers}"},
    model=SESSION + ", in a custom runtime",
    settings="debug off, parallel_workers=2, max_batch_size=64, max_batch_time=2 ms",
    lines=(
        Line("mlserver", "REST", payloads.V2_JSON, HOUSING_V2),
        Line("mlserver-grpc", "gRPC", payloads.V2_GRPC, grpc=True),
    ),
)
MLSERVER_ALONE = replace(
    MLSERVER,
    key="mlserver-alone",
    title="MLServer, one process",
    environment={**MLSERVER_SETTINGS, "MLSERVER_PARALLEL_WORKERS": "0"},
    settings="as above with parallel_workers=0: less CPU a request, and one core at most",
    brief=True,
    lines=tuple(replace(line, key=line.key.replace("mlserver", "mlserver-alone")) for line in MLSERVER.lines),
)
LITSERVE = _peer(
    "litserve",
    "litserve",
    "LitServe",
    "python server.py",
    environment={"BENCHMARK_ONNX": "{onnx}", "LIT_SERVER_DISABLE_TELEMETRY": "1"},
    model=SESSION,
    settings="2 API servers, 2 workers, fast_queue, max_batch_size=64, batch_timeout=2 ms, no access log; the same row",
    lines=(Line("litserve", "batched", payloads.ROWS_TO_LIST, HOUSING_BATCH),),
)
MLFLOW = _peer(
    "mlflow",
    "mlflow",
    "mlflow models serve",
    "mlflow models serve --model-uri {mlflow_model} --env-manager local --host 127.0.0.1 --port {port} "
    "--workers {workers}",
    environment={"MLFLOW_DISABLE_TELEMETRY": "true"},
    model="the MLflow model: scikit-learn estimator",
    settings="2 workers, OMP_NUM_THREADS=1, dataframe_split",
    lines=(Line("mlflow", "/invocations", payloads.MLFLOW, "/invocations"),),
)
ECHO = _peer(
    "echo",
    "floors",
    "ASGI echo",
    "uvicorn server:echo" + UVICORN,
    model="none",
    settings="uvicorn, uvloop, httptools; answers the body. The floor of HTTP, and the limit of wrk beside it",
    floor=True,
    brief=True,
    lines=(Line("echo", "no framework", payloads.ROW_UNREAD, HOUSING),),
)
EMPTY = _peer(
    "empty",
    "floors",
    "FastAPI, empty handler",
    "uvicorn server:app" + UVICORN,
    model="none",
    settings="uvicorn, uvloop, httptools; the same pydantic row, then a constant",
    floor=True,
    lines=(Line("empty", "no model", payloads.ROW_UNREAD, HOUSING),),
)
GRPC_ECHO = _peer(
    "grpc-echo",
    "floors",
    "gRPC echo",
    "python grpc_server.py",
    model="none",
    settings="grpc.aio; answers the bytes. The floor of gRPC in Python, and the limit of its client beside it",
    floor=True,
    brief=True,
    lines=(Line("grpc-echo", "no model", payloads.GRPC_UNREAD, grpc=True),),
)
SERVERS = (
    *(OURS, UNMETERED, FASTAPI, FASTAPI_ONNX, BENTOML, MLSERVER, MLSERVER_ALONE, LITSERVE, MLFLOW),
    *(ECHO, EMPTY, GRPC_ECHO),
)


@dataclass(frozen=True)
class Step:
    """One measurement: requests of ``rows`` rows over ``connections`` for some seconds."""

    connections: int
    rows: int
    seconds: int


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Each round starts each server anew, so that noise shows between rounds. ``main`` is measured in each round, the
    other ``connections`` and ``rows`` in the first ``side_rounds``, ``seconds`` each. ``rows`` go over
    ``rows_connections``. ``stalls`` are the lines that are loaded for ``stall_seconds`` at the end.
    """

    rounds: int = 3
    side_rounds: int = 2
    main: Step = Step(64, 1, 4)
    connections: tuple[int, ...] = (1, 16, 64, 256)
    rows: tuple[int, ...] = (1, 10, 100, 1000)
    rows_connections: int = 16
    seconds: int = 2
    warm_up_seconds: int = 1
    direct_seconds: float = 2
    stalls: tuple[str, ...] = ("ours", "mlserver")
    stall_seconds: int = 60

    def steps(self, line: Line, server: Server, number: int) -> list[Step]:
        """The steps of a line in a round; floors get no requests of several rows, brief servers the main step only."""
        steps = [] if line.rows_only else [self.main]
        if number >= self.side_rounds or server.brief:
            return steps
        rows = {(self.rows_connections, count) for count in self.rows} if not server.floor else set()
        connections = {(count, 1) for count in self.connections} if not line.rows_only else set()
        side = sorted(rows | connections, key=lambda pair: (pair[1], pair[0]))
        return steps + [Step(*pair, self.seconds) for pair in side if pair != (self.main.connections, self.main.rows)]

    def estimate(self, servers: Sequence[Server]) -> float:
        """Seconds that a run takes, without setting up environments."""
        total = self.rounds * (self.direct_seconds + 2)
        for server in servers:
            total += self.rounds * START_SECONDS
            total += sum(START_SECONDS + self.stall_seconds for line in server.lines if line.key in self.stalls)
            for number in range(self.rounds):
                for steps in (self.steps(line, server, number) for line in server.lines):
                    total += sum(step.seconds + PAUSE_SECONDS for step in steps) + self.warm_up_seconds * bool(steps)
        return total


FULL = Plan()
QUICK = Plan(rounds=1, side_rounds=1, connections=(1, 64), rows=(1, 1000), stalls=())
QUICK_SERVERS = ("ours", "fastapi", "empty")
