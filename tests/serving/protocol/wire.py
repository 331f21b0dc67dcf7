"""Requests as they are on the wire, written by hand: what a client library would never send included."""

import json
from collections.abc import Callable
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from open_inference.grpc import protocol as pb

from contract.dataset import Dataset, Task
from contract.table import FloatMatrix
from tests.serving import tiny_models

JSON_LENGTH = "Inference-Header-Content-Length"
Tensor = dict[str, Any]


def rows_of(dataset: Dataset, count: int, *, start: int = 0) -> FloatMatrix:
    """Different rows that are exact in single precision too."""
    rows = np.resize(tiny_models.table(dataset).features, (start + count, len(dataset.features)))[start:]
    return rows.astype(np.float32).astype(np.float64)


def whole(dataset: Dataset, count: int) -> FloatMatrix:
    """Rows of whole numbers, which hold the contract."""
    low, high = dataset.bounds
    return np.clip(np.rint(rows_of(dataset, count)), np.ceil(low), np.floor(high))


def tensor(name: str, values: NDArray[Any], datatype: str = "FP64", *, nested: bool = False, **more: Any) -> Tensor:
    """An input of a JSON request."""
    data = values.tolist() if nested else values.ravel().tolist()
    return {"name": name, "datatype": datatype, "shape": list(values.shape), "data": data, **more}


def binary(body: dict[str, Any], *raws: bytes) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a request with raw tensors."""
    head = json.dumps(body).encode()
    return b"".join([head, *raws]), {JSON_LENGTH: str(len(head)), "Content-Type": "application/octet-stream"}


def message(model: str, *tensors: Tensor, raw: bool = False, **more: Any) -> pb.ModelInferRequest:
    """The gRPC message of JSON inputs, with raw or typed contents."""
    request = pb.ModelInferRequest(model_name=model, **more)
    for document in tensors:
        datatype = document["datatype"]
        written = request.inputs.add(name=document["name"], datatype=datatype, shape=document["shape"])
        if raw:
            values = np.array(document["data"]).astype(RAW[datatype])
            request.raw_input_contents.append(values.tobytes())
        else:
            getattr(written.contents, CONTENTS[datatype]).extend(document["data"])
    return request


RAW = {"FP64": "<f8", "FP32": "<f4", "INT64": "<i8", "INT32": "<i4", "UINT8": "u1"}
CONTENTS = {
    "FP64": "fp64_contents",
    "FP32": "fp32_contents",
    "INT64": "int64_contents",
    "INT32": "int_contents",
    "UINT8": "uint_contents",
}


def predictions(client: httpx.Client, dataset: Dataset, rows: FloatMatrix) -> list[Any]:
    """What ``/predict/{model}/batch`` answers: a number each, or the probabilities of the classes."""
    bodies = [dict(zip(dataset.feature_names, row, strict=True)) for row in rows.tolist()]
    answer = client.post(f"/predict/{dataset.name}/batch", json={"rows": bodies}).raise_for_status().json()
    if dataset.task is Task.REGRESSION:
        return [one["prediction"] for one in answer["predictions"]]
    return [list(one["probabilities"].values()) for one in answer["predictions"]]


def values_name(dataset: Dataset) -> str:
    """The output that holds what ``predictions`` gives."""
    return "predict" if dataset.task is Task.REGRESSION else "probabilities"


def refusal(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    """The status code of a gRPC call that is refused, and its sentence."""
    with pytest.raises(grpc.RpcError) as refused:
        call()
    return refused.value.code(), refused.value.details() or ""
