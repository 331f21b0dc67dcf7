"""The promise of the ledger, with the real service: what was answered is on record once, whoever is killed."""

import http.client
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import psutil
import pytest
from open_inference.grpc import protocol as pb
from open_inference.grpc.service import GRPCInferenceServiceStub
from sqlalchemy import func, select

from contract import DATASETS
from contract.dataset import Dataset
from contract.datasets.housing import HOUSING
from contract.datasets.iris import IRIS
from contract.table import FloatMatrix
from ledger import database, spool
from ledger.schema import ERRORS, MINUTES, PREDICTIONS
from ledger.values import pack
from local_service import ServiceNotStarted, free_port, running_service
from tests.postgres import PostgreSQL, running_postgresql
from tests.serving import tiny_models
from tests.serving.series import scrape
from tests.waiting import wait_until

PROMISED_SECONDS = 0.2
"""What was answered longer ago than this outlives a kill."""
BATCH_ROWS = 20
Ask = Callable[[FloatMatrix], tuple[str, FloatMatrix]]
"""Predicts rows ``[N, F]``; gives the id of the prediction, and its outputs ``[N, K]``."""
Client = Callable[["Service"], AbstractContextManager[Ask]]


@dataclass
class Answered:
    """A call that was answered: when, and what it was about."""

    at: float
    rows: FloatMatrix
    outputs: FloatMatrix


@dataclass
class Service:
    """A running service and its ledger, and all that it has answered, by prediction id."""

    url: str
    grpc_port: int
    state: Path
    database_url: str
    answered: dict[str, Answered] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return self.url.removeprefix("http://")

    @property
    def spool(self) -> Path:
        return self.state / "spool"

    def processes(self, what: str) -> list[psutil.Process]:
        """Its workers or its drainer."""
        found = []
        for process in psutil.process_iter():
            try:
                if what in process.cmdline() and process.environ().get("STATE_DIR") == str(self.state):
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied):
                continue
        return found

    def workers(self) -> list[psutil.Process]:
        return self.processes("_bentoml_impl.worker.service")

    def drainers(self) -> list[psutil.Process]:
        return self.processes("ledger.drainer")

    def value(self, name: str) -> float:
        """A figure of its metrics."""
        with httpx.Client(base_url=self.url, timeout=30) as client:
            return scrape(client).value(name)

    def send(self, *work: "Work") -> None:
        """Let all clients go through their rows at once."""
        with ThreadPoolExecutor(len(work)) as pool:
            for done in [pool.submit(self._go, *one) for one in work]:
                done.result()

    def _go(self, client: "Client", calls: Sequence[FloatMatrix]) -> None:
        with client(self) as ask:
            for rows in calls:
                identifier, outputs = ask(rows)
                assert identifier not in self.answered
                self.answered[identifier] = Answered(time.time(), rows, outputs)


Work = tuple[Client, Sequence[FloatMatrix]]


@contextmanager
def post(service: Service, path: str) -> Iterator[Callable[[Any], Any]]:
    """Posts JSON over one connection, anew until it is answered."""
    connections = [http.client.HTTPConnection(service.address, timeout=60)]

    def ask(body: Any) -> Any:
        content = json.dumps(body)
        while True:
            try:
                connections[0].request("POST", path, content, {"Content-Type": "application/json"})
                answer = connections[0].getresponse()
                found = json.loads(answer.read())
            except (OSError, http.client.HTTPException):
                # The worker was killed: nobody knows whether it has answered.
                connections[0].close()
                time.sleep(0.02)
                continue
            assert answer.status == 200, found
            return found

    try:
        yield ask
    finally:
        connections[0].close()


def named(rows: FloatMatrix) -> list[dict[str, float]]:
    return [dict(zip(HOUSING.feature_names, row, strict=True)) for row in rows.tolist()]


@contextmanager
def flat(service: Service) -> Iterator[Ask]:
    with post(service, "/predict/housing") as ask:

        def predict(rows: FloatMatrix) -> tuple[str, FloatMatrix]:
            answer = ask(named(rows)[0])
            return answer["prediction_id"], np.array([[answer["prediction"]]])

        yield predict


@contextmanager
def batch(service: Service) -> Iterator[Ask]:
    with post(service, "/predict/housing/batch") as ask:

        def predict(rows: FloatMatrix) -> tuple[str, FloatMatrix]:
            answer = ask({"rows": named(rows)})
            return answer["prediction_id"], np.array([[one["prediction"]] for one in answer["predictions"]])

        yield predict


@contextmanager
def v2(service: Service) -> Iterator[Ask]:
    with post(service, "/v2/models/housing/infer") as ask:

        def predict(rows: FloatMatrix) -> tuple[str, FloatMatrix]:
            tensor = {"name": "input", "shape": rows.shape, "datatype": "FP64", "data": rows.ravel().tolist()}
            answer = ask({"inputs": [tensor]})
            outputs = np.array(answer["outputs"][0]["data"]).reshape(len(rows), 1)
            return answer["parameters"]["prediction_id"], outputs

        yield predict


