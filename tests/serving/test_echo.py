"""No answer repeats more than 60 characters of what a client sent, wherever the word was."""

import json
from typing import Any

import grpc
import httpx
import pytest
from open_inference.grpc import protocol as pb
from open_inference.grpc.service import GRPCInferenceServiceStub

from contract.datasets.iris import IRIS
from contract.errors import MAXIMUM_ECHO
from tests.serving.worker import LocalWorker

WORD = "y" * 3000
"""Longer than what is repeated, and short enough for every part of a request."""
JSON = {"Content-Type": "application/json"}
ROW = IRIS.example
INPUT: dict[str, Any] = {"name": "x", "datatype": "FP64", "shape": [1, 4], "data": [5.1, 3.5, 1.4, 0.2]}


def infer(**more: object) -> dict[str, Any]:
    return {"inputs": [{**INPUT, **more}]}


BODIES: dict[str, tuple[str, object]] = {
    "an unknown field": ("/predict/iris", {**ROW, WORD: 1}),
    "a value": ("/predict/iris", {**ROW, "sepal_length": WORD}),
    "a number": ("/predict/iris", {**ROW, "sepal_length": int("9" * 3000)}),
    "a field of a batch": ("/predict/iris/batch", {"rows": [{**ROW, WORD: 1}]}),
    "a value of a batch": ("/predict/iris/batch", {"rows": [{**ROW, "sepal_length": WORD}]}),
    "a field beside the rows": ("/predict/iris/batch", {"rows": [ROW], WORD: 1}),
    "a tensor": ("/v2/models/iris/infer", infer(name=WORD, shape=[4])),
    "a tensor of a wrong size": ("/v2/models/iris/infer", infer(name=WORD, shape=[9])),
    "a datatype": ("/v2/models/iris/infer", infer(datatype=WORD)),
    "a shape": ("/v2/models/iris/infer", infer(shape=WORD)),
    "a dimension": ("/v2/models/iris/infer", infer(shape=[int("9" * 3000), 4])),
    "an element": ("/v2/models/iris/infer", infer(data=[WORD] * 4)),
    "an integer": ("/v2/models/iris/infer", infer(datatype="INT64", data=[int("9" * 3000)] * 4)),
    "data of another shape": ("/v2/models/iris/infer", infer(name=WORD, shape=[2, 4])),
    "an output": ("/v2/models/iris/infer", {**infer(), "outputs": [{"name": WORD}]}),
    "a size": ("/v2/models/iris/infer", infer(parameters={"binary_data_size": WORD}, data=None)),
    "a flag": ("/v2/models/iris/infer", {**infer(), "parameters": {"binary_data_output": WORD}}),
    "a model": (f"/v2/models/{WORD}/infer", infer()),
    "a version": (f"/v2/models/iris/versions/{WORD}/infer", infer()),
    "a path": (f"/{WORD}", {}),
    "an entry of feedback": ("/feedback", [{"prediction_id": WORD, "actual": WORD, WORD: 1}]),
    "a model of drift": ("/drift/detect", {"model": WORD}),
    "a field of drift": ("/drift/detect", {"model": "iris", WORD: [ROW]}),
}


def longest_run(text: str) -> int:
    """The most characters of the word, or of a long number, in a row."""
    return max(max(map(len, "".join(c if c == one else " " for c in text).split()), default=0) for one in "y9")


@pytest.mark.parametrize(("path", "body"), BODIES.values(), ids=BODIES)
def test_a_word_of_a_body_or_a_path_is_cut(worker: LocalWorker, path: str, body: object) -> None:
    answer = httpx.post(f"{worker.url}{path}", content=json.dumps(body), headers=JSON)
    assert answer.status_code in {400, 404}, answer.text
    assert longest_run(answer.text) <= MAXIMUM_ECHO


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("POST", "/predict/iris", {"Content-Type": WORD}),
        ("POST", "/v2/models/iris/infer", {"Content-Type": WORD}),
        ("POST", "/v2/models/iris/infer", {"Inference-Header-Content-Length": WORD}),
        ("POST", "/predict/iris", {"Content-Encoding": WORD}),
        ("GET", f"/logs/recent?{WORD}=1", {}),
        ("GET", f"/logs/recent?model={WORD}", {}),
        ("GET", f"/logs/recent?since={WORD}", {}),
        ("GET", f"/logs/recent?cursor={WORD}", {}),
        ("GET", f"/logs?model={WORD}", {}),
        ("GET", f"/retrain/status/{WORD}", {}),
        ("GET", f"/retrain/jobs?{WORD}=1", {}),
    ],
)
def test_a_word_of_a_header_or_a_query_is_cut(
    worker: LocalWorker, method: str, path: str, headers: dict[str, str]
) -> None:
    answer = httpx.request(method, f"{worker.url}{path}", headers=headers, content=b"{}" if method == "POST" else None)
    assert 400 <= answer.status_code < 500
    assert longest_run(answer.json()["error"] if "json" in answer.headers["content-type"] else "") <= MAXIMUM_ECHO


def of_grpc(**more: Any) -> pb.ModelInferRequest:
    fields: dict[str, Any] = {"model_name": "iris", **more}
    return pb.ModelInferRequest(**fields)


MESSAGES: dict[str, pb.ModelInferRequest] = {
    "a model": of_grpc(model_name=WORD * 4),
    "a version": of_grpc(model_version=WORD * 4),
    "a tensor": of_grpc(inputs=[pb.ModelInferRequest.InferInputTensor(name=WORD * 4, datatype="FP64", shape=[9])]),
    "a datatype": of_grpc(inputs=[pb.ModelInferRequest.InferInputTensor(name="x", datatype=WORD * 4, shape=[1, 4])]),
    "an output": of_grpc(outputs=[pb.ModelInferRequest.InferRequestedOutputTensor(name=WORD * 4)]),
}


@pytest.mark.parametrize("message", MESSAGES.values(), ids=MESSAGES)
def test_a_word_over_grpc_is_cut_and_keeps_its_status(worker: LocalWorker, message: pb.ModelInferRequest) -> None:
    with grpc.insecure_channel(worker.target) as channel, pytest.raises(grpc.RpcError) as raised:
        GRPCInferenceServiceStub(channel).ModelInfer(message)
    error: Any = raised.value
    assert error.code() in {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}
    assert longest_run(error.details()) <= MAXIMUM_ECHO
