"""Keys over gRPC, with a real worker."""

from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from open_inference.grpc import protocol as pb
from open_inference.grpc.service import GRPCInferenceServiceStub

from contract.datasets.iris import IRIS
from serving.access import ATTEMPTS
from serving.keys import Ring, new_key
from serving.models import LoadedModel
from tests.serving.locked import KEYS, headers, settings_with_keys
from tests.serving.protocol.wire import message, tensor
from tests.serving.series import scrape
from tests.serving.worker import LocalWorker

API, ADMIN, METRICS = (KEYS[ring] for ring in (Ring.API, Ring.ADMIN, Ring.METRICS))
INFER = message("iris", tensor("x", np.array([list(IRIS.example.values())])))
METHODS = {
    "ServerMetadata": pb.ServerMetadataRequest(),
    "ModelMetadata": pb.ModelMetadataRequest(name="iris"),
    "ModelReady": pb.ModelReadyRequest(name="iris"),
    "ModelInfer": INFER,
}
Metadata = tuple[tuple[str, str], ...]


@pytest.fixture(scope="module")
def channel(locked: LocalWorker) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(locked.target) as opened:
        yield opened


@pytest.fixture(scope="module")
def stub(channel: grpc.Channel) -> GRPCInferenceServiceStub:
    return GRPCInferenceServiceStub(channel)


def metadata(key: str) -> Metadata:
    return tuple(headers(key).items())


def refused(call: Any, request: object, sent: Metadata = ()) -> tuple[str, str, dict[str, str]]:
    """The code, the sentence and the trailing metadata of a refusal."""
    with pytest.raises(grpc.RpcError) as raised:
        call(request, metadata=sent, timeout=20)
    error: Any = raised.value
    return error.code().name, error.details(), dict(error.trailing_metadata())


def test_probes_need_no_key(channel: grpc.Channel, stub: GRPCInferenceServiceStub) -> None:
    for sent in ((), metadata("wrong")):
        health: Any = HealthStub(channel)
        answer = health.Check(health_pb2.HealthCheckRequest(service="iris"), metadata=sent, timeout=20)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        watched = health.Watch(health_pb2.HealthCheckRequest(), metadata=sent, timeout=20)
        assert next(watched).status == health_pb2.HealthCheckResponse.SERVING
        watched.cancel()
        assert stub.ServerLive(pb.ServerLiveRequest(), metadata=sent, timeout=20).live
        assert stub.ServerReady(pb.ServerReadyRequest(), metadata=sent, timeout=20).ready


@pytest.mark.parametrize("method", METHODS)
def test_everything_else_needs_an_api_or_admin_key(stub: GRPCInferenceServiceStub, method: str) -> None:
    call, request = getattr(stub, method), METHODS[method]
    for key in (API, ADMIN):
        assert call(request, metadata=metadata(key), timeout=20)
    for sent, sentence in (((), "This needs a key"), (metadata(new_key()), "not known")):
        code, details, trailing = refused(call, request, sent)
        assert code == "UNAUTHENTICATED"
        assert sentence in details
        assert trailing["www-authenticate"] == "Bearer"
        assert trailing["x-request-id"]
    code, details, trailing = refused(call, request, (*metadata(METRICS), ("x-request-id", "order-9")))
    assert (code, trailing["x-request-id"]) == ("PERMISSION_DENIED", "order-9")
    assert "API_KEYS" in details
    assert "www-authenticate" not in trailing


def test_reflection_needs_a_key(channel: grpc.Channel) -> None:
    stub = ProtoReflectionDescriptorDatabase(channel)
    with pytest.raises(grpc.RpcError) as raised:
        stub.get_services()
    error: Any = raised.value
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("method", ["/inference.GRPCInferenceService/Nothing", "/shop.Orders/List"])
def test_a_method_that_is_not_there_is_told_to_those_with_a_key(channel: grpc.Channel, method: str) -> None:
    call: Any = channel.unary_unary(method)
    assert refused(call, b"")[0] == "UNAUTHENTICATED"
    assert refused(call, b"", metadata(API))[0] == "UNIMPLEMENTED"


def test_a_message_is_refused_before_it_is_read(channel: grpc.Channel) -> None:
    """Not one that is malformed, nor one that is larger than any may be."""
    call: Any = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    for content in (b"\xff" * 100, b"\xff" * 30_000_000):
        assert refused(call, content)[0] == "UNAUTHENTICATED"
    assert refused(call, b"\xff" * 100, metadata(API))[0] == "INVALID_ARGUMENT"


def test_wrong_keys_are_counted_and_then_slowed_down(locked: LocalWorker, stub: GRPCInferenceServiceStub) -> None:
    (_, address) = metadata("")

    def ask(key: str) -> tuple[str, str, dict[str, str]]:
        return refused(stub.ModelInfer, INFER, (("authorization", f"Bearer {key}"), address))

    with httpx.Client(base_url=locked.url, headers=headers(METRICS)) as client:
        before = scrape(client)
        answers = [ask(new_key()) for _ in range(ATTEMPTS + 1)]
        refused(stub.ModelInfer, INFER)
        after = scrape(client).since(before)
    assert [code for code, _, _ in answers] == ["UNAUTHENTICATED"] * ATTEMPTS + ["RESOURCE_EXHAUSTED"]
    assert 50 <= int(answers[-1][2]["retry-after"]) <= 60
    assert stub.ModelInfer(INFER, metadata=(("authorization", f"Bearer {API}"), address), timeout=20)
    # Over HTTP it has to wait too.
    told = httpx.get(locked.url, headers={"authorization": f"Bearer {new_key()}", address[0]: address[1]})
    assert told.status_code == 429
    reasons = dict(after.of("ml_access_refused_total", "reason", protocol="grpc").items())
    assert {name: count for name, count in reasons.items() if count} == {"unknown": 10, "limited": 1, "missing": 1}
    codes = after.of("grpc_server_handled_total", "grpc_code", grpc_method="ModelInfer", model="unknown")
    assert codes["UNAUTHENTICATED"] == ATTEMPTS + 1
    assert codes["RESOURCE_EXHAUSTED"] == 1


def test_without_api_keys_no_call_needs_one(loaded: dict[str, LoadedModel]) -> None:
    local = LocalWorker(loaded, settings_with_keys(Ring.ADMIN, Ring.METRICS))
    with local.running(), grpc.insecure_channel(local.target) as channel:
        stub = GRPCInferenceServiceStub(channel)
        assert stub.ModelInfer(INFER, timeout=20)
        assert stub.ModelInfer(INFER, metadata=metadata(new_key()), timeout=20)
