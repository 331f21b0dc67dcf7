"""The HTTP body of an inference: JSON, followed by the tensors that are sent as raw bytes.

The header ``Inference-Header-Content-Length`` is the length of the JSON; each raw tensor states its size in the JSON:
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

from collections.abc import Sequence
from typing import Any

from pydantic_core import to_json

from contract.dataset import Dataset
from contract.errors import InvalidInput, cut, shown
from serving.http.body import SPARE_TOKENS, most_tokens, parse_json
from serving.protocol.infer_request import InferRequest, check_counts, check_parameters
from serving.protocol.tensors import InputTensor, OutputTensor, checked_shape


def read_object(body: bytes | memoryview, most: int = SPARE_TOKENS) -> dict[str, Any]:
    """The JSON object of a body.

    Args:
        body: the text.
        most: tokens that a legal body has at most.

    Raises:
        InvalidInput: the body is not a JSON object.
    """
    content = parse_json(body, most)
    if not isinstance(content, dict):
        raise InvalidInput("The body must be a JSON object.")
    return content


def read_request(body: bytes, json_length: str | None, dataset: Dataset) -> InferRequest:
    """Read a body.

    Args:
        body: the whole body.
        dataset: of the model.
        json_length: the header ``Inference-Header-Content-Length``, if it was sent.

    Raises:
        InvalidInput: what is wrong, and in which tensor.
    """
    raw: memoryview | None = None
    most = most_tokens(dataset.json_fields)
    if json_length is not None:
        # Python refuses to read a number of thousands of digits.
        if not (json_length.isascii() and json_length.isdecimal() and len(json_length) < 20) or (
            int(json_length) > len(body)
        ):
            raise InvalidInput(
                f"Inference-Header-Content-Length must be the length of the JSON in this body of {len(body)} bytes, "
                f"not {cut(json_length)!r}."
            )
        whole = memoryview(body)
        raw = whole[int(json_length) :]
        content = read_object(whole[: int(json_length)], most)
    else:
        content = read_object(body, most)
    identifier = content.get("id")
    if identifier is not None and not isinstance(identifier, str):
        raise InvalidInput("The id must be text.")
    binary: dict[str | None, bool] = {
        None: _flag(_parameters(content, "the request"), "binary_data_output", "the request") or False
    }
    documents, wanted = _objects(content.get("inputs"), "inputs"), content.get("outputs")
    wanted = [] if wanted is None else _objects(wanted, "outputs")
    check_counts(len(documents), len(wanted), len(dataset.features))
    return InferRequest(identifier, _inputs(documents, raw), _outputs(wanted, binary), binary)


def write_response(
    content: dict[str, Any], outputs: Sequence[OutputTensor], request: InferRequest
) -> tuple[bytes, int]:
    """The body of the answer, and the length of its JSON.

    Args:
        content: the answer without its outputs.
        outputs: the tensors asked for.
        request: says which of them are wanted as raw bytes.
    """
    documents: list[dict[str, Any]] = []
    raws = []
    for output in outputs:
        document: dict[str, Any] = {"name": output.name, "datatype": output.datatype, "shape": output.shape}
        if request.wants_binary(output.name):
            raws.append(output.raw())
            document["parameters"] = {"binary_data_size": len(raws[-1])}
        else:
            document["data"] = output.flat()
        documents.append(document)
    content["outputs"] = documents
    head = to_json(content)
    return b"".join([head, *raws]), len(head)


def _inputs(documents: list[dict[str, Any]], raw: memoryview | None) -> list[InputTensor]:
    tensors = []
    position = 0
    for document in documents:
        name, datatype = document.get("name"), document.get("datatype")
        if not isinstance(name, str):
            raise InvalidInput("Every input needs a name.")
        if not isinstance(datatype, str):
            raise InvalidInput(f"The input {cut(name)!r} needs a datatype.")
        shape = checked_shape(name, document.get("shape"))
        parameters = _parameters(document, f"the input {cut(name)!r}")
        values: Any = document.get("data")
        size = parameters.get("binary_data_size")
        if size is None:
            if not isinstance(values, list):
                raise InvalidInput(f"The input {cut(name)!r} needs data: a list of values.")
        elif values is not None:
            raise InvalidInput(f"The input {cut(name)!r} has data and binary_data_size: send only one.")
        elif raw is None:
            raise InvalidInput(
                f"The input {cut(name)!r} has binary_data_size, but there is no header Inference-Header-Content-Length."
            )
        elif type(size) is not int or not 0 <= size <= len(raw) - position:
            raise InvalidInput(
                f"The input {cut(name)!r} has the binary_data_size {shown(size)}, and {len(raw) - position} bytes "
                "follow."
            )
        else:
            values = raw[position : position + size]
            position += size
        tensors.append(InputTensor(name, datatype, shape, values))
    if raw is not None and position < len(raw):
        raise InvalidInput(f"{len(raw) - position} bytes of the body belong to no input.")
    return tensors


def _outputs(documents: list[dict[str, Any]], binary: dict[str | None, bool]) -> list[str]:
    names = []
    for document in documents:
        name = document.get("name")
        if not isinstance(name, str):
            raise InvalidInput("Every output needs a name.")
        flag = _flag(_parameters(document, f"the output {cut(name)!r}"), "binary_data", f"the output {cut(name)!r}")
        if flag is not None:
            binary[name] = flag
        names.append(name)
    return names


def _objects(value: object, what: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise InvalidInput(f"{what} must be a list of objects.")
    return value


def _parameters(document: dict[str, Any], whose: str) -> dict[str, Any]:
    parameters = document.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise InvalidInput(f"The parameters of {whose} must be an object.")
    check_parameters(parameters, whose)
    return parameters


def _flag(parameters: dict[str, Any], name: str, whose: str) -> bool | None:
    flag = parameters.get(name)
    if flag is not None and not isinstance(flag, bool):
        raise InvalidInput(f"{name}, in the parameters of {whose}, must be true or false.")
    return flag
