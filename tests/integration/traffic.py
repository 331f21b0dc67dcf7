"""Mixed traffic: single rows, batches and the inference protocol, over HTTP and gRPC, with faults among them."""

import itertools
import random
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import grpc
import httpx
import numpy as np
import pandas as pd
from open_inference.grpc import protocol as pb

from contract import DATASETS
from contract.datasets.housing import HOUSING
from contract.datasets.iris import IRIS
from model.card import ONNX_INPUT

RAW = Path(__file__).parents[2] / "data" / "raw"


class Rows:
    """Rows of the raw data; of Housing, on demand, those of inland districts only: east of 121° W, north of 35° N."""

    def __init__(self) -> None:
        tables = {name: pd.read_csv(RAW / f"{name}.csv") for name in DATASETS}
        housing = tables[HOUSING.name]
        inland = housing[(housing.Longitude > -121) & (housing.Latitude > 35)]
        self._everywhere = {name: self._shuffled(name, table) for name, table in tables.items()}
        self._inland = self._everywhere | {HOUSING.name: self._shuffled(HOUSING.name, inland)}
        self.inland = False

    @staticmethod
    def _shuffled(name: str, table: pd.DataFrame) -> Iterator["KnownRow"]:
        dataset = DATASETS[name]
        features = table[list(dataset.feature_names)].astype(float).to_dict("records")
        rows = [{str(field): float(value) for field, value in row.items()} for row in features]
        known = list(zip(rows, table[dataset.target.name].tolist(), strict=True))
        random.Random(0).shuffle(known)
        return itertools.cycle(known)

    def take(self, name: str, count: int) -> list[dict[str, float]]:
        """Some rows of a dataset. Threads may share it: what they share of the rows' order is nobody's matter."""
        return [row for row, _ in itertools.islice(self._of(name), count)]

    def known(self, name: str) -> "KnownRow":
        """A row of a dataset, and what came true."""
        return next(self._of(name))

    def _of(self, name: str) -> Iterator["KnownRow"]:
        return (self._inland if self.inland else self._everywhere)[name]


KnownRow = tuple[dict[str, float], float | str]


