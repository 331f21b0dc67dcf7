"""MLServer's types and codecs: they produce requests that we take, and read what we answer."""

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pandas as pd
import pytest
import requests
from mlserver.codecs import NumpyCodec, NumpyRequestCodec, PandasCodec, StringCodec
from mlserver.grpc import dataplane_pb2, dataplane_pb2_grpc
from mlserver.grpc.converters import (
    ModelInferRequestConverter,
    ModelInferResponseConverter,
    ModelMetadataResponseConverter,
    ServerMetadataResponseConverter,
)
from mlserver.types import (
    InferenceErrorResponse,
    InferenceRequest,
    InferenceResponse,
    MetadataModelResponse,
    MetadataServerResponse,
    Parameters,
    RepositoryIndexResponse,
    RequestInput,
    RequestOutput,
)

from contract import DATASETS
from tests.clients.forms import FORMS, INTEGERS, Form, Outputs, check

pytestmark = pytest.mark.filterwarnings("ignore:The `construct` method:DeprecationWarning")  # mlserver's own call

IRIS = next(form for form in FORMS if form.model == "iris" and form.count == 7)
HOUSING = next(form for form in FORMS if form.model == "housing" and form.count == 7)


@pytest.fixture(scope="module")
def http() -> Iterator[requests.Session]:
    with requests.Session() as session:
        yield session


@pytest.fixture(scope="module")
def stub(grpc_address: str) -> Iterator[Any]:
    with grpc.insecure_channel(grpc_address) as channel:
        yield dataplane_pb2_grpc.GRPCInferenceServiceStub(channel)


def parsed(kind: Any, answer: requests.Response) -> Any:
    """An answer as MLServer's type, which holds all of it, and had to change nothing."""
    content = kind.model_validate_json(answer.content, strict=True)
    assert content.model_dump() == answer.json()
    return content


def infer(http: requests.Session, url: str, model: str, request: InferenceRequest) -> InferenceResponse:
    answer = http.post(
        f"{url}/v2/models/{model}/infer",
        data=request.model_dump_json(),
        headers={"Content-Type": "application/json"},
        timeout=30,
    )
    assert answer.status_code == 200, answer.text
    return parsed(InferenceResponse, answer)


def outputs(response: InferenceResponse) -> Outputs:
    """Outputs as MLServer's codecs decode them."""
    return {
        output.name: np.array([[text] for text in StringCodec.decode_output(output)], dtype=object)
        if output.datatype == "BYTES"
        else NumpyCodec.decode_output(output)
        for output in response.outputs
    }


def numpy_request(form: Form) -> InferenceRequest:
    """As MLServer's codec has it: flat data, ``[N]`` becomes ``[N, 1]``, and ``content_type`` among the parameters."""
    return InferenceRequest(inputs=[NumpyCodec.encode_input(tensor.name, tensor.values) for tensor in form.tensors])


def test_numpy_arrays_have_the_predictions_of_the_batch_route(
    http: requests.Session, api_url: str, form: Form, answers: dict[Form, Outputs]
) -> None:
    check(outputs(infer(http, api_url, form.model, numpy_request(form))), answers[form])


def test_nested_data_has_the_predictions_of_the_batch_route(
    http: requests.Session, api_url: str, form: Form, answers: dict[Form, Outputs]
) -> None:
    inputs = [
        RequestInput(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape, data=tensor.values.tolist())
        for tensor in form.tensors
    ]
    response = infer(http, api_url, form.model, InferenceRequest(id="call-7", inputs=inputs))
    check(outputs(response), answers[form])
    assert response.id == "call-7"


def test_a_data_frame_is_a_tensor_a_feature(
    http: requests.Session, api_url: str, form: Form, answers: dict[Form, Outputs]
) -> None:
    frame = pd.DataFrame(form.rows, columns=list(form.dataset.feature_names)).sample(frac=1, axis=1, random_state=0)
    request = PandasCodec.encode_request(frame, use_bytes=False)
    assert request.parameters.content_type == "pd"
    check(outputs(infer(http, api_url, form.model, request)), answers[form])


