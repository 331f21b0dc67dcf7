"""What the service says in an answer: which version predicted, the prediction's id, and the values."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from open_inference.grpc import protocol as pb

from load_tests.http_protocols import DTYPES

_PREDICT = "predict"
"""The output of the inference protocol that holds the prediction."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The predictions of one call.

    Args:
        values: by row: the value, or the index of the class.
    """

    version: str
    prediction_id: str
    values: tuple[float, ...]


def from_json(content: Mapping[str, Any]) -> Answer:
    """Read an answer of ``/predict``, of its batches, or of ``/v2``.

    Raises:
        KeyError: it is none.
    """
    if "outputs" in content:
        values = next(output["data"] for output in content["outputs"] if output["name"] == _PREDICT)
        return Answer(content["model_version"], content["parameters"]["prediction_id"], tuple(values))
    rows = content.get("predictions", [content])
    return Answer(content["model"]["version"], content["prediction_id"], tuple(row["prediction"] for row in rows))


def from_response(response: pb.ModelInferResponse) -> Answer:
    """Read an answer of gRPC with raw contents."""
    index = next(number for number, output in enumerate(response.outputs) if output.name == _PREDICT)
    values = np.frombuffer(response.raw_output_contents[index], DTYPES[response.outputs[index].datatype])
    return Answer(
        response.model_version, response.parameters["prediction_id"].string_param, tuple(values.astype(float).tolist())
    )
