"""HTTP requests and answer checks: ``/predict``, its batches, ``/v2`` as JSON and as bytes."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from contract.dataset import Dataset
from contract.feature import Value
from contract.table import FloatMatrix
from load_tests.answers import (
    Asked,
    WrongAnswer,
    check_prediction,
    check_refusal,
    check_tensors,
    shortened,
    well_formed,
)
from load_tests.tensors import tensors

JSON_LENGTH = "Inference-Header-Content-Length"
DTYPES = {"FP64": "<f8", "INT64": "<i8"}
"""Numpy dtypes of the numeric datatypes in answers."""


@dataclass(frozen=True)
class HttpRequest:
    """A POST, ready to be sent."""

    path: str
    body: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True)
class HttpAnswer:
    """An answer. Without one, ``status`` is 0 and ``content`` the reason."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    def json(self) -> dict[str, Any]:
        """The body as a JSON object.

        Raises:
            WrongAnswer: it is none.
        """
        return _object(self.content)


class HttpProtocol(ABC):
    """One kind of request for predictions."""

    @abstractmethod
    def request(self, dataset: Dataset, rows: FloatMatrix) -> HttpRequest:
        """A request for the predictions of ``rows`` of shape ``[N, F]``."""

    @abstractmethod
    def _check_content(self, asked: Asked, answer: HttpAnswer) -> None: ...

    def check(self, asked: Asked, answer: HttpAnswer) -> None:
        """Check an answer: predictions for good rows, status 400 that names the feature for bad ones.

        Raises:
            WrongAnswer: what is wrong with it.
        """
        if asked.feature is not None:
            _check_status(answer, 400)
            check_refusal(_sentence(answer), asked.feature)
            return
        _check_status(answer, 200)
        with well_formed():
            self._check_content(asked, answer)


class SingleRow(HttpProtocol):
    """``POST /predict/{dataset}``, one row."""

    def request(self, dataset: Dataset, rows: FloatMatrix) -> HttpRequest:
        """A flat object of named features: the first of ``rows``."""
        return _json_request(f"/predict/{dataset.name}", _named(dataset, rows)[0])

    def _check_content(self, asked: Asked, answer: HttpAnswer) -> None:
        check_prediction(asked.dataset, answer.json())


class Batch(HttpProtocol):
    """``POST /predict/{dataset}/batch``."""

    def request(self, dataset: Dataset, rows: FloatMatrix) -> HttpRequest:
        """A list of objects of named features."""
        return _json_request(f"/predict/{dataset.name}/batch", {"rows": _named(dataset, rows)})

    def _check_content(self, asked: Asked, answer: HttpAnswer) -> None:
        predictions = answer.json()["predictions"]
        if not isinstance(predictions, list) or len(predictions) != asked.rows:
            raise WrongAnswer("there are not as many predictions as rows")
        for prediction in predictions:
            check_prediction(asked.dataset, prediction)


class InferJson(HttpProtocol):
    """``POST /v2/models/{dataset}/infer``, tensors as JSON."""

    def request(self, dataset: Dataset, rows: FloatMatrix) -> HttpRequest:
        """One tensor of all features, nested like its shape; or one for each."""
        inputs = [
            {"name": one.name, "datatype": one.datatype, "shape": one.shape, "data": one.data}
            for one in tensors(dataset, rows)
        ]
        return _json_request(f"/v2/models/{dataset.name}/infer", {"inputs": inputs})

    def _check_content(self, asked: Asked, answer: HttpAnswer) -> None:
        outputs = _outputs(answer.json())
        check_tensors([(output["name"], output["shape"], output.get("data")) for output in outputs], asked.rows)


class InferBinary(HttpProtocol):
    """``POST /v2/models/{dataset}/infer``, tensors as raw bytes behind the JSON."""

    def request(self, dataset: Dataset, rows: FloatMatrix) -> HttpRequest:
        """One tensor of all features, or one for each; asks for the answer as bytes too."""
        sent = tensors(dataset, rows)
        inputs = [
            {
                "name": one.name,
                "datatype": one.datatype,
                "shape": one.shape,
                "parameters": {"binary_data_size": len(one.raw)},
            }
            for one in sent
        ]
        head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
        raw = b"".join(one.raw for one in sent)
        headers = {"Content-Type": "application/octet-stream", JSON_LENGTH: str(len(head))}
        return HttpRequest(f"/v2/models/{dataset.name}/infer", head + raw, headers)

    def _check_content(self, asked: Asked, answer: HttpAnswer) -> None:
        position = int(answer.headers[JSON_LENGTH])
        found = []
        for output in _outputs(_object(answer.content[:position])):
            size = output["parameters"]["binary_data_size"]
            raw = answer.content[position : position + size]
            position += size
            if output["datatype"] in DTYPES:
                values = np.frombuffer(raw, DTYPES[output["datatype"]])
                found.append((output["name"], output["shape"], values))
        if position != len(answer.content):
            raise WrongAnswer("the bytes of the outputs are not as many as it says")
        check_tensors(found, asked.rows)


def _json_request(path: str, content: object) -> HttpRequest:
    return HttpRequest(path, json.dumps(content).encode(), {"Content-Type": "application/json"})


def _named(dataset: Dataset, rows: FloatMatrix) -> list[dict[str, Value]]:
    return [dataset.decode(row) for row in rows.tolist()]


def _outputs(content: dict[str, Any]) -> list[dict[str, Any]]:
    outputs = content.get("outputs")
    if not isinstance(outputs, list):
        raise WrongAnswer("there is no output")
    return outputs


def _object(content: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(content)
    except ValueError:
        raise WrongAnswer("the body is not JSON") from None
    if not isinstance(parsed, dict):
        raise WrongAnswer("the body is no JSON object")
    return parsed


def _check_status(answer: HttpAnswer, expected: int) -> None:
    if answer.status == 0:
        raise WrongAnswer(f"no answer: {shortened(answer.content.decode(errors='replace'))}")
    if answer.status != expected:
        raise WrongAnswer(f"status {answer.status} instead of {expected}: {shortened(_sentence(answer))}")


def _sentence(answer: HttpAnswer) -> str:
    """The server's error message; empty if the answer is a success."""
    if answer.status == 200:
        return ""
    return str(answer.json().get("error"))
