"""The requests: rows of the raw data, in the words of each protocol, and how its answers are read."""

import csv
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from open_inference.grpc import protocol as pb

from contract.datasets.housing import HOUSING
from contract.table import FloatMatrix

RAW = Path(__file__).parents[2] / "data" / "raw" / "housing.csv"
BODIES = 1000
"""Different rows that requests of one row go through; a larger request takes as many of them as it has rows."""
FEWEST_BODIES = 4

JSON = "application/json"


@dataclass(frozen=True)
class PayloadFormat:
    """How rows become a body, and an answer becomes predictions.

    ``write`` takes rows ``[N, F]`` and gives the body and the headers beside its content type; ``read`` takes the
    answer's bytes and gives a prediction a row, or None where there is none to be checked (a floor).
    """

    name: str
    write: Callable[[FloatMatrix], tuple[bytes, Mapping[str, str]]]
    read: Callable[[bytes], list[float]] | None
    content_type: str = JSON


def table(path: Path = RAW) -> FloatMatrix:
    """Rows of the raw data in a fixed random order, ``[BODIES, F]``."""
    with path.open(newline="") as file:
        rows = [[float(line[name]) for name in HOUSING.feature_names] for line in csv.DictReader(file)]
    # The raw table is sorted by place: neighbours would take the same branches of the trees.
    return np.array(random.Random(0).sample(rows, BODIES))  # noqa: S311 # a reproducible draw, no secret


def batches(rows: FloatMatrix, size: int) -> list[FloatMatrix]:
    """Requests of ``size`` rows each that go through the whole table, ``[size, F]`` each."""
    count = max(len(rows) // size, FEWEST_BODIES)
    return [rows[np.arange(start * size, (start + 1) * size) % len(rows)] for start in range(count)]


def _records(rows: FloatMatrix) -> list[dict[str, float]]:
    return [dict(zip(HOUSING.feature_names, row, strict=True)) for row in rows.tolist()]


def dump(document: object) -> tuple[bytes, Mapping[str, str]]:
    """A document as a body, and no headers beside its content type."""
    return json.dumps(document, separators=(",", ":")).encode(), {}


def _predictions(values: Sequence[object]) -> list[float]:
    """Numbers as they are, or objects with a field ``prediction``."""
    return [float(value["prediction"] if isinstance(value, dict) else value) for value in values]  # type: ignore[arg-type]  # float() says what is no number


def _v2_binary(rows: FloatMatrix) -> tuple[bytes, Mapping[str, str]]:
    tensor = {"name": "input", "shape": rows.shape, "datatype": "FP64", "parameters": {"binary_data_size": rows.nbytes}}
    head, _ = dump({"inputs": [tensor], "parameters": {"binary_data_output": True}})
    return head + rows.astype("<f8").tobytes(), {"Inference-Header-Content-Length": str(len(head))}


def _read_v2_binary(content: bytes) -> list[float]:
    document, _ = json.JSONDecoder().raw_decode(content.decode("latin-1"))
    size = document["outputs"][0]["parameters"]["binary_data_size"]
    return [float(value) for value in np.frombuffer(content[-size:], dtype="<f8")]


def _v2_grpc(rows: FloatMatrix) -> tuple[bytes, Mapping[str, str]]:
    request = pb.ModelInferRequest(model_name=HOUSING.name, raw_input_contents=[rows.astype("<f8").tobytes()])
    request.inputs.add(name="input", datatype="FP64", shape=rows.shape)
    return request.SerializeToString(), {}


def _read_v2_grpc(content: bytes) -> list[float]:
    response = pb.ModelInferResponse.FromString(content)
    if response.raw_output_contents:
        return [float(value) for value in np.frombuffer(response.raw_output_contents[0], dtype="<f8")]
    return list(response.outputs[0].contents.fp64_contents)


ROW = PayloadFormat(
    "JSON, a row", lambda rows: dump(_records(rows)[0]), lambda content: _predictions([json.loads(content)])
)
"""A flat object of named features, one prediction."""
ROWS = PayloadFormat(
    "JSON, rows",
    lambda rows: dump({"rows": _records(rows)}),
    lambda content: _predictions(json.loads(content)["predictions"]),
)
"""A list of such objects under ``rows``, a list under ``predictions``."""
ROWS_TO_LIST = PayloadFormat(
    "JSON, rows",
    lambda rows: dump({"rows": _records(rows)}),
    lambda content: _predictions(json.loads(content)),
)
"""The same, answered with the list alone."""
MLFLOW = PayloadFormat(
    "MLflow scoring, dataframe_split",
    lambda rows: dump({"dataframe_split": {"columns": HOUSING.feature_names, "data": rows.tolist()}}),
    lambda content: _predictions(json.loads(content)["predictions"]),
)
V2_JSON = PayloadFormat(
    "/v2 JSON",
    lambda rows: dump(
        {"inputs": [{"name": "input", "shape": rows.shape, "datatype": "FP64", "data": rows.ravel().tolist()}]}
    ),
    lambda content: _predictions(json.loads(content)["outputs"][0]["data"]),
)
V2_BINARY = PayloadFormat("/v2 binary", _v2_binary, _read_v2_binary, "application/octet-stream")
V2_GRPC = PayloadFormat("gRPC, raw contents", _v2_grpc, _read_v2_grpc, "application/grpc")
ROW_UNREAD = PayloadFormat("JSON, a row", ROW.write, None)
"""For the floors: the same body, an answer that is no prediction."""
GRPC_UNREAD = PayloadFormat("gRPC, raw contents", _v2_grpc, None, "application/grpc")
