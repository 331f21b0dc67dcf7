"""Triton's HTTP client: JSON and raw bytes, each way."""

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio
from tritonclient.utils import InferenceServerException

from contract import DATASETS
from tests.clients.forms import FORMS, Form, Outputs, check, decoded

SERVER = "ml_prediction_bundle"


@pytest.fixture(scope="module")
def client(api_url: str) -> Iterator[Any]:
    with triton.InferenceServerClient(api_url.removeprefix("http://"), concurrency=4) as opened:
        yield opened


def inputs(form: Form, *, binary: bool) -> list[Any]:
    made = []
    for tensor in form.tensors:
        made.append(triton.InferInput(tensor.name, tensor.shape, tensor.datatype))
        made[-1].set_data_from_numpy(tensor.values, binary_data=binary)
    return made


def requested(names: list[str], *, binary: bool) -> list[Any]:
    return [triton.InferRequestedOutput(name, binary_data=binary) for name in names]


def outputs(result: Any) -> Outputs:
    names = [output["name"] for output in result.get_response()["outputs"]]
    return {name: decoded(result.as_numpy(name)) for name in names}


@pytest.mark.parametrize("binary_out", [True, False], ids=["binary-out", "json-out"])
@pytest.mark.parametrize("binary_in", [True, False], ids=["binary-in", "json-in"])
def test_every_form_has_the_predictions_of_the_batch_route(
    client: Any, form: Form, answers: dict[Form, Outputs], binary_in: bool, binary_out: bool
) -> None:
    asked = requested(list(answers[form]), binary=binary_out)
    result = client.infer(form.model, inputs(form, binary=binary_in), outputs=asked, request_id="call-7")
    check(outputs(result), answers[form])
    assert result.get_response()["id"] == "call-7"
    for output in result.get_response()["outputs"]:
        assert ("data" in output) is not binary_out


def test_without_outputs_all_come_as_bytes(client: Any, form: Form, answers: dict[Form, Outputs]) -> None:
    result = client.infer(form.model, inputs(form, binary=True))
    check(outputs(result), answers[form])
    assert all("binary_data_size" in output["parameters"] for output in result.get_response()["outputs"])


def test_outputs_are_selected_each_in_its_own_way(client: Any, answers: dict[Form, Outputs]) -> None:
    form = next(form for form in FORMS if form.model == "iris")
    asked = [*requested(["probabilities"], binary=True), *requested(["label"], binary=False)]
    result = client.infer("iris", inputs(form, binary=False), outputs=asked)
    check(outputs(result), {name: answers[form][name] for name in ("probabilities", "label")})
    first, second = result.get_response()["outputs"]
    assert "data" not in first
    assert second["data"] == ["setosa"]


def test_many_at_once_get_each_its_own(client: Any, answers: dict[Form, Outputs]) -> None:
    calls = [(form, client.async_infer(form.model, inputs(form, binary=True))) for form in FORMS]
    for form, call in calls:
        check(outputs(call.get_result()), answers[form])


def test_the_asynchronous_client_gets_each_its_own(api_url: str, answers: dict[Form, Outputs]) -> None:
    async def infer() -> list[Any]:
        async with tritonclient.http.aio.InferenceServerClient(api_url.removeprefix("http://")) as client:
            return await asyncio.gather(*(client.infer(form.model, inputs(form, binary=True)) for form in FORMS))

    for form, result in zip(FORMS, asyncio.run(infer()), strict=True):
        check(outputs(result), answers[form])


def test_a_version_is_found_by_the_metadata_and_answers(client: Any, answers: dict[Form, Outputs]) -> None:
    for form in (FORMS[0], FORMS[-1]):
        (version,) = client.get_model_metadata(form.model)["versions"]
        result = client.infer(form.model, inputs(form, binary=True), model_version=version)
        assert result.get_response()["model_version"] == version
        check(outputs(result), answers[form])


@pytest.mark.parametrize("binary", [True, False])
def test_a_request_compressed_with_gzip_is_answered(
    client: Any, form: Form, answers: dict[Form, Outputs], binary: bool
) -> None:
    result = client.infer(form.model, inputs(form, binary=binary), request_compression_algorithm="gzip")
    check(outputs(result), answers[form])


def test_a_request_compressed_otherwise_is_refused_clearly(client: Any) -> None:
    with pytest.raises(InferenceServerException, match="may be compressed with gzip, not with deflate") as refused:
        client.infer("iris", inputs(FORMS[-1], binary=True), request_compression_algorithm="deflate")
    assert refused.value.status() == "415"


def test_a_compressed_response_is_not_given_and_not_needed(client: Any, answers: dict[Form, Outputs]) -> None:
    form = FORMS[-1]
    result = client.infer(form.model, inputs(form, binary=True), response_compression_algorithm="gzip")
    check(outputs(result), answers[form])


def test_triton_s_request_parameters_are_accepted(client: Any, answers: dict[Form, Outputs]) -> None:
    form = FORMS[0]
    extras = {"priority": 1, "timeout": 1_000_000, "parameters": {"content_type": "np"}}
    check(outputs(client.infer(form.model, inputs(form, binary=True), **extras)), answers[form])


def test_a_refused_value_is_told_with_row_and_feature(client: Any) -> None:
    tensor = triton.InferInput("input", [2, 4], "FP64")
    tensor.set_data_from_numpy(np.array([[5.1, 3.5, 1.4, 0.2], [5.1, np.nan, 1.4, 0.2]]))
    with pytest.raises(InferenceServerException, match=r"sepal_width.*row 1") as refused:
        client.infer("iris", [tensor])
    assert refused.value.status() == "400"


def test_server_and_models_are_live_and_ready(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    for model in DATASETS:
        (version,) = client.get_model_metadata(model)["versions"]
        assert client.is_model_ready(model)
        assert client.is_model_ready(model, version)
        assert not client.is_model_ready(model, "0")
    assert not client.is_model_ready("unheard-of")


def test_metadata(client: Any) -> None:
    assert client.get_server_metadata()["name"] == SERVER
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    housing = client.get_model_metadata("housing")
    (tensor,) = housing["inputs"]
    assert (tensor["name"], tensor["datatype"], tensor["shape"]) == ("input", "FP64", [-1, 8])
    assert tensor["parameters"]["feature_names"] == list(DATASETS["housing"].feature_names)
    assert [(output["name"], output["datatype"], output["shape"]) for output in housing["outputs"]] == [
        ("predict", "FP64", [-1, 1])
    ]
    iris = client.get_model_metadata("iris")
    assert [(output["name"], output["datatype"], output["shape"]) for output in iris["outputs"]] == [
        ("predict", "INT64", [-1, 1]),
        ("label", "BYTES", [-1, 1]),
        ("probabilities", "FP64", [-1, 3]),
    ]


def test_the_repository_index_lists_the_models(client: Any) -> None:
    index = client.get_model_repository_index()
    assert {(model["name"], model["state"]) for model in index} == {(name, "READY") for name in DATASETS}


def test_triton_s_model_configuration_is_not_served_and_that_is_told(client: Any) -> None:
    with pytest.raises(InferenceServerException, match="There is no /v2/models/iris/config") as refused:
        client.get_model_config("iris")
    assert refused.value.status() == "404"
