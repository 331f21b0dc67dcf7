"""The requests against the real service, and the checks against answers that are wrong."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from open_inference.grpc import protocol as pb
from open_inference.grpc.service import GRPCInferenceServiceStub

from contract import DATASETS
from contract.dataset import Dataset
from contract.datasets.housing import HOUSING
from contract.datasets.iris import IRIS
from load_tests.answers import Asked, WrongAnswer
from load_tests.grpc_protocol import check_response, infer_request
from load_tests.http_protocols import Batch, HttpAnswer, HttpProtocol, HttpRequest, InferBinary, InferJson, SingleRow
from load_tests.traffic import Traffic
from tests.load_tests.conftest import Service

PROTOCOLS: dict[str, tuple[HttpProtocol, int]] = {
    "single row": (SingleRow(), 1),
    "batch": (Batch(), 7),
    "infer, JSON": (InferJson(), 3),
    "infer, binary": (InferBinary(), 20),
}
EVERY_PROTOCOL = pytest.mark.parametrize(("protocol", "rows"), PROTOCOLS.values(), ids=PROTOCOLS)
EVERY_DATASET = pytest.mark.parametrize("dataset", DATASETS.values(), ids=lambda dataset: dataset.name)


def send(service: Service, request: HttpRequest) -> HttpAnswer:
    answer = httpx.post(f"{service.url}{request.path}", content=request.body, headers=dict(request.headers))
    return HttpAnswer(answer.status_code, answer.headers, answer.content)


@EVERY_PROTOCOL
@EVERY_DATASET
def test_good_rows_are_answered(
    service: Service, features: Path, dataset: Dataset, protocol: HttpProtocol, rows: int
) -> None:
    answer = send(service, protocol.request(dataset, Traffic.read(dataset, features).rows(rows)))
    protocol.check(Asked(dataset, rows), answer)
    with pytest.raises(WrongAnswer, match="status 200 instead of 400"):
        protocol.check(Asked(dataset, rows, dataset.feature_names[0]), answer)


@EVERY_PROTOCOL
@EVERY_DATASET
def test_bad_rows_are_refused_by_name(
    service: Service, features: Path, dataset: Dataset, protocol: HttpProtocol, rows: int
) -> None:
    traffic = Traffic.read(dataset, features)
    for _ in range(20):
        bad = traffic.bad_rows(rows)
        answer = send(service, protocol.request(dataset, bad.rows))
        protocol.check(Asked(dataset, rows, bad.feature), answer)
        with pytest.raises(WrongAnswer, match="does not name the feature"):
            protocol.check(Asked(dataset, rows, "another"), answer)
        with pytest.raises(WrongAnswer, match=f"status 400 instead of 200: .*{re.escape(bad.feature)}"):
            protocol.check(Asked(dataset, rows), answer)


@EVERY_PROTOCOL
@pytest.mark.parametrize(
    ("status", "content", "reason"),
    [
        (0, b"ConnectionRefusedError()", "no answer: ConnectionRefusedError"),
        (429, b'{"error": "try again later"}', "status 429 instead of 200: try again later"),
        (502, b"<html>", "the body is not JSON"),
        (200, b"{}", "malformed|no output"),
        (200, b"[]", "malformed|no JSON object"),
        (200, b"", "malformed|not JSON"),
    ],
)
def test_what_is_no_answer_is_wrong(
    protocol: HttpProtocol, rows: int, status: int, content: bytes, reason: str
) -> None:
    with pytest.raises(WrongAnswer, match=reason):
        protocol.check(Asked(HOUSING, rows), HttpAnswer(status, {}, content))


def put(*path: str | int, value: object) -> Callable[[Any], None]:
    """Sets one place of a JSON document."""

    def change(document: Any) -> None:
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("protocol", "rows", "dataset", "change", "reason"),
    [
        (SingleRow(), 1, HOUSING, put("prediction", value=float("nan")), "no finite number"),
        (SingleRow(), 1, HOUSING, put("prediction", value=None), "no finite number"),
        (SingleRow(), 1, HOUSING, put("prediction", value=True), "no finite number"),
        (SingleRow(), 1, IRIS, put("prediction", value=7), "no class"),
        (SingleRow(), 1, IRIS, put("label", value="tulip"), "no class"),
        (SingleRow(), 1, IRIS, put("probabilities", "setosa", value=float("inf")), "no finite number"),
        (SingleRow(), 1, IRIS, put("probabilities", value={}), "not those of the classes"),
        (Batch(), 2, HOUSING, put("predictions", value=[]), "not as many predictions"),
        (Batch(), 2, HOUSING, put("predictions", 1, "prediction", value="4"), "no finite number"),
        (InferJson(), 2, HOUSING, put("outputs", value=[]), "no output"),
        (InferJson(), 2, HOUSING, put("outputs", 0, "shape", value=[1, 1]), "not as many rows"),
        (InferJson(), 2, HOUSING, put("outputs", 0, "data", value=[1.0]), "not as many rows"),
        (InferJson(), 2, HOUSING, put("outputs", 0, "data", 1, value=float("nan")), "not finite"),
        (InferJson(), 2, IRIS, put("outputs", 2, "data", 0, value=float("-inf")), "probabilities .* not finite"),
    ],
)
def test_a_wrong_prediction_is_wrong(
    service: Service,
    features: Path,
    protocol: HttpProtocol,
    rows: int,
    dataset: Dataset,
    change: Callable[[Any], None],
    reason: str,
) -> None:
    answer = send(service, protocol.request(dataset, Traffic.read(dataset, features).rows(rows)))
    document = answer.json()
    change(document)
    with pytest.raises(WrongAnswer, match=reason):
        protocol.check(Asked(dataset, rows), replace(answer, content=json.dumps(document).encode()))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda content: content + b"1", "bytes of the outputs"),
        (lambda content: content[:-8], "malformed|bytes of the outputs"),
        (lambda content: content[:-8] + np.array([np.nan]).tobytes(), "not finite"),
    ],
)
def test_wrong_bytes_are_wrong(service: Service, features: Path, change: Callable[[bytes], bytes], reason: str) -> None:
    answer = send(service, InferBinary().request(HOUSING, Traffic.read(HOUSING, features).rows(3)))
    with pytest.raises(WrongAnswer, match=reason):
        InferBinary().check(Asked(HOUSING, 3), replace(answer, content=change(answer.content)))


@EVERY_DATASET
def test_grpc_answers_and_refuses(service: Service, features: Path, dataset: Dataset) -> None:
    traffic = Traffic.read(dataset, features)
    with grpc.insecure_channel(service.grpc_target) as channel:
        stub = GRPCInferenceServiceStub(channel)
        response = stub.ModelInfer(infer_request(dataset, traffic.rows(5)))
        check_response(5, response)
        with pytest.raises(WrongAnswer, match="not as many rows"):
            check_response(4, response)
        response.raw_output_contents[0] = np.full(5, np.nan).tobytes()
        if dataset is HOUSING:
            with pytest.raises(WrongAnswer, match="not finite"):
                check_response(5, response)
        del response.raw_output_contents[:]
        with pytest.raises(WrongAnswer, match="malformed"):
            check_response(5, response)
        bad = traffic.bad_rows(5)
        with pytest.raises(grpc.RpcError) as refused:
            stub.ModelInfer(infer_request(dataset, bad.rows))
    assert isinstance(refused.value, grpc.Call)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert bad.feature in (refused.value.details() or "")


def test_an_answer_without_outputs_is_wrong() -> None:
    with pytest.raises(WrongAnswer, match="no output"):
        check_response(1, pb.ModelInferResponse())