class Traffic:
    """Everything that users do, each kind in a thread of its own.

    ``answers`` counts status codes; a connection that breaks, as of a worker that is killed, counts as ``broken``.

    Args:
        url: of the service.
        grpc_port: of the same.
        key: for what came true, where the service asks for one.
    """

    def __init__(self, url: str, grpc_port: int, key: str) -> None:
        self.url = url
        self._authorization = {"authorization": f"Bearer {key}"}
        self.rows = Rows()
        self.answers: Counter[str] = Counter()
        self._grpc_port = grpc_port
        self._lock = threading.Lock()
        self._open = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @contextmanager
    def flowing(self, *kinds: Callable[["Traffic"], Callable[[], str]], pause: float = 0.02) -> Iterator[None]:
        """Send requests of these kinds until the block ends; what breaks in a thread is raised then."""
        stop = threading.Event()
        with ThreadPoolExecutor(len(kinds)) as pool:
            threads: list[Future[None]] = [pool.submit(self._send, kind(self), stop, pause) for kind in kinds]
            try:
                yield
            finally:
                stop.set()
        for thread in threads:
            thread.result()

    def _send(self, send: Callable[[], str], stop: threading.Event, pause: float) -> None:
        while not stop.wait(pause):
            try:
                answer = send()
            except (httpx.TransportError, OSError):
                answer = "broken"
            with self._lock:
                self.answers[answer] += 1

    def _client(self) -> httpx.Client:
        return self._open.enter_context(httpx.Client(base_url=self.url, timeout=30))

    def singles(self) -> Callable[[], str]:
        """One row a request."""
        client = self._client()
        names = itertools.cycle(DATASETS)

        def send() -> str:
            name = next(names)
            return str(client.post(f"/predict/{name}", json=self.rows.take(name, 1)[0]).status_code)

        return send

    def batches(self) -> Callable[[], str]:
        """Twenty rows a request."""
        client = self._client()
        names = itertools.cycle(DATASETS)

        def send() -> str:
            name = next(names)
            return str(client.post(f"/predict/{name}/batch", json={"rows": self.rows.take(name, 20)}).status_code)

        return send

    def protocol(self) -> Callable[[], str]:
        """The inference protocol over HTTP."""
        client = self._client()

        def send() -> str:
            values = [list(row.values()) for row in self.rows.take(HOUSING.name, 4)]
            tensor = {"name": ONNX_INPUT, "shape": [4, 8], "datatype": "FP64", "data": values}
            return str(client.post(f"/v2/models/{HOUSING.name}/infer", json={"inputs": [tensor]}).status_code)

        return send

    def calls(self) -> Callable[[], str]:
        """The inference protocol over gRPC; now and then one asks for a model that nobody has."""
        channel = self._open.enter_context(grpc.insecure_channel(f"127.0.0.1:{self._grpc_port}"))
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelInferResponse.FromString,
        )
        names = itertools.cycle([*DATASETS] * 5 + ["nobody"])

        def send() -> str:
            name = next(names)
            values = list(self.rows.take(name if name in DATASETS else IRIS.name, 1)[0].values())
            request = pb.ModelInferRequest(model_name=name)
            request.inputs.add(name=ONNX_INPUT, datatype="FP64", shape=[1, len(values)]).contents.fp64_contents[:] = (
                values
            )
            try:
                infer(request, timeout=5)
            except grpc.RpcError as error:
                return str(error.code().name)
            return "OK"

        return send

    def mistakes(self) -> Callable[[], str]:
        """What clients do wrong: refused values, missing fields, unknown paths, methods and models."""
        client = self._client()
        wrong: Iterator[Callable[[], httpx.Response]] = itertools.cycle(
            [
                lambda: client.post("/predict/iris", json=IRIS.example | {"petal_width": 99}),
                lambda: client.post("/predict/housing", json=HOUSING.example | {"MedInc": None}),
                lambda: client.post("/predict/housing", json={"MedInc": 3}),
                lambda: client.post("/predict/iris", content=b"{", headers={"content-type": "application/json"}),
                lambda: client.get(f"/made/up/{random.random()}"),
                lambda: client.get("/predict/iris"),
                lambda: client.post("/v2/models/nobody/infer", json={"inputs": []}),
            ]
        )
        return lambda: str(next(wrong)().status_code)

    def truths(self) -> Callable[[], str]:
        """A row, and at once what came true."""
        client = self._client()
        names = itertools.cycle(DATASETS)

        def send() -> str:
            name = next(names)
            row, actual = self.rows.known(name)
            answer = client.post(f"/predict/{name}", json=row)
            if answer.is_success:
                truth = {"prediction_id": answer.json()["prediction_id"], "actual": actual}
                client.post("/feedback", json=truth, headers=self._authorization)
            return str(answer.status_code)

        return send

    def stalled(self) -> Callable[[], str]:
        """A body that never arrives: the service gives up after ``TIMEOUT_SECONDS`` with 504."""
        address = urlsplit(self.url)
        head = "POST /predict/iris HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{"

        def send() -> str:
            with socket.create_connection((address.hostname or "", address.port or 0), timeout=10) as connection:
                connection.sendall(head.encode())
                return connection.recv(100).decode().split(" ")[1]

        return send

    def floods(self) -> Callable[[], str]:
        """Ten thousand rows a request, in the protocol's binary form."""
        client = self._client()
        rows = [list(row.values()) for row in self.rows.take(HOUSING.name, 10_000)]
        binary = np.array(rows, dtype="<f8").tobytes()
        head = (
            f'{{"inputs":[{{"name":"{ONNX_INPUT}","shape":[10000,8],"datatype":"FP64",'
            f'"parameters":{{"binary_data_size":{len(binary)}}}}}]}}'
        ).encode()
        headers = {
            "inference-header-content-length": str(len(head)),
            "content-type": "application/octet-stream",
        }
        path = f"/v2/models/{HOUSING.name}/infer"
        return lambda: str(client.post(path, content=head + binary, headers=headers).status_code)


USUAL = (Traffic.singles, Traffic.batches, Traffic.protocol, Traffic.calls, Traffic.mistakes)
