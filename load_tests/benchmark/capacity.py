"""How many pods and cores a load needs, and what they cost: ``python -m load_tests.benchmark.capacity``.

Computed from the CPU time of a request in the published result of the benchmark, or with ``--report`` in another one.
``python -m load_tests.benchmark --publish`` writes the tables of ``docs/capacity.md``.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from load_tests.benchmark import report
from load_tests.benchmark.result import Result
from local_service import PROJECT

PAGE = PROJECT / "docs" / "capacity.md"
BATCH_ROWS = 1000
CONNECTIONS = {1: 64, BATCH_ROWS: 16}
"""By rows a request."""
LINES = (
    (1, "ours", "/predict/housing"),
    (1, "ours-v2", "/v2 JSON"),
    (BATCH_ROWS, "ours", "/predict/housing/batch"),
    (BATCH_ROWS, "ours-binary", "/v2 binary"),
)
"""Rows a request, the line of the benchmark, and its name on the page."""
REQUESTS = (1_000, 10_000, 100_000, 1_000_000)
ROWS = (*REQUESTS, 10_000_000)
HOURS_A_MONTH = 730


@dataclass(frozen=True)
class Assumptions:
    """What the benchmark does not say.

    Attributes:
        cores: cores of a pod, and its workers.
        utilisation: share of its cores that a pod may use, with a zone lost.
        zones: over which pods are spread evenly, and of which one may be lost.
        price: of a core for an hour, with the memory that goes with it; in any currency.
    """

    cores: int = 2
    utilisation: float = 0.6
    zones: int = 3
    price: float = 0.04

    def __post_init__(self) -> None:
        if self.cores < 1 or not 0 < self.utilisation <= 1 or self.zones < 2 or self.price < 0:
            raise ValueError(
                f"{self}: a pod has a core at least, utilisation is above 0 and at most 1, there are two zones at "
                "least, of which one may be lost, and the price is not negative."
            )


@dataclass(frozen=True)
class Cost:
    """``cpu_ms`` CPU-milliseconds for a request of ``rows`` rows."""

    line: str
    rows: int
    cpu_ms: float


@dataclass(frozen=True)
class Capacity:
    """What a load needs.

    Attributes:
        busy: cores that answer it, without any headroom.
        needed: pods that must remain when a zone is lost.
        pods: pods of all zones together.
        cores: cores of these pods.
        hourly: their price for an hour.
        per_million: the price of a million requests (or rows), were the load always there.
    """

    busy: float
    needed: int
    pods: int
    cores: int
    hourly: float
    per_million: float


def capacity(rate: float, cpu_ms: float, assumed: Assumptions) -> Capacity:
    """The capacity for ``rate`` requests (or rows) a second of ``cpu_ms`` CPU-milliseconds each."""
    busy = rate * cpu_ms / 1000
    needed = math.ceil(busy / (assumed.utilisation * assumed.cores))
    pods = assumed.zones * math.ceil(needed / (assumed.zones - 1))
    cores = pods * assumed.cores
    hourly = cores * assumed.price
    return Capacity(busy, needed, pods, cores, hourly, hourly / 3600 / rate * 1e6)


def costs(result: Result) -> list[Cost]:
    """What the requests of this service cost in a result.

    Raises:
        ValueError: the result has no figure of this service.
    """
    found = [
        Cost(title, rows, cpu_ms)
        for rows, key, title in LINES
        if (cpu_ms := result.figures(key, CONNECTIONS[rows], rows).cpu_ms) is not None
    ]
    if not found:
        raise ValueError("The result has no valid figure of this service: run `make benchmark` again.")
    return found


def table(cost: Cost, assumed: Assumptions) -> str:
    """Capacity by load."""
    what, rates = ("requests", REQUESTS) if cost.rows == 1 else ("rows", ROWS)
    rows = []
    for rate in rates:
        one = capacity(rate, cost.cpu_ms / cost.rows, assumed)
        cells = (f"{one.busy:,.1f}", f"{one.needed:,}", f"{one.pods:,}", f"{one.cores:,}", f"{one.hourly:,.2f}")
        rows.append((f"{rate:,}", *cells, f"{one.hourly * HOURS_A_MONTH:,.0f}", f"{one.per_million:.4f}"))
    speed = f"{cost.cpu_ms:.3g} CPU-ms a request, {1000 / cost.cpu_ms * cost.rows:,.0f} {what} a core and second"
    title = f"{cost.rows:,} row{'s' * (cost.rows > 1)} a request, {cost.line}: {speed}"
    columns = (f"{what}/s", "busy cores", "pods needed", "pods", "cores", "an hour", "a month", f"a million {what}")
    return report.table(title, columns, rows)


def text(costs: Sequence[Cost], assumed: Assumptions) -> str:
    """The computed part of the page."""
    head = (
        f"Pods of {assumed.cores} cores and as many workers; {assumed.utilisation:.0%} of the cores busy with one of "
        f"{assumed.zones} zones lost; {assumed.price:g} for a core and hour, {HOURS_A_MONTH} hours a month.\n"
    )
    return "\n".join([head, *(table(cost, assumed) for cost in costs)])


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m load_tests.benchmark.capacity", description=__doc__)
    defaults = Assumptions()
    parser.add_argument("--cores", type=int, default=defaults.cores, help="cores of a pod (%(default)s)")
    parser.add_argument("--utilisation", type=float, default=defaults.utilisation, help="0 to 1 (%(default)s)")
    parser.add_argument("--zones", type=int, default=defaults.zones, help="of which one may be lost (%(default)s)")
    parser.add_argument("--price", type=float, default=defaults.price, help="of a core for an hour (%(default)s)")
    parser.add_argument(
        "--report", type=Path, metavar="JSON", default=report.PUBLISHED, help="a result, as reports/benchmark.json"
    )
    options = parser.parse_args(arguments)
    try:
        assumed = Assumptions(options.cores, options.utilisation, options.zones, options.price)
        found = costs(Result.model_validate_json(options.report.read_bytes()))
    except (OSError, ValueError) as error:
        parser.error(str(error))
    sys.stdout.write(text(found, assumed))
    return 0


if __name__ == "__main__":
    sys.exit(main())
