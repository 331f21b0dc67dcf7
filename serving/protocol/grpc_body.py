"""The gRPC messages of an inference: typed contents or raw bytes in, the answer in the same form.

https://github.com/open-inference/open-inference-protocol/blob/main/specification/protocol/open_inference_grpc.proto
"""

from collections.abc import Sequence
from typing import Any

from open_inference.grpc import protocol as pb

from contract.errors import InvalidInput, cut
from serving.protocol.infer_request import InferRequest, check_parameters
from serving.protocol.tensors import BYTES, InputTensor, OutputTensor, checked_shape

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
}
"""The field of typed contents that holds the elements of a datatype."""


def read_request(message: pb.ModelInferRequest) -> InferRequest:
    """Read a message. All outputs are wanted in the form of the inputs, as clients of MLServer and Triton expect.

    Raises:
        InvalidInput: what is wrong, and in which tensor.
    """
    check_parameters(message.parameters, "the request")
    inputs = _inputs(message)
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


def _inputs(message: pb.ModelInferRequest) -> list[InputTensor]:
    raws = message.raw_input_contents
    if raws and len(raws) != len(message.inputs):
        raise InvalidInput(
            f"There are {len(message.inputs)} inputs and {len(raws)} raw_input_contents: give one for each input."
        )
    tensors = []
    for index, tensor in enumerate(message.inputs):
        name, datatype = tensor.name, tensor.datatype
        check_parameters(tensor.parameters, f"the input {cut(name)!r}")
        values: Any = _contents(tensor.contents, name, datatype) if tensor.HasField("contents") else []
        if raws:
            if values:
                raise InvalidInput(f"The input {cut(name)!r} has contents and raw_input_contents: send only one.")
            values = raws[index]
        tensors.append(InputTensor(name, datatype, checked_shape(name, list(tensor.shape)), values))
    return tensors


def _contents(contents: Any, name: str, datatype: str) -> list[Any]:
    """The typed contents, from the field of the datatype; empty for a datatype that is not supported."""
    field = CONTENTS.get(datatype)
    filled = [descriptor.name for descriptor, _ in contents.ListFields()]
    if field is None:
        return []
    if filled not in ([], [field]):
        raise InvalidInput(
            f"The input {cut(name)!r} is {cut(datatype)}: its contents must be in {field}, not in {', '.join(filled)}."
        )
    return list(getattr(contents, field))
