"""The Open Inference Protocol over gRPC: ``inference.GRPCInferenceService``, with health and reflection.

https://github.com/open-inference/open-inference-protocol/blob/main/specification/protocol/open_inference_grpc.proto
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from time import perf_counter
from typing import Any
from urllib.parse import unquote

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from open_inference.grpc import protocol as pb

from contract.errors import BundleError, InvalidInput, StartupError
from serving.access import HEADER, Access, Gate, Proxies, Refusal
from serving.background import Background
from serving.errors import (
    INTERNAL_ERROR,
    DeadlineExceeded,
    MethodNotAllowed,
    NotFound,
    NotReady,
    NotReceived,
    Overloaded,
    PayloadTooLarge,
    PermissionDenied,
    TooManyAttempts,
    Unauthenticated,
    UnsupportedMediaType,
    error_headers,
    sentence,
)
from serving.http.body import SMALL_BYTES
from serving.protocol import health
from serving.protocol.grpc_body import check_fields, read_request, write_response
from serving.protocol.inference import Inference
from serving.protocol.receiving import Receiver
from serving.protocol.waiting import LISTENERS, Waiting
from serving.settings import Settings
from serving.telemetry import UNKNOWN, request_id
from serving.telemetry.call import CLIENT_CLOSED_REQUEST, Call, Endpoint, grpc_counter
from serving.telemetry.request_log import RequestLog
from serving.tls import HANDSHAKE_SECONDS, Tls

SERVICE = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
Context = grpc.aio.ServicerContext[bytes, bytes]
Method = Callable[[Any, Call], Awaitable[Message]]
"""Answers the message of one call."""

COUNT_SECONDS = 1.0
"""Seconds between two counts of calls that the core has dropped."""
PROBES = (f"/{health.NAME}/", f"/{SERVICE.full_name}/ServerLive", f"/{SERVICE.full_name}/ServerReady")
"""The methods that need no key begin with one of these."""

STATUS_CODES: dict[type[BundleError], grpc.StatusCode] = {
    Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    TooManyAttempts: grpc.StatusCode.RESOURCE_EXHAUSTED,
    InvalidInput: grpc.StatusCode.INVALID_ARGUMENT,
    UnsupportedMediaType: grpc.StatusCode.INVALID_ARGUMENT,
    NotFound: grpc.StatusCode.NOT_FOUND,
    MethodNotAllowed: grpc.StatusCode.UNIMPLEMENTED,
    PayloadTooLarge: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    NotReady: grpc.StatusCode.UNAVAILABLE,
    DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
}
"""The status code of an error; INTERNAL for all others. Its sentence goes with it as the details."""


class GrpcServer:
    """The gRPC server of one worker; all workers listen on one port. Without ``tls`` it speaks plain text."""

    def __init__(self, inference: Inference, settings: Settings, gate: Gate, tls: Tls | None = None) -> None:
        self._inference = inference
        self._settings = settings
        self._gate = gate
        self._tls = tls
        self._proxies = Proxies(settings.FORWARDED_ALLOW_IPS)
        self._log = RequestLog(settings.SLOW_REQUEST_MS / 1000)
        self._waiting = Waiting(settings)
        self._counting = Background()
        self._receiver = Receiver(settings.GRPC_MAX_MESSAGE_BYTES)
        self._health = health.HealthServicer([SERVICE.full_name, *inference.models])
        self._servers: list[grpc.aio.Server] = []
        self._endpoints: dict[tuple[str, str], Endpoint] = {}

    async def start(self) -> None:
        """Bind the port, listen and report SERVING. A call may arrive at once: all that answers it must be ready.

        Raises:
            StartupError: the port cannot be bound.
        """
        for _ in range(LISTENERS):
            server = self._listener()
            await server.start()
            self._servers.append(server)
        self._counting.start(self._count())

    def drain(self) -> None:
        """Report NOT_SERVING. Calls that still arrive are answered."""
        self._health.drain()

    async def stop(self, grace_seconds: float) -> None:
        """Report NOT_SERVING, refuse new calls, and give calls in flight this long to finish."""
        self._health.close()
        await asyncio.gather(*(server.stop(grace_seconds) for server in self._servers))
        await self._counting.stop()

    async def _count(self) -> None:
        while True:
            await asyncio.sleep(COUNT_SECONDS)
            self._waiting.count()

    def _listener(self) -> grpc.aio.Server:
        server = grpc.aio.server(
            options=[
                ("grpc.so_reuseport", 1),
                ("grpc.max_receive_message_length", self._settings.GRPC_MAX_MESSAGE_BYTES),
                *self._waiting.options,
                *_keepalive(self._settings.GRPC_KEEPALIVE_SECONDS),
                *([] if self._tls is None else [("grpc.server_handshake_timeout_ms", int(HANDSHAKE_SECONDS * 1000))]),
            ]
        )
        # The generated code of health and reflection adds each method twice: as a generic and as a registered handler.
        # At every call, grpc.aio waits anew for each registered method, which takes 4 % of an empty call.
        server.add_registered_method_handlers = _register_none  # type: ignore[method-assign]
        server.add_generic_rpc_handlers((self._waiting.taken,))
        if self._gate.needs_key(Access.API):
            # It comes first: the first handler that accepts a call gets it.
            server.add_generic_rpc_handlers((_Refuse(self._gate, self._refuse),))
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE.full_name, self._handlers()),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection((SERVICE.full_name, health.NAME, reflection.SERVICE_NAME), server)
        host, port = self._settings.API_HOST, self._settings.GRPC_PORT
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            if self._tls is None:
                server.add_insecure_port(address)
            else:
                server.add_secure_port(address, self._tls.grpc_credentials())
        except RuntimeError as error:
            raise StartupError(f"gRPC cannot listen on {host}:{port} (GRPC_PORT): {error}") from error
        return server

    def _handlers(self) -> "dict[str, grpc.RpcMethodHandler[bytes, bytes]]":
        methods: dict[str, Method] = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._model_infer,
        }
        # Handlers take and give bytes: gRPC itself would answer a message that does not parse with a server error. They
        # are declared as if messages streamed in, so that each is read when we ask for it.
        return {
            name: grpc.stream_unary_rpc_method_handler(partial(self._call, name, getattr(pb, f"{name}Request"), method))
            for name, method in methods.items()
        }

    async def _call(self, name: str, request_type: type[Message], method: Method, _: object, context: Context) -> bytes:
        """Answer one call, with its request id. An error becomes a status code and one sentence."""
        started = perf_counter()
        asked = next((value for key, value in context.invocation_metadata() or () if key == request_id.HEADER), None)
        request: Any = None
        try:
            request = _parse(request_type, await self._receiver.read(context))
            model = self._model_label(request)
        except (InvalidInput, NotReceived) as error:
            model, method = UNKNOWN, partial(_refuse, error)
        endpoint = self._endpoint(name, model)
        code, details, headers, content = grpc.StatusCode.OK, "", {}, b""
        with Call(endpoint, asked if isinstance(asked, str) else None, self._log, started) as call:
            try:
                content = (await method(request, call)).SerializeToString()
                call.status = 200
            except BundleError as error:
                code, details, headers = _status_code(error), sentence(error), error_headers(error)
                # Drop the traceback: its frames refer to the call, which refers to the error.
                call.status, call.error = error.status, error.with_traceback(None)
            except asyncio.CancelledError:
                expired = context.time_remaining() == 0
                code = grpc.StatusCode.DEADLINE_EXCEEDED if expired else grpc.StatusCode.CANCELLED
                call.status = DeadlineExceeded.status if expired else CLIENT_CLOSED_REQUEST
                raise
            except Exception as error:  # noqa: BLE001 - our bug: logged with its stack, answered with a status
                code, details = grpc.StatusCode.INTERNAL, INTERNAL_ERROR
                call.status, call.error = BundleError.status, error
            finally:
                call.code = code.name
        trailing = ((request_id.HEADER, call.request_id), *((key.lower(), value) for key, value in headers.items()))
        if code is not grpc.StatusCode.OK:
            await context.abort(code, details, trailing)
        context.set_trailing_metadata(trailing)
        return content

    async def _refuse(self, method: str, refusal: Refusal, _: object, context: Context) -> None:
        """Answer a call that may not pass. Its message is not read, so its model is unknown."""
        metadata = context.invocation_metadata() or ()
        told = [value for key, value in metadata if key == "x-forwarded-for" and isinstance(value, str)]
        client = self._proxies.client(_peer_address(context.peer()), told)
        error = self._gate.count(refusal, client, "grpc")
        asked = next((value for key, value in metadata if key == request_id.HEADER), None)
        name = method.removeprefix(f"/{SERVICE.full_name}/")
        # Only calls of our own methods are counted; reflection and unknown methods are not.
        endpoint = self._endpoint(name, UNKNOWN) if name in SERVICE.methods_by_name else Endpoint(UNKNOWN, "grpc")
        code = _status_code(error)
        with Call(endpoint, asked if isinstance(asked, str) else None, self._log) as call:
            call.status, call.error, call.code = error.status, error, code.name
        headers = error_headers(error)
        trailing = ((request_id.HEADER, call.request_id), *((key.lower(), value) for key, value in headers.items()))
        await context.abort(code, sentence(error), trailing)

    def _endpoint(self, method: str, model: str) -> Endpoint:
        """The endpoint of a method and a model. Only known methods and models get here, so the cache stays small."""
        if (method, model) not in self._endpoints:
            predictor = self._inference.bundle.predictors.get(model)
            self._endpoints[method, model] = Endpoint(
                f"/{SERVICE.full_name}/{method}",
                "grpc",
                predictor.dataset if predictor is not None else None,
                grpc_counter(SERVICE.full_name, method, model),
            )
        return self._endpoints[method, model]

    def _model_label(self, request: Any) -> str:
        """The model's name as a metric label; ``unknown`` if it is not served."""
        fields = request.DESCRIPTOR.fields_by_name
        if "model_name" not in fields and "name" not in fields:
            return ""
        name = request.model_name if "model_name" in fields else request.name
        return name if name in self._inference.bundle.predictors else UNKNOWN

    async def _server_live(self, _: pb.ServerLiveRequest, __: Call) -> Message:
        return pb.ServerLiveResponse(live=True)

    async def _server_ready(self, _: pb.ServerReadyRequest, __: Call) -> Message:
        return pb.ServerReadyResponse(ready=self._inference.bundle.ready)

    async def _model_ready(self, request: pb.ModelReadyRequest, _: Call) -> Message:
        # As Triton does: its client raises for a status.
        return pb.ModelReadyResponse(ready=self._inference.is_ready(request.name, request.version))

    async def _server_metadata(self, _: pb.ServerMetadataRequest, __: Call) -> Message:
        return pb.ServerMetadataResponse(**self._inference.server_metadata())

    async def _model_metadata(self, request: pb.ModelMetadataRequest, _: Call) -> Message:
        metadata = self._inference.model_metadata(self._inference.predictor(request.name, request.version))
        # Feature names and classes are left out: a tensor has no parameters in these messages, and MLServer's stubs
        # expect other messages in the field for model properties and could not read the answer.
        for tensor in (*metadata["inputs"], *metadata["outputs"]):
            tensor.pop("parameters", None)
        return pb.ModelMetadataResponse(**metadata)

    async def _model_infer(self, request: pb.ModelInferRequest, call: Call) -> Message:
        inference, version = self._inference, request.model_version
        predictor = inference.predictor(request.model_name, version)
        call.version = predictor.version
        async with predictor.turn(request.ByteSize()):
            asked = read_request(request, len(predictor.dataset.features))
            prediction, outputs = await inference.infer(predictor, asked, call, version)
            response = pb.ModelInferResponse(
                model_name=request.model_name, model_version=prediction.version, id=request.id
            )
            response.parameters["prediction_id"].string_param = prediction.id
            return write_response(response, outputs, asked)


