"""The gRPC messages of an inference: typed contents or raw bytes in, the answer in the same form.

https://github.com/open-inference/open-inference-protocol/blob/main/specification/protocol/open_inference_grpc.proto
"""

from collections.abc import Sequence
from typing import Any

from open_inference.grpc import protocol as pb

from contract.dataset import MAXIMUM_BATCH_ROWS
from contract.errors import InvalidInput, cut
from serving.protocol.infer_request import InferRequest, check_counts, check_parameters
from serving.protocol.tensors import (
    BOOL,
    BYTES,
    MAXIMUM_DIMENSIONS,
    InputTensor,
    OutputTensor,
    check_size,
    checked_shape,
)

CONTENTS = {
    "FP64": "fp64_contents",
    "FP32": "fp32_contents",
    "INT64": "int64_contents",
    "INT32": "int_contents",
    "INT16": "int_contents",
    "INT8": "int_contents",
    "UINT64": "uint64_contents",
    "UINT32": "uint_contents",
    "UINT16": "uint_contents",
    "UINT8": "uint_contents",
    BOOL: "bool_contents",
    BYTES: "bytes_contents",
}
"""The field of typed contents that holds the elements of a datatype."""
MAXIMUM_FIELDS = 10_000
"""Most fields of a message, those of its parts included; packed numbers are one."""
_VARINT, _LENGTH = 0, 2
_SIZES = {1: 8, 3: 0, 4: 0, 5: 4}
"""Bytes of the other kinds of fields; the fields of a group follow it."""


def check_fields(data: bytes, descriptor: Any) -> None:
    """Refuse a message with too many fields before it is parsed: an empty one takes 2 bytes, and 100 once it is.

    Args:
        data: the message.
        descriptor: of its type.

    Raises:
        InvalidInput: it has more fields than a legal message, whose numbers are packed.
    """
    if _fields_left(data, 0, len(data), descriptor, MAXIMUM_FIELDS) < 0:
        raise InvalidInput(
            f"The message has more than {MAXIMUM_FIELDS} fields: send all rows in one tensor or one for each feature, "
            "numbers packed, and text as raw_input_contents."
        )


def _fields_left(data: bytes, position: int, end: int, descriptor: Any, left: int) -> int:
    """How many more fields there may be. Malformed bytes end the count, as they end the parser.

    https://protobuf.dev/programming-guides/encoding/
    """
    known = {} if descriptor is None else descriptor.fields_by_number
    try:
        while position < end and left >= 0:
            left -= 1
            key, position = _varint(data, position)
            kind = key & 7
            if kind == _VARINT:
                position = _varint(data, position)[1]
            elif kind == _LENGTH:
                size, position = _varint(data, position)
                field = known.get(key >> 3)
                if field is not None and field.message_type is not None and position + size <= end:
                    left = _fields_left(data, position, position + size, field.message_type, left)
                position += size
            else:
                position += _SIZES[kind]
    except (IndexError, KeyError):
        pass
    return left


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """A number of variable length, and the position after it."""
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, position
        if shift > 63:
            raise IndexError(position)


def read_request(message: pb.ModelInferRequest, features: int) -> InferRequest:
    """Read a message. All outputs are wanted in the form of the inputs, as clients of MLServer and Triton expect.

    Args:
        message: the request.
        features: how many the model has.

    Raises:
        InvalidInput: what is wrong, and in which tensor.
    """
    check_counts(len(message.inputs), len(message.outputs), features)
    check_parameters(message.parameters, "the request")
    inputs = _inputs(message, features)
    for output in message.outputs:
        check_parameters(output.parameters, f"the output {cut(output.name)!r}")
    names = [output.name for output in message.outputs]
    return InferRequest(message.id or None, inputs, names, {None: bool(message.raw_input_contents)})


def write_response(
    message: pb.ModelInferResponse, outputs: Sequence[OutputTensor], request: InferRequest
) -> pb.ModelInferResponse:
    """Add the outputs to the answer.

    Args:
        message: the answer without its outputs.
        outputs: the tensors asked for.
        request: says whether they are wanted as raw bytes.
    """
    for tensor in outputs:
        written = message.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        if request.wants_binary(tensor.name):
            message.raw_output_contents.append(tensor.raw())
        elif tensor.datatype == BYTES:
            written.contents.bytes_contents.extend(element.encode() for element in tensor.flat())
        else:
            getattr(written.contents, CONTENTS[tensor.datatype]).extend(tensor.flat())
    return message


def _inputs(message: pb.ModelInferRequest, features: int) -> list[InputTensor]:
    raws = message.raw_input_contents
    if raws and len(raws) != len(message.inputs):
        raise InvalidInput(
            f"There are {len(message.inputs)} inputs and {len(raws)} raw_input_contents: give one for each input."
        )
    tensors = []
    for index, tensor in enumerate(message.inputs):
        name, datatype = tensor.name, tensor.datatype
        check_parameters(tensor.parameters, f"the input {cut(name)!r}")
        if len(tensor.shape) > MAXIMUM_DIMENSIONS:
            raise InvalidInput(f"The input {cut(name)!r} has {len(tensor.shape)} dimensions; a table has two.")
        shape = checked_shape(name, list(tensor.shape))
        values: Any = []
        if tensor.HasField("contents"):
            values = _contents(tensor.contents, name, datatype, shape, MAXIMUM_BATCH_ROWS * features)
        if raws:
            if values:
                raise InvalidInput(f"The input {cut(name)!r} has contents and raw_input_contents: send only one.")
            values = raws[index]
        tensors.append(InputTensor(name, datatype, shape, values))
    return tensors


def _contents(contents: Any, name: str, datatype: str, shape: tuple[int, ...], most: int) -> list[Any]:
    """The typed contents, from the field of the datatype; empty for a datatype that is not supported."""
    field = CONTENTS.get(datatype)
    filled = [descriptor.name for descriptor, _ in contents.ListFields()]
    if field is None:
        return []
    if filled not in ([], [field]):
        raise InvalidInput(
            f"The input {cut(name)!r} is {cut(datatype)}: its contents must be in {field}, not in {', '.join(filled)}."
        )
    numbers = getattr(contents, field)
    if len(numbers) > most:
        check_size(name, len(numbers), shape)
    return list(numbers)
