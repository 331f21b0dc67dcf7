"""Clients that keep an idle gRPC connection alive by pings."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from local_service import free_port
from serving.access import Gate
from serving.bundle import Bundle
from serving.protocol.grpc import GrpcServer
from serving.protocol.inference import Inference
from serving.settings import Settings

PING_SECONDS = 0.05
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@asynccontextmanager
async def server(keepalive_seconds: float) -> AsyncIterator[tuple[GrpcServer, grpc.aio.Channel]]:
    """A server without models, and a client that pings it every ``PING_SECONDS``, in a call or not."""
    port = free_port()
    settings = Settings(API_HOST="127.0.0.1", GRPC_PORT=port, GRPC_KEEPALIVE_SECONDS=keepalive_seconds)
    started = GrpcServer(Inference(Bundle({}, settings), "test", "1"), settings, Gate(settings.keys()))
    await started.start()
    options = [
        ("grpc.keepalive_time_ms", int(PING_SECONDS * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),  # no limit: it is the server's that is tried
    ]
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options) as channel:
            yield started, channel
    finally:
        await started.stop(0)


def watch(channel: grpc.aio.Channel) -> Any:
    stub: Any = HealthStub(channel)  # the published types lack its methods
    return stub.Watch(health_pb2.HealthCheckRequest())


async def watch_both() -> None:
    async with AsyncExitStack() as stack:
        lenient, kept = await stack.enter_async_context(server(PING_SECONDS))
        _, refused = await stack.enter_async_context(server(Settings().GRPC_KEEPALIVE_SECONDS))
        watching = watch(kept)
        assert (await watching.read()).status == SERVING
        others = watch(refused)
        assert (await others.read()).status == SERVING
        # The second client's pings come too often for its server. By then the first has sent as many.
        with pytest.raises(grpc.aio.AioRpcError, match=r"(?i)too.many.pings") as ended:
            await others.read()
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
        lenient.drain()
        assert (await watching.read()).status == NOT_SERVING


async def idle_both() -> None:
    async with AsyncExitStack() as stack:
        _, kept = await stack.enter_async_context(server(PING_SECONDS))
        _, refused = await stack.enter_async_context(server(Settings().GRPC_KEEPALIVE_SECONDS))
        await kept.channel_ready()
        await refused.channel_ready()
        await refused.wait_for_state_change(grpc.ChannelConnectivity.READY)
        assert kept.get_state() is grpc.ChannelConnectivity.READY


def test_a_watcher_that_pings_as_often_as_allowed_is_kept() -> None:
    asyncio.run(asyncio.wait_for(watch_both(), 60))


def test_a_client_without_calls_that_pings_as_often_as_allowed_is_kept() -> None:
    asyncio.run(asyncio.wait_for(idle_both(), 60))
