"""``/v2`` of the real service, in the forms that its clients use."""

import json
import struct
from typing import Any

import httpx
import numpy as np
import pytest

from contract.dataset import Dataset
from contract.datasets.housing import HOUSING
from contract.datasets.iris import IRIS
from tests.serving.protocol.wire import (
    JSON_LENGTH,
    RAW,
    Tensor,
    binary,
    predictions,
    rows_of,
    tensor,
    values_name,
    whole,
)

DATASET = pytest.mark.parametrize("dataset", [HOUSING, IRIS], ids=lambda dataset: dataset.name)
"""All numbers, which may come as one matrix; ``tests/kinds`` has the others."""


def infer(client: httpx.Client, dataset: Dataset, *inputs: Tensor, **more: Any) -> dict[str, Any]:
    answer = client.post(f"/v2/models/{dataset.name}/infer", json={"inputs": inputs, **more})
    assert answer.status_code == 200, answer.text
    content: dict[str, Any] = answer.json()
    return content


def output(content: dict[str, Any], name: str) -> Any:
    """The elements of an output, nested as its shape says."""
    (found,) = [one for one in content["outputs"] if one["name"] == name]
    return np.reshape(np.array(found["data"]), found["shape"]).tolist()


def columns(dataset: Dataset, rows: Any, *, column: bool = False, **more: Any) -> list[Tensor]:
    shaped = rows[:, :, None] if column else rows
    return [tensor(name, shaped[:, index], **more) for index, name in enumerate(dataset.feature_names)]


@DATASET
@pytest.mark.parametrize("count", [1, 3, 100])
@pytest.mark.parametrize("form", ["flat", "nested", "columns", "columns [N, 1]", "shuffled", "FP32", "FP32 columns"])
def test_every_form_of_the_same_rows_has_the_same_answer(
    client: httpx.Client, dataset: Dataset, count: int, form: str
) -> None:
    rows = rows_of(dataset, count)
    inputs = {
        "flat": [tensor("input", rows)],
        "nested": [tensor("any name", rows, nested=True)],
        "columns": columns(dataset, rows),
        "columns [N, 1]": columns(dataset, rows, column=True, nested=True),
        "shuffled": columns(dataset, rows)[::-1],
        "FP32": [tensor("x", rows, "FP32")],
        "FP32 columns": columns(dataset, rows, datatype="FP32"),
    }[form]
    wanted = predictions(client, dataset, rows)
    answered = output(infer(client, dataset, *inputs), values_name(dataset))
    assert answered == ([[one] for one in wanted] if dataset is HOUSING else wanted)


@DATASET
@pytest.mark.parametrize("datatype", ["INT64", "INT32", "UINT8"])
@pytest.mark.parametrize("raw", [False, True])
def test_whole_numbers_may_come_as_integers(client: httpx.Client, dataset: Dataset, datatype: str, raw: bool) -> None:
    rows = whole(dataset, 5)
    if datatype == "UINT8":
        rows = np.clip(rows, 0, 255)
        if dataset is HOUSING:
            rows[:, -1] = -120  # a longitude cannot be unsigned
    integers = rows.astype(np.int64)
    inputs = columns(dataset, integers, datatype=datatype)
    if datatype == "UINT8" and dataset is HOUSING:
        inputs[-1]["datatype"] = "INT32"
    wanted = np.array(predictions(client, dataset, rows)).ravel().tolist()
    if raw:
        raws = [np.array(one.pop("data")).astype(RAW[one["datatype"]]).tobytes() for one in inputs]
        for one, content in zip(inputs, raws, strict=True):
            one["parameters"] = {"binary_data_size": len(content)}
        body, headers = binary({"inputs": inputs}, *raws)
        reply = client.post(f"/v2/models/{dataset.name}/infer", content=body, headers=headers).raise_for_status()
        answered = output(reply.json(), values_name(dataset))
    else:
        answered = output(infer(client, dataset, *inputs), values_name(dataset))
    assert np.array(answered).ravel().tolist() == wanted


@DATASET
@pytest.mark.parametrize("back", ["all", "each", "none"])
def test_raw_tensors_in_and_out(client: httpx.Client, dataset: Dataset, back: str) -> None:
    rows = rows_of(dataset, 7)
    raw = rows.tobytes()
    given = {"name": "x", "datatype": "FP64", "shape": rows.shape, "parameters": {"binary_data_size": len(raw)}}
    body: dict[str, Any] = {"inputs": [given]}
    name = values_name(dataset)
    if back == "all":
        body["parameters"] = {"binary_data_output": True}
    elif back == "each":
        body["outputs"] = [{"name": name, "parameters": {"binary_data": True}}]
    content, headers = binary(body, raw)
    answer = client.post(f"/v2/models/{dataset.name}/infer", content=content, headers=headers).raise_for_status()
    wanted = np.array(predictions(client, dataset, rows)).ravel().tolist()
    if back == "none":
        assert JSON_LENGTH not in answer.headers
        assert np.array(output(answer.json(), name)).ravel().tolist() == wanted
        return
    assert answer.headers["content-type"] == "application/octet-stream"
    head, tail = (
        answer.content[: int(answer.headers[JSON_LENGTH])],
        answer.content[int(answer.headers[JSON_LENGTH]) :],
    )
    position = 0
    for one in json.loads(head)["outputs"]:
        size = one["parameters"]["binary_data_size"]
        if one["name"] == name:
            assert np.frombuffer(tail[position : position + size], "<f8").tolist() == wanted
        position += size
    assert position == len(tail)


