"""The floor of gRPC: ``grpc.aio`` answers a call with its own bytes. A process a worker, on one port."""

import asyncio
import multiprocessing
import os

import grpc
import grpc.aio


async def serve() -> None:
    """Answer until the process is stopped."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 1)])
    handler = grpc.unary_unary_rpc_method_handler(_echo)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("inference.GRPCInferenceService", {"ModelInfer": handler}),)
    )
    server.add_insecure_port(f"127.0.0.1:{os.environ['PORT']}")
    await server.start()
    await server.wait_for_termination()


async def _echo(data: bytes, _: object) -> bytes:
    return data


def _work() -> None:
    asyncio.run(serve())


if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    for _ in range(int(os.environ["WORKERS"]) - 1):
        context.Process(target=_work, daemon=True).start()
    _work()