@contextmanager
def over_grpc(service: Service) -> Iterator[Ask]:
    with grpc.insecure_channel(f"127.0.0.1:{service.grpc_port}", [("grpc.enable_retries", 0)]) as channel:
        stub = GRPCInferenceServiceStub(channel)

        def predict(rows: FloatMatrix) -> tuple[str, FloatMatrix]:
            request = pb.ModelInferRequest(model_name="iris", raw_input_contents=[pack(rows)])
            request.inputs.add(name="input", datatype="FP64", shape=rows.shape)
            request.outputs.add(name="probabilities")
            while True:
                try:
                    answer = stub.ModelInfer(request, timeout=60)
                except grpc.RpcError as error:
                    if error.code() is not grpc.StatusCode.UNAVAILABLE:
                        raise
                    time.sleep(0.02)
                    continue
                outputs = np.frombuffer(answer.raw_output_contents[0], "<f8").reshape(len(rows), -1)
                return answer.parameters["prediction_id"].string_param, outputs

        yield predict


def distinct(dataset: Dataset, calls: int, rows: int, seed: int) -> list[FloatMatrix]:
    """The rows of so many calls; no value is there twice."""
    low, high = ([getattr(feature, end) for feature in dataset.features] for end in ("minimum", "maximum"))
    drawn = np.random.default_rng(seed).uniform(low, high, (calls * rows, len(dataset.features)))
    return list(drawn.reshape(calls, rows, -1))


