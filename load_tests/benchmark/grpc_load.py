"""gRPC load: lean asyncio clients in processes of their own, bytes in and bytes out.

``python -m load_tests.benchmark.grpc_load`` prints one line of JSON, as ``wrk.lua`` does.
"""

import argparse
import asyncio
import json
import multiprocessing
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter

import grpc
import grpc.aio
import numpy as np

from load_tests.benchmark.errors import BenchmarkError
from load_tests.benchmark.load import Load

METHOD = "/inference.GRPCInferenceService/ModelInfer"
PROCESSES = 2
"""A client in Python takes as long for a call as a server does: one process could not load two workers."""
PROJECT = Path(__file__).parents[2]


def read_bodies(path: Path) -> list[bytes]:
    """What ``wrk.write_bodies`` wrote."""
    bodies = []
    with path.open("rb") as file:
        while length := file.readline():
            bodies.append(file.read(int(length)))
    return bodies


def channel(target: str, number: int) -> grpc.aio.Channel:
    """A channel with a connection of its own: channels with equal options would share one."""
    return grpc.aio.insecure_channel(
        target, options=[("grpc.use_local_subchannel_pool", 1), ("benchmark.connection", number)]
    )


def run(target: str, bodies: Path, *, connections: int, seconds: int, channels: int | None = None) -> Load:
    """Load a server with the bodies of a file in turn.

    Args:
        target: ``host:port``.
        bodies: what ``wrk.write_bodies`` wrote.
        connections: callers, each with one call at a time.
        seconds: how long.
        channels: connections that the callers share; by default each has its own.

    Raises:
        BenchmarkError: the client failed; has what it printed.
    """
    command = [sys.executable, "-m", "load_tests.benchmark.grpc_load", target, str(bodies)]
    size = {"callers": connections, "channels": channels or connections, "seconds": seconds}
    ended = subprocess.run(  # noqa: S603 # our own command
        [*command, *(f"--{name}={value}" for name, value in size.items())],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode:
        raise BenchmarkError(f"The gRPC client ended with {ended.returncode}: {ended.stderr.strip()[-500:]}")
    return Load.model_validate_json(ended.stdout.splitlines()[-1])


async def _caller(
    opened: grpc.aio.Channel, number: int, bodies: Sequence[bytes], begin: "asyncio.Future[float]", seconds: float
) -> tuple[list[float], int]:
    """Latencies in seconds and the number of failed calls of one caller."""
    latencies: list[float] = []
    failed = 0
    await opened.channel_ready()
    call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = opened.unary_unary(METHOD)
    until = await begin + seconds
    position = number
    while (started := perf_counter()) < until:
        try:
            await call(bodies[position % len(bodies)])
        except grpc.aio.AioRpcError:
            failed += 1
        latencies.append(perf_counter() - started)
        position += 1
    return latencies, failed


async def _callers(
    target: str, bodies: Sequence[bytes], callers: Sequence[int], channels: int, seconds: float, parent: Connection
) -> tuple[list[float], int]:
    begin: asyncio.Future[float] = asyncio.get_running_loop().create_future()
    opened = [channel(target, number) for number in range(channels)]
    tasks = [
        asyncio.create_task(_caller(opened[index % channels], number, bodies, begin, seconds))
        for index, number in enumerate(callers)
    ]
    # A turn for each to connect; who is late waits for its own connection only.
    await asyncio.sleep(0.2)
    parent.send("connected")
    await asyncio.to_thread(parent.recv)
    begin.set_result(perf_counter())
    measured = await asyncio.gather(*tasks)
    await asyncio.gather(*(one.close() for one in opened))
    return [one for latencies, _ in measured for one in latencies], sum(failed for _, failed in measured)


def _process(
    target: str, bodies: Path, callers: Sequence[int], channels: int, seconds: float, parent: Connection
) -> None:
    parent.send(asyncio.run(_callers(target, read_bodies(bodies), callers, channels, seconds, parent)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Load a server from several processes, print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", help="host:port")
    parser.add_argument("bodies", type=Path, help="a length, a line break and a serialised request, again and again")
    parser.add_argument("--callers", type=int, default=64)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--seconds", type=int, default=5)
    asked = parser.parse_args(arguments)
    context = multiprocessing.get_context("spawn")
    pipes = []
    processes = []
    for index in range(min(PROCESSES, asked.channels)):
        ours, theirs = context.Pipe()
        callers, channels = (range(index, count, PROCESSES) for count in (asked.callers, asked.channels))
        process = context.Process(
            target=_process, args=(asked.target, asked.bodies, callers, len(channels), asked.seconds, theirs)
        )
        process.start()
        theirs.close()
        pipes.append(ours)
        processes.append(process)
    for pipe in pipes:
        pipe.recv()
    for pipe in pipes:
        pipe.send("begin")
    measured = [pipe.recv() for pipe in pipes]
    for process in processes:
        process.join()
    latencies = np.concatenate([np.array(one) for one, _ in measured]) * 1000
    failed = sum(count for _, count in measured)
    nothing = not len(latencies)
    p50, p99, most = (0.0, 0.0, 0.0) if nothing else (*np.percentile(latencies, [50, 99]), latencies.max())
    figures = {"p50_ms": float(p50), "p99_ms": float(p99), "max_ms": float(most)}
    print(  # noqa: T201 # the command's answer
        json.dumps({"requests": len(latencies), "seconds": float(asked.seconds), "refused": failed, **figures})
    )


if __name__ == "__main__":
    main()
