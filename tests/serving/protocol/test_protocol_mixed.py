"""Callers of every entrance at once: each gets its own answer, and their rows meet in one batch."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from open_inference.grpc.service import GRPCInferenceServiceStub

from contract.datasets.housing import HOUSING
from tests.serving.protocol.wire import message, predictions, rows_of, tensor
from tests.serving.running import running

CALLERS = 6
"""Of each entrance."""
CALLS = 5
"""Of each caller in a round."""
ROUNDS = 30
"""At most: on a busy machine callers may miss each other for a while."""
ROWS = {"predict": 1, "v2": 2, "grpc": 3}
"""Rows a request, by entrance: a batch's log line tells by them who is in it."""

Call = Callable[[httpx.Client, GRPCInferenceServiceStub, Any], Any]


def predict(client: httpx.Client, _: GRPCInferenceServiceStub, rows: Any) -> Any:
    body = dict(zip(HOUSING.feature_names, rows[0].tolist(), strict=True))
    return [client.post("/predict/housing", json=body).raise_for_status().json()["prediction"]]


def v2(client: httpx.Client, _: GRPCInferenceServiceStub, rows: Any) -> Any:
    answer = client.post("/v2/models/housing/infer", json={"inputs": [tensor("x", rows)]})
    return answer.raise_for_status().json()["outputs"][0]["data"]


def grpc_call(_: httpx.Client, stub: GRPCInferenceServiceStub, rows: Any) -> Any:
    answer = stub.ModelInfer(message("housing", tensor("x", rows), raw=True), timeout=30)
    return np.frombuffer(answer.raw_output_contents[0], "<f8").tolist()


ENTRANCES: dict[str, Call] = {"predict": predict, "v2": v2, "grpc": grpc_call}


def test_callers_of_all_entrances_share_batches_and_get_their_own(slow_models: Path, tmp_path: Path) -> None:
    log = tmp_path / "service.log"
    settings = {"WORKERS": "1", "LOG_LEVEL": "DEBUG", "MAX_LATENCY_MS": "30000"}
    total = CALLERS * CALLS * sum(ROWS.values())
    rows = rows_of(HOUSING, total)
    rows[:, 0] = np.linspace(1, 10, total)  # no two are the same
    with running(slow_models, log, **settings) as service:
        client, stub = service.client, service.stub
        wanted = predictions(client, HOUSING, rows)
        assert len(set(wanted)) > total / 2  # the model tells them apart
        jobs = []
        position = 0
        for _ in range(CALLERS * CALLS):
            for name, count in ROWS.items():
                jobs.append((ENTRANCES[name], slice(position, position + count)))
                position += count

        def answer(job: tuple[Call, slice]) -> Any:
            call, part = job
            return call(client, stub, rows[part])

        with ThreadPoolExecutor(CALLERS * len(ENTRANCES)) as pool:
            for _ in range(ROUNDS):
                assert list(pool.map(answer, jobs)) == [wanted[part] for _, part in jobs]
                if set(ROWS.values()) in batches(log):
                    break
    assert set(ROWS.values()) in batches(log)


def batches(log: Path) -> list[set[int]]:
    """Who was in each batch that ran: the rows of its requests."""
    # The last line may be half written.
    events = [json.loads(line) for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [set(event["rows"]) for event in events if event["message"] == "batch"]