class _Refuse(grpc.GenericRpcHandler):
    """Answers the calls that may not pass, without reading their messages.

    Args:
        gate: decides who may pass.
        refuse: answers a method, and why it is refused.
    """

    def __init__(self, gate: Gate, refuse: Callable[[str, Refusal, object, Context], Awaitable[None]]) -> None:
        self._gate = gate
        self._answer = refuse

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """What answers a call; None for those that may pass."""
        method = handler_call_details.method
        if method.startswith(PROBES):
            return None
        header = next((value for key, value in handler_call_details.invocation_metadata if key == HEADER), None)
        refusal = self._gate.refusal(Access.API, header.encode() if isinstance(header, str) else header)
        if refusal is None:
            return None
        # Declared as if messages streamed in: a message is read when asked for, and nobody asks.
        return grpc.stream_unary_rpc_method_handler(partial(self._answer, method, refusal))


def _peer_address(peer: str) -> str:
    """The address in ``ipv4:127.0.0.1:5000`` or ``ipv6:[::1]:5000``, whose brackets may be escaped."""
    return unquote(peer.partition(":")[2].rpartition(":")[0]).strip("[]")


def _status_code(error: BundleError) -> grpc.StatusCode:
    return next((code for kind, code in STATUS_CODES.items() if isinstance(error, kind)), grpc.StatusCode.INTERNAL)


async def _refuse(error: BundleError, _: Any, __: Call) -> Message:
    raise error


def _register_none(service_name: str, method_handlers: object) -> None:
    """In place of ``grpc.aio.Server.add_registered_method_handlers``."""


def _keepalive(seconds: float) -> list[tuple[str, int]]:
    """Options that let clients ping this often, with or without a call in flight.

    By default gRPC disconnects a client that pings more than once in 5 minutes (2 hours without a call). Half of the
    interval is enforced: pings that left on time may arrive close together.
    """
    return [
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", int(seconds * 1000 / 2)),
    ]


def _parse(request_type: type[Message], data: bytes) -> Message:
    if len(data) > SMALL_BYTES:
        check_fields(data, request_type.DESCRIPTOR)
    try:
        return request_type.FromString(data)
    except DecodeError as error:
        raise InvalidInput(f"The message is not a valid {request_type.DESCRIPTOR.full_name}: {error}.") from None
