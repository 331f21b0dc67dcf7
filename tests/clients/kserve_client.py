"""KServe's REST and gRPC clients."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import httpx
import pytest
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, InferResponse, RESTConfig
from kserve.protocol.infer_type import RequestedOutput

from contract import DATASETS
from tests.clients.forms import FORMS, Form, Outputs, check, decoded

IRIS = next(form for form in FORMS if form.model == "iris")
Call = Callable[[Any], Awaitable[Any]]


@pytest.fixture
def over_rest() -> Callable[[Call], Any]:
    """Run something with a REST client."""

    async def run(call: Call) -> Any:
        async with InferenceRESTClient(RESTConfig(protocol="v2", timeout=30)) as client:
            return await call(client)

    return lambda call: asyncio.run(run(call))


@pytest.fixture
def over_grpc(grpc_address: str) -> Callable[[Call], Any]:
    """Run something with a gRPC client."""

    async def run(call: Call) -> Any:
        async with InferenceGRPCClient(grpc_address, timeout=30) as client:
            return await call(client)

    return lambda call: asyncio.run(run(call))


def request(form: Form, *, binary: bool, names: list[str] | None = None, binary_out: bool = False) -> InferRequest:
    inputs = []
    for tensor in form.tensors:
        inputs.append(InferInput(tensor.name, tensor.shape, tensor.datatype))
        inputs[-1].set_data_from_numpy(tensor.values, binary_data=binary)
    outputs = [RequestedOutput(name, {"binary_data": binary_out}) for name in names or ()]
    return InferRequest(form.model, inputs, request_id="call-7", request_outputs=outputs)


def outputs(response: InferResponse) -> Outputs:
    return {output.name: decoded(output.as_numpy()) for output in response.outputs}


@pytest.mark.parametrize("binary_out", [True, False], ids=["binary-out", "json-out"])
@pytest.mark.parametrize("binary_in", [True, False], ids=["binary-in", "json-in"])
def test_rest_has_the_predictions_of_the_batch_route(
    over_rest: Any, api_url: str, answers: dict[Form, Outputs], binary_in: bool, binary_out: bool
) -> None:
    async def infer(client: InferenceRESTClient) -> list[InferResponse]:
        return [
            await client.infer(
                api_url,
                request(form, binary=binary_in, names=list(answers[form]), binary_out=binary_out),
                model_name=form.model,
            )
            for form in FORMS
        ]

    for form, response in zip(FORMS, over_rest(infer), strict=True):
        check(outputs(response), answers[form])
        assert (response.id, response.model_name) == ("call-7", form.model)


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
def test_grpc_has_the_predictions_of_the_batch_route(over_grpc: Any, answers: dict[Form, Outputs], raw: bool) -> None:
    async def infer(client: InferenceGRPCClient) -> list[InferResponse]:
        return [await client.infer(request(form, binary=raw)) for form in FORMS]

    for form, response in zip(FORMS, over_grpc(infer), strict=True):
        check(outputs(response), answers[form])
        assert (response.id, response.model_name) == ("call-7", form.model)


def test_outputs_are_selected(over_rest: Any, over_grpc: Any, api_url: str, answers: dict[Form, Outputs]) -> None:
    wanted = {name: answers[IRIS][name] for name in ("probabilities", "predict")}
    asked = request(IRIS, binary=False, names=list(wanted))
    check(outputs(over_rest(lambda client: client.infer(api_url, asked, model_name="iris"))), wanted)
    check(outputs(over_grpc(lambda client: client.infer(request(IRIS, binary=True, names=list(wanted))))), wanted)


def test_a_plain_dictionary_is_taken(over_rest: Any, api_url: str, answers: dict[Form, Outputs]) -> None:
    body = {
        "inputs": [
            {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape, "data": tensor.values.tolist()}
            for tensor in IRIS.tensors
        ]
    }
    response = over_rest(lambda client: client.infer(api_url, body, model_name="iris"))
    check(outputs(response), answers[IRIS])


def test_server_and_models_are_live_and_ready(over_rest: Any, over_grpc: Any, api_url: str) -> None:
    assert over_rest(lambda client: client.is_server_live(api_url)) is True
    assert over_rest(lambda client: client.is_server_ready(api_url)) is True
    assert over_grpc(lambda client: client.is_server_live()) is True
    assert over_grpc(lambda client: client.is_server_ready()) is True
    for model in DATASETS:
        assert over_rest(lambda client, model=model: client.is_model_ready(api_url, model)) is True
        assert over_grpc(lambda client, model=model: client.is_model_ready(model)) is True
    assert over_rest(lambda client: client.is_model_ready(api_url, "unheard-of")) is False
    assert over_grpc(lambda client: client.is_model_ready("unheard-of")) is False


def test_an_error_s_sentence_reaches_the_caller(over_rest: Any, over_grpc: Any, api_url: str) -> None:
    tensor = InferInput("input", [1, 4], "FP64", data=[5.1, 3.5, 1.4, 1000.0])
    refused = InferRequest("iris", [tensor])
    with pytest.raises(httpx.HTTPStatusError, match=r"petal_width.*1000.*400 Bad Request"):
        over_rest(lambda client: client.infer(api_url, refused, model_name="iris"))
    with pytest.raises(grpc.RpcError) as error:
        over_grpc(lambda client: client.infer(refused))
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "petal_width" in (error.value.details() or "")