def work(calls: int) -> list[Work]:
    """About ``20 * calls`` rows: each of eight clients makes so many calls, those of batches half as many."""
    return [
        *((flat, distinct(HOUSING, calls, 1, seed)) for seed in range(3)),
        (batch, distinct(HOUSING, calls // 2, BATCH_ROWS, 10)),
        (batch, distinct(HOUSING, calls // 4, BATCH_ROWS, 11)),
        (v2, distinct(HOUSING, calls, 1, 12)),
        (over_grpc, distinct(IRIS, calls, 1, 13)),
        (over_grpc, distinct(IRIS, calls, 1, 14)),
    ]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models")
    tiny_models.pin(directory, {name: str(tiny_models.store(one).tag.version) for name, one in DATASETS.items()})
    return directory


@pytest.fixture(scope="module")
def postgresql() -> Iterator[PostgreSQL]:
    with running_postgresql() as server:
        yield server


@contextmanager
def serving(models: Path, state: Path, url: str | None = None) -> Iterator[Service]:
    log = models.parent / f"{state.parent.name}.log" if state.parent.is_file() else state.with_name("service.log")
    port = free_port()
    environment = {
        "MODELS_DIR": str(models),
        "WORKERS": "2",
        "GRPC_PORT": str(port),
        "LEDGER": "on",
        "STATE_DIR": str(state),
        **({"DATABASE_URL": url} if url else {}),
    }
    with running_service(environment=environment, log=log) as address:
        yield Service(address, port, state, url or database.default_url(state))


def on_record(url: str) -> dict[str, tuple[bytes, bytes]]:
    """The bits of features and outputs, by prediction id; each was counted as often as it is there."""
    engine = database.connect(url)
    table = PREDICTIONS.c
    with engine.connect() as connection:
        found = connection.execute(select(table.id, table.features, table.outputs, table.rows)).all()
        counted = connection.execute(select(func.sum(MINUTES.c.requests), func.sum(MINUTES.c.rows))).one()
    engine.dispose()
    assert tuple(map(int, counted)) == (len(found), sum(row[3] for row in found))
    return {row[0].replace("-", ""): (bytes(row[1]), bytes(row[2])) for row in found}


def check(service: Service, killed_at: Sequence[float] = ()) -> None:
    """Everything that was answered is on record with its bits, but what was answered just before a kill."""
    recorded = on_record(service.database_url)
    lost = {identifier: one.at for identifier, one in service.answered.items() if identifier not in recorded}
    for at in lost.values():
        assert any(kill - PROMISED_SECONDS <= at <= kill + 0.05 for kill in killed_at), (at, killed_at, len(lost))
    for identifier, one in service.answered.items():
        if identifier in recorded:
            assert recorded[identifier] == (pack(one.rows), pack(one.outputs))
    # A call may have been recorded whose answer never left.
    assert len(recorded) - (len(service.answered) - len(lost)) < 100 * len(killed_at) + 1


def check_ended(service: Service) -> None:
    assert service.drainers() == []
    assert spool.segments(service.spool) == []


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_each_answer_is_on_record_once_when_a_worker_and_the_drainer_are_killed(
    kind: str, models: Path, postgresql: PostgreSQL, tmp_path: Path
) -> None:
    killed_at: list[float] = []
    url = postgresql.new_database() if kind == "postgresql" else None
    with serving(models, tmp_path / "state", url) as service:
        # The tables are made while the service takes its first calls; these wait.
        new = httpx.get(f"{service.url}/logs/stats", timeout=30).raise_for_status().json()
        assert (new["models"], new["errors"]) == ([], [])
        clients = work(1000)
        rows = sum(len(calls) * len(calls[0]) for _, calls in clients)
        assert rows >= 20_000
        calls = sum(len(calls) for _, calls in clients)
        # The promise is in milliseconds, for workers that get a core. Other tests run beside this one, and take both.
        if os.geteuid() == 0:  # Nobody else may.
            for thread in (thread for worker in service.workers() for thread in worker.threads()):
                os.setpriority(os.PRIO_PROCESS, thread.id, -15)
        sending = threading.Thread(target=service.send, args=clients)
        sending.start()
        wait_until(lambda: len(service.answered) > calls * 0.3, "a third is answered")
        (drainer,) = service.drainers()
        worker = service.workers()[0]
        killed_at.append(time.time())
        worker.kill()
        drainer.kill()
        wait_until(lambda: len(service.answered) > calls * 0.5, "half is answered")
        if kind == "postgresql":
            postgresql.stop()
            wait_until(lambda: service.value("ml_ledger_lag_seconds") > 3, "the ledger lags")
            assert service.value("ml_ledger_database_up") == 0
            postgresql.start()
        wait_until(lambda: service.drainers() and service.drainers() != [drainer], "another drainer runs")
        sending.join()
        wait_until(lambda: service.value("ml_ledger_database_up") == 1, "the database is in use")
        wait_until(lambda: service.value("ml_ledger_lag_seconds") < 2, "the ledger keeps up")
        assert service.value("ml_ledger_unwritten_total") == service.value("ml_ledger_dropped_segments_total") == 0
    check_ended(service)
    check(service, killed_at)


def test_a_clean_stop_loses_nothing(models: Path, tmp_path: Path) -> None:
    with serving(models, tmp_path / "state") as service:
        for status in (400, 404):
            path = "/predict/iris" if status == 400 else "/nowhere"
            assert httpx.post(f"{service.url}{path}", json={}).status_code == status
        service.send(*work(40))
    check_ended(service)
    check(service)
    engine = database.connect(service.database_url)
    with engine.connect() as connection:
        columns = (ERRORS.c.model, ERRORS.c.protocol, ERRORS.c.status, ERRORS.c.requests)
        assert set(connection.execute(select(*columns))) == {("iris", "http", 400, 1), ("", "http", 404, 1)}
    engine.dispose()


def test_what_a_stop_leaves_in_the_spool_is_drained_after_the_next_start(
    models: Path, postgresql: PostgreSQL, tmp_path: Path
) -> None:
    url = postgresql.new_database()
    postgresql.stop()
    with serving(models, tmp_path / "state", url) as service:
        service.send(*work(20))
        stopping = time.monotonic()
    assert time.monotonic() - stopping < 20
    assert service.drainers() == []
    assert spool.segments(service.spool) != []
    log = (tmp_path / "service.log").read_text()
    assert log.count("the ledger's database is away") >= 1
    postgresql.start()
    with serving(models, tmp_path / "state", url) as again:
        wait_until(lambda: not spool.segments(again.spool), "the spool is drained")
    check(service)


def test_predictions_go_on_where_the_spool_cannot_be_written_to(models: Path, tmp_path: Path) -> None:
    with serving(models, tmp_path / "state") as service:
        moved = service.spool.rename(tmp_path / "moved")
        service.spool.touch()
        service.send(*work(8))
        calls = len(service.answered)
        wait_until(lambda: service.value("ml_ledger_unwritten_total") == calls, "they are counted")
        service.spool.unlink()
        moved.rename(service.spool)
        service.answered.clear()
        unwritten = calls

        def is_back() -> bool:
            nonlocal unwritten
            service.send((flat, distinct(HOUSING, 1, 1, seed=len(service.answered))))
            before, unwritten = unwritten, int(service.value("ml_ledger_unwritten_total"))
            return len(service.answered) > 20 and before == unwritten

        wait_until(is_back, "the ledger records again")
    recorded = on_record(service.database_url)
    assert len(recorded) == len(service.answered) - (unwritten - calls)
    assert set(recorded) <= set(service.answered)
    log = (tmp_path / "service.log").read_text()
    assert 1 <= log.count("the ledger does not record: its disk fails") <= 2  # each worker says so once


def test_a_state_directory_that_cannot_be_written_to_stops_the_start(models: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(ServiceNotStarted, match=r"(?s)STATE_DIR=.*mount a volume.*LEDGER=off"),
        serving(models, tmp_path / "file" / "state"),
    ):
        pass
