"""What is not a request of the protocol: each gets a 4xx or its gRPC equal, with a sentence, and harms nobody."""

import json
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from open_inference.grpc import protocol as pb
from open_inference.grpc.service import GRPCInferenceServiceStub

from contract import DATASETS
from contract.datasets.housing import HOUSING
from contract.datasets.iris import IRIS
from tests.serving.protocol.wire import JSON_LENGTH, binary, message, predictions, refusal, rows_of, tensor

ROW = [5.1, 3.5, 1.4, 0.2]
GOOD = {"name": "x", "datatype": "FP64", "shape": [1, 4], "data": ROW}
NAMED = [
    {"name": name, "datatype": "FP64", "shape": [1], "data": [value]}
    for name, value in zip(IRIS.feature_names, ROW, strict=True)
]
INFER = "/v2/models/iris/infer"
MANY = 10_001


@pytest.fixture(autouse=True)
def _still_right(client: httpx.Client) -> Iterator[None]:
    """After each of these the service answers as before."""
    yield
    rows = rows_of(IRIS, 2)
    answer = client.post(INFER, json={"inputs": [tensor("x", rows)], "outputs": [{"name": "probabilities"}]})
    data = answer.raise_for_status().json()["outputs"][0]["data"]
    assert np.reshape(data, (2, 3)).tolist() == predictions(client, IRIS, rows)


def changed(**fields: Any) -> dict[str, Any]:
    """The good input but for these fields; None leaves one out."""
    return {name: value for name, value in {**GOOD, **fields}.items() if value is not None}


def without(name: str) -> list[dict[str, Any]]:
    return [one for one in NAMED if one["name"] != name]


