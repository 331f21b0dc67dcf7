"""gRPC of the real service, through the stubs, health and reflection of published packages."""

from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from open_inference.grpc import protocol as pb
from open_inference.grpc.service import GRPCInferenceServiceStub

from contract import DATASETS
from contract.dataset import Dataset
from contract.datasets.housing import HOUSING
from contract.datasets.iris import IRIS
from tests.serving.protocol.wire import message, predictions, refusal, rows_of, tensor, values_name, whole
from tests.serving.series import scrape

OF_NUMBERS = pytest.mark.parametrize("dataset", [HOUSING, IRIS], ids=lambda dataset: dataset.name)
SERVICE = "inference.GRPCInferenceService"
SERVING = health_pb2.HealthCheckResponse.SERVING


def values(answer: pb.ModelInferResponse, name: str) -> Any:
    """An output of numbers, in the form it came in."""
    index, found = next((index, one) for index, one in enumerate(answer.outputs) if one.name == name)
    if answer.raw_output_contents:
        assert not found.HasField("contents")
        flat = np.frombuffer(answer.raw_output_contents[index], {"FP64": "<f8", "INT64": "<i8"}[found.datatype])
    else:
        flat = np.array(found.contents.fp64_contents or found.contents.int64_contents)
    return flat.reshape(found.shape)


@OF_NUMBERS
@pytest.mark.parametrize("count", [1, 3, 100])
@pytest.mark.parametrize("form", ["matrix", "columns", "columns [N, 1]", "FP32"])
@pytest.mark.parametrize("raw", [True, False])
def test_every_form_of_the_same_rows_has_the_same_answer(
    client: httpx.Client, stub: GRPCInferenceServiceStub, dataset: Dataset, count: int, form: str, raw: bool
) -> None:
    rows = rows_of(dataset, count)
    shaped = rows[:, :, None] if form == "columns [N, 1]" else rows
    columns = [tensor(name, shaped[:, index]) for index, name in enumerate(dataset.feature_names)]
    inputs = {"matrix": [tensor("x", rows)], "FP32": [tensor("x", rows, "FP32")]}.get(form, columns[::-1])
    answer = stub.ModelInfer(message(dataset.name, *inputs, raw=raw), timeout=20)
    assert bool(answer.raw_output_contents) is raw
    wanted = np.reshape(predictions(client, dataset, rows), (count, -1)).tolist()
    assert values(answer, values_name(dataset)).tolist() == wanted


@OF_NUMBERS
@pytest.mark.parametrize("datatype", ["INT64", "INT32"])
@pytest.mark.parametrize("raw", [True, False])
def test_whole_numbers_may_come_as_integers(
    client: httpx.Client, stub: GRPCInferenceServiceStub, dataset: Dataset, datatype: str, raw: bool
) -> None:
    rows = whole(dataset, 4)
    answer = stub.ModelInfer(message(dataset.name, tensor("x", rows.astype(int), datatype), raw=raw), timeout=20)
    wanted = np.reshape(predictions(client, dataset, rows), (4, -1)).tolist()
    assert values(answer, values_name(dataset)).tolist() == wanted


@pytest.mark.parametrize("raw", [True, False])
def test_outputs_are_those_asked_for(stub: GRPCInferenceServiceStub, stored: dict[str, str], raw: bool) -> None:
    asked = [pb.ModelInferRequest.InferRequestedOutputTensor(name=name) for name in ("label", "predict")]
    request = message("iris", tensor("x", rows_of(IRIS, 3)), raw=raw, id="mine", outputs=asked)
    answer = stub.ModelInfer(request, timeout=20)
    assert (answer.model_name, answer.model_version, answer.id) == ("iris", stored["iris"], "mine")
    assert [(one.name, one.datatype, list(one.shape)) for one in answer.outputs] == [
        ("label", "BYTES", [3, 1]),
        ("predict", "INT64", [3, 1]),
    ]
    wanted = [IRIS.target.classes[index].encode() for index in values(answer, "predict").ravel()]
    if raw:
        content = answer.raw_output_contents[0]
        assert content == b"".join(len(one).to_bytes(4, "little") + one for one in wanted)
    else:
        assert list(answer.outputs[0].contents.bytes_contents) == wanted


