"""Measure adaptive batching: the service's runner under an open loop of arrivals, with batching on and off.

``python -m load_tests.benchmark.batching`` writes the figure and the tables of ``docs/batching.md``. It measures the
runner itself (so it imports ``serving``): over HTTP on the same cores, the load generator would be measured with it.
"""

import argparse
import asyncio
import gc
import random
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import bentoml
import numpy as np
import uvloop
from rich.console import Console

from contract.datasets.housing import HOUSING
from contract.table import FloatMatrix
from load_tests.benchmark import batching_page, payloads
from load_tests.benchmark.batching_page import BatchingResult, Curve, Point
from load_tests.benchmark.runner import deployed_model, machine
from load_tests.errors import LoadTestError
from serving.batching.runner import Model, Runner
from serving.errors import Overloaded
from serving.models import load
from serving.settings import Settings

SHARES = (0.10, 0.25, 0.50, 0.75, 0.90, 1.00, 1.25, 1.50)
"""Offered load as a share of capacity."""
SLOW_SECONDS = 0.020
SLOW_BATCH = 64
"""Largest batch of the slow model: larger ones would make the event loop of this process the limit, not the model."""
FEWEST_ARRIVALS = 200
"""For a p99, unless they take longer than ``LONGEST_SECONDS``."""
LONGEST_SECONDS = 20.0
SETTLE_SECONDS = 1.0
"""Offered before the measurement."""
ONNX_ROWS = 100
"""Rows of a request to the ONNX model: with one row the event loop of this process is the limit, not the model."""
CALLERS_OF_ONE = 16
"""With batching off; more would only wait and be shed."""
IDLE_CALLS = 10
IDLE_SECONDS = 4.0
BACK_OFF_SECONDS = 0.005
MOST_IN_A_TURN = 1024
"""Requests sent in one turn of the event loop when they are due: libuv reads as many sockets in a turn."""

Request = Callable[[int], Awaitable[object]]
"""Sends the n-th request, returns when it is answered, and raises ``Overloaded`` if it is shed."""


@dataclass
class OpenLoopResult:
    """The requests that arrived.

    ``latencies`` of the accepted ones are in seconds from the time at which each should have arrived, so that a busy
    loop does not hide its delay. ``delays`` are the part of it before the coroutine was called, for all requests.
    """

    refused: int = 0
    latencies: list[float] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)


def quantile_ms(seconds: Sequence[float], share: float) -> float:
    """A quantile in milliseconds; NaN without values."""
    return float(np.quantile(seconds, share)) * 1000 if seconds else float("nan")


def poisson(rate: float, seconds: float, seed: int = 0) -> Iterator[float]:
    """Times of independent arrivals in seconds from the start, ``rate`` a second on average."""
    draw = random.Random(seed)  # noqa: S311 # a reproducible draw, no secret
    due = draw.expovariate(rate)
    while due < seconds:
        yield due
        due += draw.expovariate(rate)


async def offer(request: Request, *, rate: float, seconds: float, settle: float = 0.0) -> OpenLoopResult:
    """Offer Poisson arrivals for ``settle + seconds``, measure the last ``seconds``, and wait for all answers."""
    measured = OpenLoopResult()
    waiting: set[asyncio.Task[None]] = set()
    errors: list[BaseException] = []
    started = perf_counter()

    def finished(task: asyncio.Task[None]) -> None:
        waiting.discard(task)
        if error := task.exception():
            errors.append(error)

    async def send(number: int, due: float) -> None:
        counts = due >= settle
        if counts:
            measured.delays.append(perf_counter() - started - due)
        try:
            await request(number)
        except Overloaded:
            measured.refused += counts
        else:
            if counts:
                measured.latencies.append(perf_counter() - started - due)

    sent = 0
    for number, due in enumerate(poisson(rate, settle + seconds)):
        ahead = due - (perf_counter() - started)
        if ahead > 0 or sent == MOST_IN_A_TURN:
            await asyncio.sleep(max(ahead, 0))
            sent = 0
        sent += 1
        task = asyncio.create_task(send(number, due))
        waiting.add(task)
        task.add_done_callback(finished)
    await asyncio.gather(*waiting, return_exceptions=True)
    if errors:
        raise errors[0]
    return measured


async def saturate(request: Request, *, callers: int, seconds: float) -> float:
    """Accepted requests a second of a closed loop. A caller that is shed waits a moment before it tries again."""
    started = perf_counter()
    done = 0

    async def call(number: int) -> None:
        nonlocal done
        while perf_counter() < started + seconds:
            try:
                await request(number)
            except Overloaded:
                await asyncio.sleep(BACK_OFF_SECONDS)
                continue
            number += callers
            done += 1

    await asyncio.gather(*(call(first) for first in range(callers)))
    return done / (perf_counter() - started)


@dataclass
class Counted:
    """A model that counts its calls and their rows."""

    model: Model
    calls: int = 0
    rows: int = 0

    def __call__(self, rows: FloatMatrix) -> FloatMatrix:
        """Outputs ``[N, K]`` for rows ``[N, F]``."""
        self.calls += 1
        self.rows += len(rows)
        return self.model(rows)