BODIES: dict[str, tuple[Any, str]] = {
    "no inputs": ({}, "inputs"),
    "inputs null": ({"inputs": None}, "inputs"),
    "inputs empty": ({"inputs": []}, "no input tensor"),
    "inputs an object": ({"inputs": GOOD}, "inputs must be a list"),
    "inputs of numbers": ({"inputs": [1, 2]}, "inputs must be a list"),
    "a list": ([GOOD], "JSON object"),
    "a number": (7, "JSON object"),
    "id a number": ({"inputs": [GOOD], "id": 7}, "id must be text"),
    "parameters a list": ({"inputs": [GOOD], "parameters": []}, "parameters"),
    "no name": ({"inputs": [changed(name=None)]}, "needs a name"),
    "name a number": ({"inputs": [changed(name=3)]}, "needs a name"),
    "name long": ({"inputs": [changed(name="x" * 5000, data=ROW[:3])]}, "3 values"),
    "name long, no shape": ({"inputs": [changed(name="x" * 5000, shape=None)]}, "needs a shape"),
    "no datatype": ({"inputs": [changed(datatype=None)]}, "needs a datatype"),
    "datatype a number": ({"inputs": [changed(datatype=64)]}, "needs a datatype"),
    "datatype unknown": ({"inputs": [changed(datatype="FP128")]}, "FP128"),
    "datatype BYTES": ({"inputs": [changed(datatype="BYTES", data=["a", "b", "c", "d"])]}, "BYTES"),
    "datatype BOOL": ({"inputs": [changed(datatype="BOOL", data=[True] * 4)]}, "BOOL"),
    "datatype in lower case": ({"inputs": [changed(datatype="fp64")]}, "fp64"),
    "no shape": ({"inputs": [changed(shape=None)]}, "needs a shape"),
    "shape empty": ({"inputs": [changed(shape=[])]}, "needs a shape"),
    "shape a number": ({"inputs": [changed(shape=4)]}, "needs a shape"),
    "shape negative": ({"inputs": [changed(shape=[-1, 4])]}, "needs a shape"),
    "shape of fractions": ({"inputs": [changed(shape=[1.0, 4.0])]}, "needs a shape"),
    "shape of booleans": ({"inputs": [changed(shape=[True, 4])]}, "needs a shape"),
    "shape of text": ({"inputs": [changed(shape=["1", "4"])]}, "needs a shape"),
    "shape huge": ({"inputs": [changed(shape=[10**30, 4])]}, "rows"),
    "shape of many digits": ({"inputs": [changed(shape=[10**4000, 4])]}, "rows"),
    "shape of many digits, without a row": ({"inputs": [changed(shape=[10**4000] * 8)]}, "has shape [1000"),
    "shape with no rows": ({"inputs": [changed(shape=[0, 4], data=[])]}, "no rows"),
    "shape [F] is ambiguous": ({"inputs": [changed(shape=[4])]}, "one row is [1, 4]"),
    "shape too wide": ({"inputs": [changed(shape=[1, 5], data=[*ROW, 1.0])]}, "[1, 5]"),
    "shape turned": ({"inputs": [changed(shape=[4, 1])]}, "[4, 1]"),
    "shape of three dimensions": ({"inputs": [changed(shape=[1, 1, 4])]}, "[1, 1, 4]"),
    "too many rows": ({"inputs": [changed(shape=[MANY, 4], data=ROW * MANY)]}, "at most 10000"),
    "no data": ({"inputs": [changed(data=None)]}, "needs data"),
    "data text": ({"inputs": [changed(data="5.1")]}, "needs data"),
    "data too short": ({"inputs": [changed(data=ROW[:3])]}, "3 values"),
    "data too long": ({"inputs": [changed(data=[*ROW, 1.0])]}, "5 values"),
    "data nested otherwise": ({"inputs": [changed(shape=[2, 4], data=[ROW, ROW[:3]])]}, "nested"),
    "data nested too deep": ({"inputs": [changed(data=[[ROW]])]}, "nested"),
    "data mixed": ({"inputs": [changed(shape=[2, 4], data=[ROW, *ROW])]}, "nested"),
    "data nested in a column": ({"inputs": [{**NAMED[0], "data": [[5.1, 1]]}, *NAMED[1:]]}, "sepal_length"),
    "a text": ({"inputs": [changed(data=[5.1, "3.5", 1.4, 0.2])]}, "sepal_width, row 0"),
    "a boolean": ({"inputs": [changed(data=[5.1, 3.5, True, 0.2])]}, "petal_length, row 0"),
    "a null": ({"inputs": [changed(data=[5.1, 3.5, 1.4, None])]}, "petal_width, row 0"),
    "a fraction as an integer": ({"inputs": [changed(datatype="INT64")]}, "sepal_length, row 0"),
    "outside its integer": ({"inputs": [changed(datatype="UINT8", data=[5, 3, 300, 1])]}, "petal_length, row 0"),
    "below its integer": ({"inputs": [changed(datatype="UINT8", data=[5, 3, -1, 1])]}, "petal_length, row 0"),
    "inexact": ({"inputs": [changed(datatype="INT64", data=[5, 3, 2**53 + 1, 1])]}, "petal_length, row 0"),
    "astronomical": ({"inputs": [changed(data=[5.1, 3.5, 10**400, 0.2])]}, "petal_length"),
    "too large for FP32": ({"inputs": [changed(datatype="FP32", data=[5.1, 3.5, 1e300, 0.2])]}, "petal_length"),
    "implausible": ({"inputs": [changed(shape=[2, 4], data=[*ROW, 5.1, 3.5, 1.4, 99.0])]}, "row 1"),
    "both kinds at once": ({"inputs": [changed(parameters={"binary_data_size": 32})]}, "send only one"),
    "raw without its header": (
        {"inputs": [changed(data=None, parameters={"binary_data_size": 32})]},
        "Inference-Header-Content-Length",
    ),
    "shared memory": (
        {"inputs": [changed(data=None, parameters={"shared_memory_region": "a"})]},
        "shared_memory_region",
    ),
    "a feature missing": ({"inputs": without("petal_width")}, "petal_width"),
    "a feature twice": ({"inputs": [*NAMED, NAMED[2]]}, "petal_length: there are two"),
    "a feature unknown": ({"inputs": [*without("petal_width"), {**NAMED[3], "name": "colour"}]}, "colour"),
    "matrix and column": ({"inputs": [GOOD, NAMED[0]]}, "'x' is no feature"),
    "columns of two lengths": (
        {"inputs": [*NAMED[:3], {**NAMED[3], "shape": [2], "data": [0.2, 0.2]}]},
        "petal_width",
    ),
    "two matrices": ({"inputs": [GOOD, {**GOOD, "name": "y"}]}, "no feature"),
    "outputs an object": ({"inputs": [GOOD], "outputs": {}}, "outputs must be a list"),
    "output without a name": ({"inputs": [GOOD], "outputs": [{}]}, "needs a name"),
    "output unknown": ({"inputs": [GOOD], "outputs": [{"name": "price"}]}, "no output 'price'"),
    "output twice": ({"inputs": [GOOD], "outputs": [{"name": "label"}] * 2}, "twice"),
    "binary_data a text": (
        {"inputs": [GOOD], "outputs": [{"name": "label", "parameters": {"binary_data": "yes"}}]},
        "binary_data",
    ),
    "classification": (
        {"inputs": [GOOD], "outputs": [{"name": "label", "parameters": {"classification": 2}}]},
        "classification",
    ),
    "binary_data_output a number": (
        {"inputs": [GOOD], "parameters": {"binary_data_output": 1}},
        "binary_data_output",
    ),
}