def test_labels_are_bytes_with_their_length_before_each(client: httpx.Client) -> None:
    rows = rows_of(IRIS, 4)
    outputs = [{"name": "label", "parameters": {"binary_data": True}}, {"name": "predict"}]
    answer = client.post("/v2/models/iris/infer", json={"inputs": [tensor("x", rows)], "outputs": outputs})
    length = int(answer.headers[JSON_LENGTH])
    tail = answer.content[length:]
    labels = []
    while tail:
        (size,) = struct.unpack("<I", tail[:4])
        labels.append(tail[4 : 4 + size].decode())
        tail = tail[4 + size :]
    document = json.loads(answer.content[:length])
    assert labels == [IRIS.target.classes[index] for (index,) in output(document, "predict")]


def test_an_answer_names_its_model_and_repeats_the_id(client: httpx.Client, stored: dict[str, str]) -> None:
    content = infer(client, IRIS, tensor("x", rows_of(IRIS, 2)), id="mine", parameters={"anything": 1})
    assert (content["model_name"], content["model_version"], content["id"]) == ("iris", stored["iris"], "mine")
    assert {(one["name"], one["datatype"], *one["shape"]) for one in content["outputs"]} == {
        ("predict", "INT64", 2, 1),
        ("label", "BYTES", 2, 1),
        ("probabilities", "FP64", 2, 3),
    }


@pytest.mark.parametrize("more", [{}, {"id": None}])
def test_without_an_id_there_is_none(client: httpx.Client, more: dict[str, Any]) -> None:
    assert "id" not in infer(client, HOUSING, tensor("x", rows_of(HOUSING, 1)), **more)


@pytest.mark.parametrize("names", [["label"], ["probabilities", "predict"], ["predict", "label", "probabilities"]])
def test_outputs_are_those_asked_for_in_that_order(client: httpx.Client, names: list[str]) -> None:
    content = infer(client, IRIS, tensor("x", rows_of(IRIS, 3)), outputs=[{"name": name} for name in names])
    assert [one["name"] for one in content["outputs"]] == names


def test_a_version_may_be_named(client: httpx.Client, stored: dict[str, str]) -> None:
    body = {"inputs": [tensor("x", rows_of(HOUSING, 1))]}
    plain, versioned = (
        client.post(f"/v2/models/housing{middle}/infer", json=body).raise_for_status().json()
        for middle in ("", f"/versions/{stored['housing']}")
    )
    assert plain.pop("parameters").keys() == versioned.pop("parameters").keys() == {"prediction_id"}
    assert plain == versioned


def test_ten_thousand_rows_are_answered(client: httpx.Client) -> None:
    rows = np.round(rows_of(IRIS, 10_000), 1)
    wanted = predictions(client, IRIS, rows)
    assert output(infer(client, IRIS, tensor("x", rows)), "probabilities") == wanted


@pytest.mark.parametrize("path", ["/v2", "/v2/"])
def test_the_server_tells_what_it_is(client: httpx.Client, path: str) -> None:
    content = client.get(path).raise_for_status().json()
    assert content["name"] == "ml_prediction_bundle"
    assert content["version"]
    assert content["extensions"] == ["binary_tensor_data"]


@DATASET
def test_a_model_tells_its_tensors_and_features(client: httpx.Client, stored: dict[str, str], dataset: Dataset) -> None:
    version = stored[dataset.name]
    content = client.get(f"/v2/models/{dataset.name}").raise_for_status().json()
    assert content == client.get(f"/v2/models/{dataset.name}/versions/{version}").json()
    assert (content["name"], content["versions"], content["platform"]) == (
        dataset.name,
        [version],
        "onnxruntime_onnx",
    )
    (given,) = content["inputs"]
    assert (given["name"], given["datatype"], given["shape"]) == ("input", "FP64", [-1, len(dataset.features)])
    assert given["parameters"]["feature_names"] == list(dataset.feature_names)
    answered = infer(client, dataset, tensor("input", rows_of(dataset, 2)))["outputs"]
    # What is answered is what was advertised.
    assert [(one["name"], one["datatype"], one["shape"][1:]) for one in answered] == [
        (one["name"], one["datatype"], one["shape"][1:]) for one in content["outputs"]
    ]


def test_health_is_told(client: httpx.Client, stored: dict[str, str]) -> None:
    assert client.get("/v2/health/live").raise_for_status().json() == {"live": True}
    assert client.get("/v2/health/ready").raise_for_status().json() == {"ready": True}
    for path in ("/v2/models/iris/ready", f"/v2/models/iris/versions/{stored['iris']}/ready"):
        assert client.get(path).raise_for_status().json() == {"name": "iris", "ready": True}


@pytest.mark.parametrize("body", [None, {}, {"ready": True}, {"ready": False}])
def test_the_repository_lists_the_models(
    client: httpx.Client, stored: dict[str, str], body: dict[str, bool] | None
) -> None:
    listed = client.post("/v2/repository/index", json=body).raise_for_status().json()
    assert {(one["name"], one["version"], one["state"]) for one in listed} == {
        (name, version, "READY") for name, version in stored.items()
    }


@pytest.mark.parametrize("path", ["/v2", "/v2/health/live", "/v2/models/iris"])
def test_head_is_get_without_a_body(client: httpx.Client, path: str) -> None:
    answer = client.head(path)
    assert (answer.status_code, answer.content) == (200, b"")
