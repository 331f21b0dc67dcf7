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

Request = health_pb2.HealthCheckRequest
Response = health_pb2.HealthCheckResponse
Context = grpc.aio.ServicerContext[Request, Response]

NAME = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name


class HealthServicer(health_pb2_grpc.HealthServicer):
    """The state of the server, under "" and under each of ``names``: NOT_SERVING until it is opened."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = {"", *names}
        self._response = Response(status=Response.NOT_SERVING)
        self._closed = False
        self._changed = asyncio.Event()

    def open(self) -> None:
        """SERVING, from now on."""
        self._tell(Response(status=Response.SERVING))

    def drain(self) -> None:
        """NOT_SERVING, from now on; who watches is told, and kept."""
        self._tell(Response(status=Response.NOT_SERVING))

    def close(self) -> None:
        """NOT_SERVING for good; who watches is told, and let go."""
        self._closed = True
        self._tell(Response(status=Response.NOT_SERVING))

    async def Check(self, request: Request, context: Context) -> Response:  # noqa: N802 - gRPC's name
        """The state now; NOT_FOUND for a name we do not have."""
        if request.service not in self._names:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"There is no service {request.service[:60]!r}.")
        return self._response

    async def Watch(self, request: Request, _: Context) -> AsyncIterator[Response]:  # noqa: N802 - gRPC's name
        """The state now, and each time it changes."""
        told = None
        while True:
            changed = self._changed
            known = request.service in self._names
            response = self._response if known else Response(status=Response.SERVICE_UNKNOWN)
            if response != told:
                yield response
                told = response
            if self._closed:
                return
            await changed.wait()

    def _tell(self, response: Response) -> None:
        self._response = response
        self._changed.set()
        self._changed = asyncio.Event()