def assert_refused(answer: httpx.Response, status: int, part: str) -> None:
    assert answer.status_code == status, answer.text
    content = answer.json()
    assert list(content) == ["error"]
    assert part in content["error"]
    assert len(content["error"]) < 600
    assert "Traceback" not in content["error"]


@pytest.mark.parametrize(("body", "part"), BODIES.values(), ids=BODIES)
def test_a_malformed_body_is_refused(client: httpx.Client, body: object, part: str) -> None:
    assert_refused(client.post(INFER, json=body), 400, part)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
def test_numbers_that_are_none_are_refused(client: httpx.Client, number: str) -> None:
    body = json.dumps({"inputs": [GOOD]}).replace("0.2", number)
    assert_refused(client.post(INFER, content=body), 400, "petal_width")


@pytest.mark.parametrize(
    "text",
    ["{", "null", '{"inputs": [}', '{"inputs": []} x', "\ufeff{}", "[" * 5000, b"\xff\xfe", b'{"id": "\xff"}'],
    ids=repr,
)
def test_what_is_no_json_is_refused(client: httpx.Client, text: str | bytes) -> None:
    assert_refused(client.post(INFER, content=text), 400, "body")


RAW = np.array(ROW).tobytes()
SIZED = {"name": "x", "datatype": "FP64", "shape": [1, 4], "parameters": {"binary_data_size": 32}}


@pytest.mark.parametrize(
    ("document", "raw", "header", "part"),
    [
        (SIZED, RAW[:31], None, "31 bytes follow"),
        (SIZED, RAW + b"\0", None, "1 bytes of the body belong to no input"),
        (SIZED, b"", None, "0 bytes follow"),
        (SIZED, RAW, "-1", JSON_LENGTH),
        (SIZED, RAW, "many", JSON_LENGTH),
        (SIZED, RAW, "²", JSON_LENGTH),
        (SIZED, RAW, "100000", JSON_LENGTH),
        (SIZED, RAW, "9" * 5000, JSON_LENGTH),
        (SIZED, RAW, "10", "body: invalid JSON"),
        (SIZED | {"parameters": {"binary_data_size": -8}}, RAW, None, "binary_data_size"),
        (SIZED | {"parameters": {"binary_data_size": "32"}}, RAW, None, "binary_data_size"),
        (SIZED | {"parameters": {"binary_data_size": True}}, RAW, None, "binary_data_size"),
        (SIZED | {"parameters": {"binary_data_size": 24}}, RAW[:24], None, "24 bytes"),
        (SIZED | {"shape": [2, 4]}, RAW, None, "takes 64"),
        (SIZED | {"datatype": "FP32"}, RAW, None, "takes 16"),
        (SIZED | {"datatype": "BYTES"}, RAW, None, "BYTES"),
        (SIZED, np.array([5.1, 3.5, np.nan, 0.2]).tobytes(), None, "petal_length"),
        (SIZED, np.array([5.1, 3.5, 1.4, -np.inf]).tobytes(), None, "petal_width"),
    ],
)
def test_malformed_raw_tensors_are_refused(
    client: httpx.Client, document: dict[str, Any], raw: bytes, header: str | None, part: str
) -> None:
    body, headers = binary({"inputs": [document]}, raw)
    if header is not None:
        headers[JSON_LENGTH] = header
    encoded = {name.encode(): text.encode() for name, text in headers.items()}
    assert_refused(client.post(INFER, content=body, headers=encoded), 400, part)


