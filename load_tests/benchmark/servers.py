"""The servers that are compared, with the settings that each recommends, and the ways in which each is asked."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from load_tests.benchmark import payloads
from load_tests.benchmark.payloads import Protocol

PROJECT = Path(__file__).parents[2]
PEERS = Path(__file__).with_name("peers")
WORKERS = 2
UVICORN = ("--host", "127.0.0.1", "--port", "{port}", "--workers", "{workers}", "--log-level", "warning")
UVICORN_QUIET = (*UVICORN, "--no-access-log", "--loop", "uvloop", "--http", "httptools")


@dataclass(frozen=True)
class Line:
    """One way to ask a server: a line of the report.

    ``path`` takes requests of one row, ``batch_path`` those of several; None where there are none. ``rows_only`` leaves
    the measures of one row out.
    """

    key: str
    title: str
    protocol: Protocol
    path: str = ""
    batch_path: str | None = None
    batch_protocol: Protocol | None = None
    grpc: bool = False
    rows_only: bool = False

    def way(self, rows: int) -> tuple[str, Protocol]:
        """Path and protocol of a request of so many rows."""
        if rows == 1 or self.batch_path is None:
            return self.path, self.protocol
        return self.batch_path, self.batch_protocol or self.protocol


@dataclass(frozen=True)
class Server:
    """A server: its environment, its command, the lines of the report it answers for.

    ``command`` and ``environment`` may name {port}, {grpc_port}, {metrics_port}, {workers}, {onnx}, {estimator},
    {mlflow_model} and {scratch}, a folder that is empty at each start. ``model`` and ``settings`` tell the reader what
    it runs and how. Our packages are imported from ``checkout``. A ``floor`` has no model; of a ``brief`` one only the
    main measure is taken.
    """

    key: str
    title: str
    command: tuple[str, ...]
    model: str
    settings: str
    lines: tuple[Line, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    environment_name: str = ""
    lock: Path = Path()
    folder: Path = PROJECT
    checkout: Path = PROJECT
    floor: bool = False
    brief: bool = False


def _peer(key: str, name: str, title: str, command: tuple[str, ...], **rest: object) -> Server:
    folder = PEERS / name
    return Server(key, title, command, environment_name=name, lock=folder / "requirements.txt", folder=folder, **rest)  # type: ignore[arg-type]


SESSION = "ONNX session, 1 thread"

OURS = Server(
    key="ours",
    title="This service",
    command=("bentoml", "serve"),
    environment_name="ours",
    lock=PROJECT / "requirements" / "serving.txt",
    environment={
        "API_HOST": "127.0.0.1",
        "API_PORT": "{port}",
        "GRPC_PORT": "{grpc_port}",
        "WORKERS": "{workers}",
        "BENTOML_DO_NOT_TRACK": "True",
    },
    model=SESSION,
    settings="production settings: validation and metrics on",
    lines=(
        Line("ours", "/predict/housing", payloads.ROW, "/predict/housing", "/predict/housing/batch", payloads.ROWS),
        Line("ours-v2", "/v2 JSON", payloads.V2_JSON, "/v2/models/housing/infer"),
        Line("ours-grpc", "gRPC", payloads.V2_GRPC, grpc=True),
        Line("ours-binary", "/v2 binary", payloads.V2_BINARY, "/v2/models/housing/infer", rows_only=True),
    ),
)
UNMETERED = replace(
    OURS,
    key="unmetered",
    title="This service, metrics off",
    command=("bentoml", "serve", "load_tests.benchmark.unmetered:PredictionService"),
    settings="as above, without the series of requests and models: what they cost",
    brief=True,
    lines=(replace(OURS.lines[0], key="unmetered"),),
)
FASTAPI = _peer(
    "fastapi",
    "fastapi",
    "FastAPI, predict per request",
    ("uvicorn", "estimator_server:app", *UVICORN_QUIET),
    environment={"BENCHMARK_ESTIMATOR": "{estimator}"},
    model="scikit-learn estimator",
    settings="uvicorn, uvloop, httptools, no access log, OMP_NUM_THREADS=1; the same pydantic row",
    lines=(Line("fastapi", "predict", payloads.ROW, "/predict/housing", "/predict/housing/batch", payloads.ROWS),),
)
FASTAPI_ONNX = _peer(
    "fastapi-onnx",
    "fastapi",
    "FastAPI, ONNX per request",
    ("uvicorn", "onnx_server:app", *UVICORN_QUIET),
    environment={"BENCHMARK_ONNX": "{onnx}"},
    model=SESSION,
    settings="as above, with onnxruntime in the place of scikit-learn",
    lines=(Line("fastapi-onnx", "ONNX", payloads.ROW, "/predict/housing", "/predict/housing/batch", payloads.ROWS),),
)
BENTOML = _peer(
    "bentoml",
    "bentoml",
    "BentoML, batchable=True",
    ("bentoml", "serve", "server:Housing", "--host", "127.0.0.1", "--port", "{port}"),
    environment={"BENCHMARK_ONNX": "{onnx}", "BENTOML_HOME": "{scratch}", "BENTOML_DO_NOT_TRACK": "True"},
    model=SESSION,
    settings="batchable=True, max_batch_size=512, access log and tracing off, uvloop, httptools; the same pydantic row",
    lines=(Line("bentoml", "batchable=True", payloads.ROWS_TO_LIST, "/predict/housing/batch"),),
)
MLSERVER_ENVIRONMENT = {
    "BENCHMARK_ONNX": "{onnx}",
    "MLSERVER_HTTP_PORT": "{port}",
    "MLSERVER_GRPC_PORT": "{grpc_port}",
    "MLSERVER_METRICS_PORT": "{metrics_port}",
    "MLSERVER_METRICS_DIR": "{scratch}",
}
MLSERVER = _peer(
    "mlserver",
    "mlserver",
    "MLServer",
    ("mlserver", "start", "."),
    environment={**MLSERVER_ENVIRONMENT, "MLSERVER_PARALLEL_WORKERS": "{workers}"},
    model=SESSION + ", in a custom runtime",
    settings="debug off, parallel_workers=2, max_batch_size=64, max_batch_time=2 ms",
    lines=(
        Line("mlserver", "REST", payloads.V2_JSON, "/v2/models/housing/infer"),
        Line("mlserver-grpc", "gRPC", payloads.V2_GRPC, grpc=True),
    ),
)
MLSERVER_ALONE = _peer(
    "mlserver-alone",
    "mlserver",
    "MLServer, one process",
    ("mlserver", "start", "."),
    environment={**MLSERVER_ENVIRONMENT, "MLSERVER_PARALLEL_WORKERS": "0"},
    model=SESSION + ", in a custom runtime",
    settings="as above with parallel_workers=0: less CPU a request, and one core at most",
    brief=True,
    lines=(
        Line("mlserver-alone", "REST", payloads.V2_JSON, "/v2/models/housing/infer"),
        Line("mlserver-alone-grpc", "gRPC", payloads.V2_GRPC, grpc=True),
    ),
)
LITSERVE = _peer(
    "litserve",
    "litserve",
    "LitServe",
    ("python", "server.py"),
    environment={"BENCHMARK_ONNX": "{onnx}", "LIT_SERVER_DISABLE_TELEMETRY": "1"},
    model=SESSION,
    settings="2 API servers, 2 workers, fast_queue, max_batch_size=64, batch_timeout=2 ms, no access log; the same row",
    lines=(Line("litserve", "batched", payloads.ROWS_TO_LIST, "/predict/housing/batch"),),
)
MLFLOW = _peer(
    "mlflow",
    "mlflow",
    "mlflow models serve",
    (
        *("mlflow", "models", "serve", "--model-uri", "{mlflow_model}", "--env-manager", "local"),
        *("--host", "127.0.0.1", "--port", "{port}", "--workers", "{workers}"),
    ),
    environment={"MLFLOW_DISABLE_TELEMETRY": "true"},
    model="the MLflow model: scikit-learn estimator",
    settings="2 workers, OMP_NUM_THREADS=1, dataframe_split",
    lines=(Line("mlflow", "/invocations", payloads.MLFLOW, "/invocations"),),
)
ECHO = _peer(
    "echo",
    "floors",
    "ASGI echo",
    ("uvicorn", "server:echo", *UVICORN_QUIET),
    model="none",
    settings="uvicorn, uvloop, httptools; answers the body. The floor of HTTP, and the limit of wrk beside it",
    floor=True,
    brief=True,
    lines=(Line("echo", "no framework", payloads.ROW_UNREAD, "/predict/housing"),),
)
EMPTY = _peer(
    "empty",
    "floors",
    "FastAPI, empty handler",
    ("uvicorn", "server:app", *UVICORN_QUIET),
    model="none",
    settings="uvicorn, uvloop, httptools; the same pydantic row, then a constant",
    floor=True,
    lines=(Line("empty", "no model", payloads.ROW_UNREAD, "/predict/housing"),),
)
GRPC_ECHO = _peer(
    "grpc-echo",
    "floors",
    "gRPC echo",
    ("python", "grpc_server.py"),
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
