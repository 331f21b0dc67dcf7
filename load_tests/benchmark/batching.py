"""Adaptive batching, measured: the runner of the service with an open loop of arrivals, batching on and off.

``python -m load_tests.benchmark.batching`` writes the figures of ``docs/batching.md`` and its tables. It measures the
runner itself, so it is the only module of the load tests that imports ``serving``: over HTTP on the same cores, the
load generator would be measured with it.
"""

import argparse
import gc
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import bentoml
import numpy as np
import uvloop
from rich.console import Console

from contract.errors import LoadTestError, Overloaded
from contract.housing import HOUSING
from contract.table import FloatMatrix
from load_tests.benchmark import batching_page, payloads
from load_tests.benchmark.batching_page import Curve, Point, Result
from load_tests.benchmark.open_loop import offer, saturate
from load_tests.benchmark.runner import deployed_model, machine
from serving.batching.runner import Model, Runner
from serving.models import load
from serving.settings import Settings

SHARES = (0.10, 0.25, 0.50, 0.75, 0.90, 1.00, 1.25, 1.50)
"""Offered load as a share of capacity."""
SLOW_SECONDS = 0.020
SLOW_BATCH = 64
"""Largest batch of the slow model: larger ones would make the event loop of this process the limit, not the model."""
FEWEST_ARRIVALS = 200
"""That a p99 is read from, where it does not take longer than ``LONGEST_SECONDS``."""
LONGEST_SECONDS = 20.0
ONNX_ROWS = 100
"""Rows of a request to the ONNX model: with one row the event loop of this process is the limit, not the model."""
CALLERS_OF_ONE = 16
"""With batching off; more would only wait, and be shed."""
IDLE_CALLS = 10
"""In turn."""
IDLE_SECONDS = 4.0


@dataclass
class Counted:
    """A model that counts its calls and the rows in them."""

    model: Model
    calls: int = 0
    rows: int = 0

    def __call__(self, rows: FloatMatrix) -> FloatMatrix:
        """Outputs ``[N, K]`` for rows ``[N, F]``."""
        self.calls += 1
        self.rows += len(rows)
        return self.model(rows)

    def mean_batch(self) -> float:
        """Rows a call since the last time, 0 without a call; counts anew."""
        mean = self.rows / self.calls if self.calls else 0.0
        self.calls = self.rows = 0
        return mean


def slow_model(rows: FloatMatrix) -> FloatMatrix:
    """20 ms a call, however many rows."""
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
    """Measure one model with one batch size: at capacity, and at each share of its capacity."""
    table = payloads.table()
    rows = [np.roll(table, number, axis=0)[:request_rows] for number in range(len(table))]
    counted = Counted(model)
    runner = _runner(name, counted, max_batch_size, settings)

    async def request(number: int) -> None:
        await runner.run(rows[number % len(rows)])

    runner.warm_up(table)
    # As the service does: what is loaded now stays, and the collector need not go over it.
    gc.collect()
    gc.freeze()
    batch_requests = max_batch_size // request_rows
    callers = batch_requests * 2 if batch_requests > 1 else CALLERS_OF_ONE
    capacity = await saturate(request, Overloaded, callers=callers, seconds=seconds)
    points = []
    for share in shares:
        rate = share * capacity
        measured_seconds = min(max(seconds, FEWEST_ARRIVALS / rate), LONGEST_SECONDS)
        counted.mean_batch()
        arrivals = await offer(request, Overloaded, rate=rate, seconds=measured_seconds, settle=1.0)
        point = Point(
            share=share,
            offered=rate,
            accepted=len(arrivals.latencies) / measured_seconds,
            refused=arrivals.refused / max(arrivals.offered, 1),
            p50_ms=arrivals.latency_ms(0.5),
            p99_ms=arrivals.latency_ms(0.99),
            delay_ms=arrivals.delay_ms(0.99),
            mean_batch=counted.mean_batch(),
        )
        say(f"    {point.line()}")
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
    """Median milliseconds of a request that meets nobody else, by largest batch.

    The runners take turns, so that what else the machine does slows all of them alike.
    """
    rows = payloads.table()[:request_rows]
    runners = {size: _runner(name, model, size, settings) for size in sizes}
    times: dict[int, list[float]] = {size: [] for size in sizes}
    until = time.perf_counter() + IDLE_SECONDS
    while time.perf_counter() < until:
        for size, runner in runners.items():
            for _ in range(IDLE_CALLS):
                started = time.perf_counter()
                await runner.run(rows)
                times[size].append(time.perf_counter() - started)
    for runner in runners.values():
        await runner.close()
    return {size: float(np.median(found)) * 1000 for size, found in times.items()}


async def measure(seconds: float, say: Callable[[str], object]) -> list[Curve]:
    """Both models, with batching and without."""
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
    """Measure, draw, write; the exit status."""
    parser = argparse.ArgumentParser(description="The figures and tables of docs/batching.md.")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measure (default: 4)")
    parser.add_argument("--page", type=Path, default=batching_page.PAGE, help="where the tables go")
    parser.add_argument("--render", action="store_true", help="measure nothing; draw and write the last result anew")
    options = parser.parse_args(arguments)
    console = Console(highlight=False, soft_wrap=True, markup=False)
    try:
        if options.render:
            result = Result.model_validate_json(batching_page.MEASURED.read_bytes())
        else:
            curves = uvloop.run(measure(options.seconds, console.print))
            result = Result(machine=machine(), curves=curves)
            batching_page.MEASURED.write_text(result.model_dump_json(indent=1, exclude_defaults=True) + "\n")
    except LoadTestError as error:
        console.print(str(error), style="red")
        return 1
    for path in batching_page.write(result, options.page):
        console.print(f"Written: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
