"""The protocol's routes and bodies over HTTP, as the OpenAPI document tells them; nothing is parsed with these models.

https://github.com/open-inference/open-inference-protocol/blob/main/specification/protocol/open_inference_rest.yaml
"""

from typing import Any, NamedTuple

from pydantic import BaseModel, Field, RootModel

from contract import DATASETS
from serving.protocol.codec import example_tensors
from serving.protocol.tensors import BOOL, BYTES, NUMBERS

EXAMPLE = next(iter(DATASETS.values()))
"""The model that the examples ask."""

_PARAMETERS = Field(default=None, description="Parameters of the protocol's extensions.")
_DATATYPE = Field(
    description="Of numbers FP64, FP32 or an integer datatype; of flags BOOL; of categories and times BYTES.",
    json_schema_extra={"enum": [*NUMBERS, BOOL, BYTES]},
    examples=["FP64"],
)
_SHAPE = Field(description="Dimensions; the first is the rows.", examples=[[2, len(EXAMPLE.features)]])
_OUTPUT_DATATYPE = Field(json_schema_extra={"enum": ["FP64", "INT64", BYTES]})


class RequestInput(BaseModel):
    """A tensor: one feature `[N]` or `[N, 1]` under its name; where all are numbers, all of them `[N, F]` under any."""

    name: str
    shape: list[int] = _SHAPE
    datatype: str = _DATATYPE
    parameters: dict[str, Any] | None = _PARAMETERS
    data: list[Any] | None = Field(
        default=None,
        description="Row-major, flat or nested; null is a missing value; left out where `binary_data_size` is given.",
    )


class RequestOutput(BaseModel):
    """An output that is asked for."""

    name: str
    parameters: dict[str, Any] | None = _PARAMETERS


class InferenceRequest(BaseModel):
    """Rows for a model, in the Open Inference Protocol."""

    id: str | None = Field(default=None, description="Comes back with the answer.")
    parameters: dict[str, Any] | None = _PARAMETERS
    inputs: list[RequestInput] = Field(min_length=1)
    outputs: list[RequestOutput] | None = Field(default=None, description="The outputs that are wanted; default: all.")


class ResponseOutput(BaseModel):
    """A tensor of the answer: `[N, 1]`, or `[N, C]` of probabilities."""

    name: str
    shape: list[int]
    datatype: str = _OUTPUT_DATATYPE
    parameters: dict[str, Any] | None = _PARAMETERS
    data: list[Any] | None = Field(default=None, description="Row-major and flat; left out of a binary output.")


class InferenceResponse(BaseModel):
    """A model's outputs."""

    model_name: str
    model_version: str
    id: str | None = None
    parameters: dict[str, Any] | None = Field(
        default=None, description="`prediction_id`: a UUIDv7 of 32 hexadecimal digits."
    )
    outputs: list[ResponseOutput]


class TensorMetadata(BaseModel):
    """A tensor as a model takes or gives it; −1 is the rows."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] | None = Field(
        default=None, description="Names of features or classes; the unit; of one feature, its kind and categories."
    )


class ModelMetadata(BaseModel):
    """A model: its versions, inputs and outputs."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ServerMetadata(BaseModel):
    """This server."""

    name: str
    version: str
    extensions: list[str]


class Live(BaseModel):
    """The process is alive."""

    live: bool


class Ready(BaseModel):
    """The server, or the model of that name, takes requests."""

    name: str | None = None
    ready: bool


class IndexRequest(BaseModel):
    """Which models to list."""

    ready: bool | None = Field(default=None, description="Only those that are ready.")


class IndexedModel(BaseModel):
    """A model and its state."""

    name: str
    version: str
    state: str
    reason: str


class RepositoryIndex(RootModel[list[IndexedModel]]):
    """Every model with its state."""


class ProtocolError(BaseModel):
    """Every error under `/v2`: one sentence that names tensor, row and feature."""

    error: str


class ProtocolRoute(NamedTuple):
    """A route: what it takes, with an example, what it gives, and the statuses it may refuse with."""

    summary: str
    gives: type[BaseModel]
    takes: type[BaseModel] | None = None
    example: object = None
    errors: tuple[str, ...] = ()


_INFER = ProtocolRoute(
    "Predictions for the rows of tensors, in JSON or with raw bytes behind it",
    InferenceResponse,
    InferenceRequest,
    {"inputs": example_tensors(EXAMPLE, 2)},
    ("400", "404", "413", "415", "429", "503", "504"),
)
_INDEX = ProtocolRoute("Every model with its state", RepositoryIndex, IndexRequest, {}, ("400", "413", "415", "504"))
_METADATA = ProtocolRoute("A model's versions, inputs and outputs", ModelMetadata, errors=("404",))
_MODEL_READY = ProtocolRoute("Does the model take requests?", Ready, errors=("404", "503"))

MODEL_PATH = "/v2/models/{model_name}"
VERSION_PATH = f"{MODEL_PATH}/versions/{{model_version}}"
PROTOCOL_ROUTES: dict[str, ProtocolRoute] = {
    "/v2": ProtocolRoute("This server's name, version and extensions", ServerMetadata),
    "/v2/health/live": ProtocolRoute("Is the process alive?", Live),
    "/v2/health/ready": ProtocolRoute("Is every model loaded and warm?", Ready, errors=("503",)),
    MODEL_PATH: _METADATA,
    VERSION_PATH: _METADATA,
    f"{MODEL_PATH}/ready": _MODEL_READY,
    f"{VERSION_PATH}/ready": _MODEL_READY,
    f"{MODEL_PATH}/infer": _INFER,
    f"{VERSION_PATH}/infer": _INFER,
    "/v2/repository/index": _INDEX,
}
"""By path; those that take a body are POST, the others GET."""

PATH_PARAMETERS: dict[str, dict[str, Any]] = {
    "model_name": {"description": "Name of the model.", "schema": {"type": "string", "enum": [*DATASETS]}},
    "model_version": {"description": "The version that is served.", "schema": {"type": "string"}},
}
JSON_LENGTH_PARAMETER = {
    "name": "Inference-Header-Content-Length",
    "in": "header",
    "description": "Of a body with raw bytes: the length of the JSON before them.",
    "schema": {"type": "integer"},
}
BINARY_TYPE = "application/octet-stream"
