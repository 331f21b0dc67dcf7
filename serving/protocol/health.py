"""``grpc.health.v1.Health``: https://github.com/grpc/grpc/blob/master/doc/health-checking.md.

The servicer of ``grpcio-health-checking`` never ends a Watch, so a draining server would wait for its watchers until
the end of its grace period; and one slow reader blocks all others. All our models load together, so one state serves
all names, and each Watch ends once it has reported the end.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from contract.errors import cut

Context = grpc.aio.ServicerContext[HealthCheckRequest, HealthCheckResponse]

NAME = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name


class HealthServicer(health_pb2_grpc.HealthServicer):
    """The server's state, under "" and under each of ``names``: SERVING until ``drain`` or ``close``."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = {"", *names}
        self._response = HealthCheckResponse(status=HealthCheckResponse.SERVING)
        self._closed = False
        self._changed = asyncio.Event()

    def drain(self) -> None:
        """Report NOT_SERVING; watchers are told and stay connected."""
        self._tell(HealthCheckResponse(status=HealthCheckResponse.NOT_SERVING))

    def close(self) -> None:
        """Report NOT_SERVING for good; watchers are told, then their calls end."""
        self._closed = True
        self._tell(HealthCheckResponse(status=HealthCheckResponse.NOT_SERVING))

    async def Check(self, request: HealthCheckRequest, context: Context) -> HealthCheckResponse:  # noqa: N802 - gRPC's name
        """The current state; NOT_FOUND for an unknown name."""
        if request.service not in self._names:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"There is no service {cut(request.service)!r}.")
        return self._response

    async def Watch(self, request: HealthCheckRequest, _: Context) -> AsyncIterator[HealthCheckResponse]:  # noqa: N802 - gRPC's name
        """The current state, then each change."""
        told = None
        while True:
            changed = self._changed
            known = request.service in self._names
            response = self._response if known else HealthCheckResponse(status=HealthCheckResponse.SERVICE_UNKNOWN)
            if response != told:
                yield response
                told = response
            if self._closed:
                return
            await changed.wait()

    def _tell(self, response: HealthCheckResponse) -> None:
        self._response = response
        self._changed.set()
        self._changed = asyncio.Event()