def test_outputs_are_selected_and_decode_into_a_data_frame(
    http: requests.Session, api_url: str, answers: dict[Form, Outputs]
) -> None:
    request = numpy_request(IRIS)
    request.outputs = [RequestOutput(name=name) for name in ("label", "predict")]
    frame = PandasCodec.decode_response(infer(http, api_url, "iris", request))
    assert list(frame) == ["label", "predict"]
    assert frame["label"].tolist() == answers[IRIS]["label"].ravel().tolist()
    assert frame["predict"].dtype == np.int64
    assert frame["predict"].tolist() == answers[IRIS]["predict"].ravel().tolist()


def test_one_output_decodes_as_a_whole_response(
    http: requests.Session, api_url: str, answers: dict[Form, Outputs]
) -> None:
    request = NumpyRequestCodec.encode_request(HOUSING.rows)
    array = NumpyRequestCodec.decode_response(infer(http, api_url, "housing", request))
    assert (array == answers[HOUSING]["predict"]).all()
    assert array.shape == (7, 1)


def test_parameters_of_every_level_are_taken(
    http: requests.Session, api_url: str, answers: dict[Form, Outputs]
) -> None:
    request = numpy_request(IRIS)
    request.parameters = Parameters(content_type="np", headers={"X-Request": "7"})
    request.outputs = [RequestOutput(name="label", parameters=Parameters(content_type="str"))]
    check(outputs(infer(http, api_url, "iris", request)), {"label": answers[IRIS]["label"]})


def test_metadata_is_of_their_types(http: requests.Session, api_url: str) -> None:
    server = parsed(MetadataServerResponse, http.get(f"{api_url}/v2", timeout=30))
    assert server.name == "ml_prediction_bundle"
    for model in INTEGERS:
        dataset = DATASETS[model]
        metadata = parsed(MetadataModelResponse, http.get(f"{api_url}/v2/models/{model}", timeout=30))
        assert metadata.name == model
        assert metadata.inputs[0].parameters.feature_names == list(dataset.feature_names)
    index = parsed(RepositoryIndexResponse, http.post(f"{api_url}/v2/repository/index", json={}, timeout=30))
    assert {model.name for model in index} == set(DATASETS)


def test_what_metadata_advertises_is_what_is_answered(http: requests.Session, api_url: str) -> None:
    for form in (HOUSING, IRIS):
        metadata = parsed(MetadataModelResponse, http.get(f"{api_url}/v2/models/{form.model}", timeout=30))
        response = infer(http, api_url, form.model, numpy_request(form))
        assert [(output.name, output.datatype, [-1, *output.shape[1:]]) for output in response.outputs] == [
            (output.name, output.datatype, output.shape) for output in metadata.outputs
        ]
        assert [response.model_version] == metadata.versions


def test_an_error_is_of_their_type(http: requests.Session, api_url: str) -> None:
    answer = http.post(f"{api_url}/v2/models/iris/infer", json={"inputs": []}, timeout=30)
    assert answer.status_code == 400
    assert "iris takes one tensor [N, 4]" in parsed(InferenceErrorResponse, answer).error


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
def test_their_grpc_messages_have_the_predictions_of_the_batch_route(
    stub: Any, form: Form, answers: dict[Form, Outputs], raw: bool
) -> None:
    message = ModelInferRequestConverter.from_types(numpy_request(form), form.model, use_raw=raw)
    response = ModelInferResponseConverter.to_types(stub.ModelInfer(message))
    check(outputs(response), answers[form])


def test_their_grpc_stubs_read_the_metadata(stub: Any) -> None:
    server = ServerMetadataResponseConverter.to_types(stub.ServerMetadata(dataplane_pb2.ServerMetadataRequest()))
    assert server.name == "ml_prediction_bundle"
    for model in INTEGERS:
        dataset = DATASETS[model]
        answer = stub.ModelMetadata(dataplane_pb2.ModelMetadataRequest(name=model))
        metadata = ModelMetadataResponseConverter.to_types(answer)
        assert metadata.inputs[0].shape == [-1, len(dataset.features)]
