"""Triton's gRPC client: raw contents, typed contents through its stubs, its asynchronous client."""

import asyncio
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from contract import DATASETS
from tests.clients.forms import FORMS, Array, Form, Outputs, check, decoded

CONTENTS = {"FP64": "fp64", "FP32": "fp32", "INT64": "int64", "UINT64": "uint64"}


@pytest.fixture(scope="module")
def client(grpc_address: str) -> Iterator[Any]:
    with triton.InferenceServerClient(grpc_address) as opened:
        yield opened


@pytest.fixture(scope="module")
def stub(grpc_address: str) -> Iterator[Any]:
    with grpc.insecure_channel(grpc_address) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def inputs(form: Form) -> list[Any]:
    made = []
    for tensor in form.tensors:
        made.append(triton.InferInput(tensor.name, tensor.shape, tensor.datatype))
        made[-1].set_data_from_numpy(tensor.values)
    return made


def outputs(result: Any) -> Outputs:
    names = [output.name for output in result.get_response().outputs]
    return {name: decoded(result.as_numpy(name)) for name in names}


def field(datatype: str) -> str:
    """The field of typed contents for a datatype: small integers are in the 32-bit ones."""
    return CONTENTS.get(datatype, "uint" if datatype.startswith("U") else "int") + "_contents"


def typed(form: Form) -> Any:
    request = service_pb2.ModelInferRequest(model_name=form.model, id="call-7")
    for tensor in form.tensors:
        added = request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        getattr(added.contents, field(tensor.datatype)).extend(tensor.values.ravel().tolist())
    return request


def typed_outputs(response: Any) -> Outputs:
    assert not response.raw_output_contents
    return {output.name: typed_output(output) for output in response.outputs}


def typed_output(output: Any) -> Array:
    if output.datatype == "BYTES":
        values = np.array([element.decode() for element in output.contents.bytes_contents], dtype=object)
    else:
        dtype = {"FP64": np.float64, "INT64": np.int64}[output.datatype]
        values = np.array(getattr(output.contents, field(output.datatype)), dtype=dtype)
    return values.reshape(output.shape)


def test_raw_contents_have_the_predictions_of_the_batch_route(
    client: Any, form: Form, answers: dict[Form, Outputs]
) -> None:
    result = client.infer(form.model, inputs(form), request_id="call-7")
    check(outputs(result), answers[form])
    assert result.get_response().id == "call-7"


def test_typed_contents_have_the_predictions_of_the_batch_route(
    stub: Any, form: Form, answers: dict[Form, Outputs]
) -> None:
    response = stub.ModelInfer(typed(form))
    check(typed_outputs(response), answers[form])
    assert response.id == "call-7"


def test_outputs_are_selected(client: Any, answers: dict[Form, Outputs]) -> None:
    form = next(form for form in FORMS if form.model == "iris")
    names = ["probabilities", "label"]
    result = client.infer("iris", inputs(form), outputs=[triton.InferRequestedOutput(name) for name in names])
    check(outputs(result), {name: answers[form][name] for name in names})


def test_many_at_once_get_each_its_own(client: Any, answers: dict[Form, Outputs]) -> None:
    done: SimpleQueue[tuple[Form, Any, Any]] = SimpleQueue()
    for form in FORMS:
        client.async_infer(form.model, inputs(form), lambda result, error, form=form: done.put((form, result, error)))
    for _ in FORMS:
        form, result, error = done.get(timeout=30)
        assert error is None
        check(outputs(result), answers[form])


def test_the_asynchronous_client_gets_each_its_own(grpc_address: str, answers: dict[Form, Outputs]) -> None:
    async def infer() -> list[Any]:
        async with tritonclient.grpc.aio.InferenceServerClient(grpc_address) as client:
            assert await client.is_server_ready()
            return await asyncio.gather(*(client.infer(form.model, inputs(form)) for form in FORMS))

    for form, result in zip(FORMS, asyncio.run(infer()), strict=True):
        check(outputs(result), answers[form])


def test_a_version_is_found_by_the_metadata_and_answers(client: Any, answers: dict[Form, Outputs]) -> None:
    for form in (FORMS[0], FORMS[-1]):
        (version,) = client.get_model_metadata(form.model).versions
        result = client.infer(form.model, inputs(form), model_version=version)
        assert result.get_response().model_version == version
        check(outputs(result), answers[form])


def test_a_compressed_request_is_taken(client: Any, answers: dict[Form, Outputs]) -> None:
    # gRPC itself decompresses; only HTTP has no compression.
    form = FORMS[-1]
    check(outputs(client.infer(form.model, inputs(form), compression_algorithm="gzip")), answers[form])


def test_triton_s_request_parameters_are_accepted(client: Any, answers: dict[Form, Outputs]) -> None:
    form = FORMS[0]
    extras = {"priority": 1, "timeout": 1_000_000, "client_timeout": 10, "parameters": {"content_type": "np"}}
    check(outputs(client.infer(form.model, inputs(form), **extras)), answers[form])


def test_a_refused_value_is_told_with_row_and_feature(client: Any) -> None:
    tensor = triton.InferInput("input", [2, 4], "FP64")
    tensor.set_data_from_numpy(np.array([[5.1, 3.5, 1.4, 0.2], [5.1, np.nan, 1.4, 0.2]]))
    with pytest.raises(InferenceServerException, match=r"sepal_width.*row 1") as refused:
        client.infer("iris", [tensor])
    assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_server_and_models_are_live_and_ready(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    for model in DATASETS:
        (version,) = client.get_model_metadata(model).versions
        assert client.is_model_ready(model)
        assert client.is_model_ready(model, version)


@pytest.mark.parametrize(("model", "version"), [("unknown", ""), ("unknown", "1"), ("iris", "unknown")])
def test_a_model_or_version_that_is_not_served_is_not_ready(client: Any, model: str, version: str) -> None:
    assert not client.is_model_ready(model, version)


def test_metadata(client: Any) -> None:
    assert client.get_server_metadata().name == "ml_prediction_bundle"
    (tensor,) = client.get_model_metadata("housing").inputs
    assert (tensor.name, tensor.datatype, list(tensor.shape)) == ("input", "FP64", [-1, 8])
    outputs = client.get_model_metadata("iris").outputs
    assert [(output.name, output.datatype, list(output.shape)) for output in outputs] == [
        ("predict", "INT64", [-1, 1]),
        ("label", "BYTES", [-1, 1]),
        ("probabilities", "FP64", [-1, 3]),
    ]


@pytest.mark.parametrize("method", ["get_model_repository_index", "get_log_settings"])
def test_methods_of_triton_alone_are_unimplemented(client: Any, method: str) -> None:
    with pytest.raises(InferenceServerException) as refused:
        getattr(client, method)()
    assert refused.value.status() == "StatusCode.UNIMPLEMENTED"