def test_the_server_and_its_models_tell_what_they_are(
    client: httpx.Client, stub: GRPCInferenceServiceStub, stored: dict[str, str]
) -> None:
    assert stub.ServerLive(pb.ServerLiveRequest(), timeout=20).live
    assert stub.ServerReady(pb.ServerReadyRequest(), timeout=20).ready
    server = stub.ServerMetadata(pb.ServerMetadataRequest(), timeout=20)
    told = client.get("/v2").json()
    assert (server.name, server.version, list(server.extensions)) == (
        told["name"],
        told["version"],
        told["extensions"],
    )
    for version in ("", stored["iris"]):
        assert stub.ModelReady(pb.ModelReadyRequest(name="iris", version=version), timeout=20).ready
        model = stub.ModelMetadata(pb.ModelMetadataRequest(name="iris", version=version), timeout=20)
        document = client.get("/v2/models/iris").json()
        assert (model.name, list(model.versions), model.platform) == ("iris", [stored["iris"]], document["platform"])
        for kind in ("inputs", "outputs"):
            assert [(one.name, one.datatype, list(one.shape)) for one in getattr(model, kind)] == [
                (one["name"], one["datatype"], one["shape"]) for one in document[kind]
            ]


@pytest.mark.parametrize(("name", "version"), [("unknown", ""), ("unknown", "1"), ("iris", "9"), ("", "")])
def test_a_model_or_version_that_is_not_served_is_not_ready_and_not_found(
    stub: GRPCInferenceServiceStub, name: str, version: str
) -> None:
    assert not stub.ModelReady(pb.ModelReadyRequest(name=name, version=version), timeout=20).ready
    code, sentence = refusal(
        lambda: stub.ModelMetadata(pb.ModelMetadataRequest(name=name, version=version), timeout=20)
    )
    assert code is grpc.StatusCode.NOT_FOUND
    assert sentence


@pytest.mark.parametrize("service", ["", SERVICE, *DATASETS])
def test_health_is_told_for_the_server_and_each_model(channel: grpc.Channel, service: str) -> None:
    stub: Any = HealthStub(channel)  # the published types lack its methods
    request = health_pb2.HealthCheckRequest(service=service)
    assert stub.Check(request, timeout=20).status == SERVING
    watch = stub.Watch(request, timeout=20)
    assert next(watch).status == SERVING
    watch.cancel()


def test_the_health_of_what_is_not_there_is_unknown(channel: grpc.Channel) -> None:
    stub: Any = HealthStub(channel)  # the published types lack its methods
    request = health_pb2.HealthCheckRequest(service="unknown")
    code, _ = refusal(lambda: stub.Check(request, timeout=20))
    assert code is grpc.StatusCode.NOT_FOUND
    watch = stub.Watch(request, timeout=20)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    watch.cancel()


def test_reflection_describes_every_service(channel: grpc.Channel) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)
    assert set(database.get_services()) == {
        SERVICE,
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    found = DescriptorPool(database).FindServiceByName(SERVICE)
    assert {method.name for method in found.methods} == {
        "ServerLive",
        "ServerReady",
        "ModelReady",
        "ServerMetadata",
        "ModelMetadata",
        "ModelInfer",
    }
    assert "raw_input_contents" in found.methods_by_name["ModelInfer"].input_type.fields_by_name


def test_calls_are_counted_by_method_model_and_code(client: httpx.Client, stub: GRPCInferenceServiceStub) -> None:
    requests = {
        ("iris", "OK"): message("iris", tensor("x", rows_of(IRIS, 1))),
        ("iris", "INVALID_ARGUMENT"): message("iris", tensor("x", rows_of(IRIS, 1) * 1000)),
        ("unknown", "NOT_FOUND"): message("made up", tensor("x", rows_of(IRIS, 1))),
    }
    before = scrape(client)
    for (_, code), request in requests.items():
        for _ in range(3):
            assert stub.ModelInfer.future(request, timeout=20).code().name == code
    after = scrape(client)
    grown = after.since(before)
    for name in ("grpc_server_handled_total", "grpc_server_handling_seconds_count"):
        for model, code in requests:
            labels = {"grpc_service": SERVICE, "grpc_method": "ModelInfer", "grpc_code": code, "model": model}
            assert grown.value(name, **labels) == 3
    assert after.value("grpc_server_in_progress", grpc_method="ModelInfer") == 0
    assert "made up" not in client.get("/metrics").text


def test_callers_of_grpc_count_as_those_of_http_do(client: httpx.Client, stub: GRPCInferenceServiceStub) -> None:
    """Requests, codes, duration, in progress: BentoML has them for HTTP, and we for gRPC."""
    stub.ModelInfer(message("iris", tensor("x", rows_of(IRIS, 1))), timeout=20)
    client.post("/v2/models/iris/infer", json={"inputs": [tensor("x", rows_of(IRIS, 1))]}).raise_for_status()
    told = {
        *("bentoml_service_request_total", "grpc_server_handled_total"),
        *("bentoml_service_request_duration_seconds_bucket", "grpc_server_handling_seconds_bucket"),
        *("bentoml_service_request_in_progress", "grpc_server_in_progress"),
    }
    assert told <= {name for name, _ in scrape(client).samples}