@pytest.mark.parametrize(
    ("method", "path", "status", "part"),
    [
        ("POST", "/v2/models/unknown/infer", 404, "no model 'unknown'; there are"),
        ("POST", "/v2/models/iris/versions/unknown/infer", 404, "served in version"),
        ("POST", "/v2/models/iris/versions//infer", 404, "/v2/models/iris/versions//infer"),
        ("GET", "/v2/models/unknown", 404, "no model"),
        ("GET", "/v2/models/unknown/ready", 404, "no model"),
        ("GET", "/v2/models/iris/versions/7", 404, "served in version"),
        ("GET", "/v2/models/" + "x" * 3000, 404, "no model"),
        ("GET", "/v2/models", 404, "/v2/models"),
        ("GET", "/v2/anything", 404, "/v2/anything"),
        ("GET", "/v2/health", 404, "/v2/health"),
        ("POST", "/v2/models/iris/generate", 404, "generate"),
        ("GET", "/v2/models/iris/infer", 405, "POST"),
        ("PUT", "/v2/models/iris/infer", 405, "POST"),
        ("DELETE", "/v2", 405, "GET"),
        ("POST", "/v2/health/ready", 405, "GET"),
        ("GET", "/v2/repository/index", 405, "POST"),
    ],
)
def test_unknown_paths_and_methods_are_refused(
    client: httpx.Client, method: str, path: str, status: int, part: str
) -> None:
    answer = client.request(method, path, json={"inputs": [GOOD]} if method == "POST" else None)
    assert_refused(answer, status, part)
    if status == 405:
        assert answer.headers["allow"] == part


@pytest.mark.parametrize(
    ("headers", "status", "part"),
    [
        ({"Content-Type": "text/csv"}, 415, "text/csv"),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415, "form"),
        ({"Content-Encoding": "br"}, 415, "compressed with gzip, not with br"),
        ({"Content-Encoding": "identity"}, 200, ""),
        ({"Content-Type": "application/json; charset=utf-8"}, 200, ""),
    ],
)
def test_only_plain_json_and_bytes_are_taken(
    client: httpx.Client, headers: dict[str, str], status: int, part: str
) -> None:
    answer = client.post(INFER, content=json.dumps({"inputs": [GOOD]}), headers=headers)
    assert answer.status_code == status
    if status == 415:
        assert_refused(answer, status, part)


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_that_is_too_large_is_refused(client: httpx.Client, announced: bool) -> None:
    content = json.dumps({"inputs": [GOOD], "id": "x" * 2_000_001}).encode()
    answer = client.post(INFER, content=content if announced else iter([content[:1_000_000], content[1_000_000:]]))
    assert_refused(answer, 413, "2000000 bytes")


@pytest.mark.parametrize("body", [{"ready": "yes"}, {"ready": 1}, []])
def test_a_malformed_index_request_is_refused(client: httpx.Client, body: object) -> None:
    assert client.post("/v2/repository/index", json=body).status_code == 400


def typed(**contents: Any) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="iris")
    given = request.inputs.add(name="x", datatype="FP64", shape=[1, 4])
    for field, values in contents.items():
        getattr(given.contents, field).extend(values)
    return request


def both() -> pb.ModelInferRequest:
    request = message("iris", GOOD)
    request.raw_input_contents.append(RAW)
    return request


def raws(*contents: bytes, count: int = 1) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="iris", raw_input_contents=contents)
    for index in range(count):
        request.inputs.add(name=f"x{index}", datatype="FP64", shape=[1, 4])
    return request


def of_shape(*shape: int) -> pb.ModelInferRequest:
    request = message("iris", GOOD)
    del request.inputs[0].shape[:]
    request.inputs[0].shape.extend(shape)
    return request


def with_parameter(name: str) -> pb.ModelInferRequest:
    request = message("iris", GOOD)
    request.inputs[0].parameters[name].string_param = "a"
    return request


INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
MESSAGES: dict[str, tuple[pb.ModelInferRequest, grpc.StatusCode, str]] = {
    "empty": (pb.ModelInferRequest(), NOT_FOUND, "no model ''"),
    "unknown model": (message("unknown", GOOD), NOT_FOUND, f"there are {', '.join(DATASETS)}"),
    "unknown version": (message("iris", GOOD, model_version="9"), NOT_FOUND, "served in version"),
    "no inputs": (message("iris"), INVALID, "no input tensor"),
    "no contents": (typed(), INVALID, "0 values"),
    "contents and raw": (both(), INVALID, "send only one"),
    "contents of another type": (typed(fp32_contents=ROW), INVALID, "fp64_contents"),
    "contents of two types": (typed(fp64_contents=ROW, int_contents=[1]), INVALID, "fp64_contents"),
    "contents too short": (typed(fp64_contents=ROW[:3]), INVALID, "3 values"),
    "raw too short": (raws(RAW[:31]), INVALID, "31 bytes"),
    "raw too long": (raws(RAW + b"\0"), INVALID, "33 bytes"),
    "raw too few": (raws(RAW, count=2), INVALID, "2 inputs and 1 raw"),
    "raw too many": (raws(RAW, RAW), INVALID, "1 inputs and 2 raw"),
    "NaN": (message("iris", changed(data=[5.1, 3.5, float("nan"), 0.2])), INVALID, "petal_length"),
    "infinity": (message("iris", changed(data=[5.1, 3.5, 1.4, float("inf")]), raw=True), INVALID, "petal_width"),
    "implausible": (message("iris", changed(data=[5.1, 3.5, 1.4, 99.0])), INVALID, "petal_width"),
    "shape [F] is ambiguous": (of_shape(4), INVALID, "one row is [1, 4]"),
    "shape too long": (of_shape(2, 4), INVALID, "4 values"),
    "shape empty": (of_shape(), INVALID, "needs a shape"),
    "shape negative": (of_shape(-1, 4), INVALID, "needs a shape"),
    "shape huge": (of_shape(2**62, 4), INVALID, "rows"),
    "no rows": (of_shape(0, 4), INVALID, "no rows"),
    "datatype unknown": (message("iris", GOOD, raw=True), INVALID, "FP128"),
    "name long": (message("iris", changed(name="x" * 50_000, data=ROW[:3])), INVALID, "3 values"),
    "a feature missing": (message("iris", *without("petal_width")), INVALID, "petal_width"),
    "a feature twice": (message("iris", *NAMED, NAMED[0]), INVALID, "sepal_length: there are two"),
    "output unknown": (
        message("iris", GOOD, outputs=[pb.ModelInferRequest.InferRequestedOutputTensor(name="price")]),
        INVALID,
        "no output 'price'",
    ),
    "shared memory": (with_parameter("shared_memory_region"), INVALID, "shared_memory_region"),
    "a class too far": (message("housing", tensor("x", rows_of(HOUSING, 1)[:, :4])), INVALID, "[N, 8]"),
}
MESSAGES["datatype unknown"][0].inputs[0].datatype = "FP128"


@pytest.mark.parametrize(("request_", "code", "part"), MESSAGES.values(), ids=MESSAGES)
def test_a_malformed_message_is_refused(
    stub: GRPCInferenceServiceStub, request_: pb.ModelInferRequest, code: grpc.StatusCode, part: str
) -> None:
    told, sentence = refusal(lambda: stub.ModelInfer(request_, timeout=20))
    assert told is code
    assert part in sentence
    assert len(sentence) < 600
    assert "Traceback" not in sentence


def call_bytes(channel: grpc.Channel, method: str, content: bytes) -> bytes:
    call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
    return call(content, timeout=20)


@pytest.mark.parametrize("content", [b"\xff\xff\xff", b"\x0a\x7firis", b"\x0a\x02\xff\xfe"])
def test_bytes_that_are_no_message_are_refused(channel: grpc.Channel, content: bytes) -> None:
    code, sentence = refusal(lambda: call_bytes(channel, "ModelInfer", content))
    assert code is INVALID
    assert "ModelInferRequest" in sentence


@pytest.mark.parametrize("method", ["ModelStreamInfer", "RepositoryIndex", "Nothing"])
def test_methods_we_do_not_have_are_unimplemented(channel: grpc.Channel, method: str) -> None:
    code, _ = refusal(lambda: call_bytes(channel, method, b""))
    assert code is grpc.StatusCode.UNIMPLEMENTED


def test_a_message_that_is_too_large_is_refused(stub: GRPCInferenceServiceStub) -> None:
    code, sentence = refusal(lambda: stub.ModelInfer(message("iris", GOOD, id="x" * 2_000_001), timeout=20))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "2000000" in sentence
