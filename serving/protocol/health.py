"""``grpc.health.v1.Health``: https://github.com/grpc/grpc/blob/master/doc/health-checking.md.

The servicer of ``grpcio-health-checking`` lets its watchers wait for ever, which would hold a server that drains until
the end of its grace; and it locks the others out while one of them reads slowly. Here all models load together, so one
state does for all names, and a watcher is let go once it has been told that it is over.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

Context = grpc.aio.ServicerContext[HealthCheckRequest, HealthCheckResponse]

NAME = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name


class HealthServicer(health_pb2_grpc.HealthServicer):
    """The state of the server, under "" and under each of ``names``: NOT_SERVING until it is opened."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = {"", *names}
        self._response = HealthCheckResponse(status=HealthCheckResponse.NOT_SERVING)
        self._closed = False
        self._changed = asyncio.Event()

    def open(self) -> None:
        """SERVING, from now on."""
        self._tell(HealthCheckResponse(status=HealthCheckResponse.SERVING))

    def drain(self) -> None:
        """NOT_SERVING, from now on; who watches is told, and kept."""
        self._tell(HealthCheckResponse(status=HealthCheckResponse.NOT_SERVING))

    def close(self) -> None:
        """NOT_SERVING for good; who watches is told, and let go."""
        self._closed = True
        self._tell(HealthCheckResponse(status=HealthCheckResponse.NOT_SERVING))

    async def Check(self, request: HealthCheckRequest, context: Context) -> HealthCheckResponse:  # noqa: N802 - gRPC's name
        """The state now; NOT_FOUND for a name we do not have."""
        if request.service not in self._names:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"There is no service {request.service[:60]!r}.")
        return self._response

    async def Watch(self, request: HealthCheckRequest, _: Context) -> AsyncIterator[HealthCheckResponse]:  # noqa: N802 - gRPC's name
        """The state now, and each time it changes."""
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
