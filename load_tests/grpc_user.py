"""The gRPC user. Without gevent support, set up before the first use, a call would block all users."""

from time import perf_counter
from typing import Any, cast

import grpc
import grpc.experimental.gevent
from open_inference.grpc import protocol as pb
from open_inference.grpc.service import GRPCInferenceServiceStub

from contract.dataset import Dataset
from contract.table import FloatMatrix
from load_tests.answers import Asked, WrongAnswer, check_refusal, shortened
from load_tests.grpc_protocol import check_response, infer_request
from load_tests.users import AUTHORIZATION, TIMEOUT_SECONDS, LoadUser, Prepared

# After Locust has patched the standard library, and before the first channel.
grpc.experimental.gevent.init_gevent()

METADATA = tuple(AUTHORIZATION.items())
CHANNEL_OPTIONS = [("grpc.use_local_subchannel_pool", 1)]
"""One connection for each user. By default, channels to one address share one, and so reach only one worker."""


class GrpcUser(LoadUser):
    """``inference.GRPCInferenceService/ModelInfer`` with raw contents."""

    weight = 3

    def on_start(self) -> None:
        """Open a channel."""
        self._channel = grpc.insecure_channel(self.environment.parsed_options.grpc_target, CHANNEL_OPTIONS)
        self._stub = GRPCInferenceServiceStub(self._channel)
        super().on_start()

    def on_stop(self) -> None:
        """Close it."""
        super().on_stop()
        self._channel.close()

    @classmethod
    def encoded(cls, dataset: Dataset, rows: FloatMatrix) -> Any:
        """Build the request message."""
        return infer_request(dataset, rows)

    def send(self, request: Prepared, name: str) -> None:
        """Call ``ModelInfer``. The response time excludes the check of the answer."""
        response: pb.ModelInferResponse | None = None
        error: grpc.Call | None = None
        started = perf_counter()
        try:
            response = self._stub.ModelInfer(request.content, metadata=METADATA, timeout=TIMEOUT_SECONDS)
        except grpc.RpcError as raised:
            error = cast(grpc.Call, raised)  # it is both
        elapsed_ms = (perf_counter() - started) * 1000
        wrong: WrongAnswer | None = None
        try:
            _check(request.asked, response, error)
        except WrongAnswer as raised:
            wrong = raised
        self.environment.events.request.fire(
            request_type="gRPC",
            name=name,
            response_time=elapsed_ms,
            response_length=response.ByteSize() if response is not None else len(_details(error)),
            response=response,
            exception=wrong,
            context=self.context(),
        )


def _check(asked: Asked, response: pb.ModelInferResponse | None, error: grpc.Call | None) -> None:
    expected = grpc.StatusCode.OK if asked.feature is None else grpc.StatusCode.INVALID_ARGUMENT
    status = grpc.StatusCode.OK if error is None else error.code()
    if status is not expected:
        raise WrongAnswer(f"status {status.name} instead of {expected.name}: {shortened(_details(error))}")
    if asked.feature is not None:
        check_refusal(_details(error), asked.feature)
    elif response is not None:
        check_response(asked.rows, response)


def _details(error: grpc.Call | None) -> str:
    """The sentence beside a status code."""
    return (error.details() if error is not None else None) or ""