def slow_model(rows: FloatMatrix) -> FloatMatrix:
    """Takes 20 ms a call, for any number of rows."""
    time.sleep(SLOW_SECONDS)
    return rows[:, :1]


async def curve(
    name: str,
    model: Model,
    *,
    request_rows: int,
    max_batch_size: int,
    settings: Settings,
    seconds: float,
    alone_ms: float,
    say: Callable[[str], object],
    shares: Sequence[float] = SHARES,
) -> Curve:
    """Measure one model with one batch size: its capacity, then each share of it."""
    table = payloads.table()
    rows = [np.roll(table, number, axis=0)[:request_rows] for number in range(len(table))]
    counted = Counted(model)
    runner = _runner(name, counted, max_batch_size, settings)

    async def request(number: int) -> None:
        await runner.run(rows[number % len(rows)])

    runner.warm_up(table)
    # As in the service: the garbage collector skips what is loaded now.
    gc.collect()
    gc.freeze()
    batch_requests = max_batch_size // request_rows
    callers = batch_requests * 2 if batch_requests > 1 else CALLERS_OF_ONE
    capacity = await saturate(request, callers=callers, seconds=seconds)
    points = []
    for share in shares:
        rate = share * capacity
        measured_seconds = min(max(seconds, FEWEST_ARRIVALS / rate), LONGEST_SECONDS)
        counted.calls = counted.rows = 0
        found = await offer(request, rate=rate, seconds=measured_seconds, settle=SETTLE_SECONDS)
        point = Point(
            share=share,
            offered=rate,
            accepted=len(found.latencies) / measured_seconds,
            refused=found.refused / max(len(found.delays), 1),
            p50_ms=quantile_ms(found.latencies, 0.5),
            p99_ms=quantile_ms(found.latencies, 0.99),
            delay_ms=quantile_ms(found.delays, 0.99),
            mean_batch=counted.rows / max(counted.calls, 1),
        )
        say(f"    {point}")
        points.append(point)
    await runner.close()
    return Curve(
        model=name,
        request_rows=request_rows,
        max_batch_size=max_batch_size,
        max_latency_ms=settings.MAX_LATENCY_MS,
        alone_ms=alone_ms,
        capacity=capacity,
        points=points,
    )


def _runner(name: str, model: Model, max_batch_size: int, settings: Settings) -> Runner:
    return Runner(
        name,
        model,
        max_batch_size=max_batch_size,
        max_latency_ms=settings.MAX_LATENCY_MS,
        timeout_seconds=settings.TIMEOUT_SECONDS,
    )


async def idle(
    name: str, model: Model, request_rows: int, sizes: Sequence[int], settings: Settings
) -> dict[int, float]:
    """Median milliseconds of a request without others, by largest batch.

    The runners take turns, so that what else the machine does slows all of them alike.
    """
    rows = payloads.table()[:request_rows]
    runners = {size: _runner(name, model, size, settings) for size in sizes}
    times: dict[int, list[float]] = {size: [] for size in sizes}
    until = perf_counter() + IDLE_SECONDS
    while perf_counter() < until:
        for size, runner in runners.items():
            for _ in range(IDLE_CALLS):
                started = perf_counter()
                await runner.run(rows)
                times[size].append(perf_counter() - started)
    for runner in runners.values():
        await runner.close()
    return {size: quantile_ms(found, 0.5) for size, found in times.items()}


async def measure(seconds: float, say: Callable[[str], object]) -> list[Curve]:
    """Measure both models, with batching and without."""
    settings = Settings()
    tag, _ = deployed_model()
    onnx = load(HOUSING, bentoml.models.get(tag)).artifact.outputs
    curves = []
    models: list[tuple[str, Model, int, int]] = [
        (batching_page.ONNX, onnx, ONNX_ROWS, settings.MAX_BATCH_SIZE),
        (batching_page.SLOW, slow_model, 1, SLOW_BATCH),
    ]
    for name, model, request_rows, largest in models:
        sizes = (largest, request_rows)
        alone = await idle(name, model, request_rows, sizes, settings)
        for size in sizes:
            say(f"{name}, max_batch_size={size}")
            measured = await curve(
                name,
                model,
                request_rows=request_rows,
                max_batch_size=size,
                settings=settings,
                seconds=seconds,
                alone_ms=alone[size],
                say=say,
            )
            curves.append(measured)
    return curves


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, draw and write; return the exit status."""
    parser = argparse.ArgumentParser(description="The figure and the tables of docs/batching.md.")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement (default: 4)")
    parser.add_argument("--page", type=Path, default=batching_page.PAGE, help="where the tables go")
    parser.add_argument("--render", action="store_true", help="measure nothing; draw and write the last result again")
    options = parser.parse_args(arguments)
    console = Console(highlight=False, soft_wrap=True, markup=False)
    try:
        if options.render:
            result = BatchingResult.model_validate_json(batching_page.MEASURED.read_bytes())
        else:
            curves = uvloop.run(measure(options.seconds, console.print))
            result = BatchingResult(machine=machine(), curves=curves)
            batching_page.MEASURED.write_text(result.model_dump_json(indent=1, exclude_defaults=True) + "\n")
    except LoadTestError as error:
        console.print(str(error), style="red")
        return 1
    for path in batching_page.write(result, options.page):
        console.print(f"Written: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
