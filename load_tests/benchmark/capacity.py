"""How many replicas and cores a load needs, and what they cost: ``python -m load_tests.benchmark.capacity``.

From the CPU time of a request that the benchmark measured: as the README tells it, or with ``--report`` in a run of
one's own. ``--write`` puts the tables into ``docs/capacity.md``; other assumptions than the page's are options.
"""

import argparse
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from load_tests.benchmark.results import Report
from load_tests.benchmark.tables import TextTable, markdown

PROJECT = Path(__file__).parents[2]
README = PROJECT / "README.md"
PAGE = PROJECT / "docs" / "capacity.md"
BEGIN, END = "<!-- computed: begin -->", "<!-- computed: end -->"
SINGLE_ROWS = ("/predict/housing", "/v2 JSON")
"""Lines of the README's table, a row a request."""
BATCH_ROWS = 1000
BATCH_CPU_MS = {"/predict/housing/batch": 23.9, "/v2 binary": 14.1}
"""CPU-milliseconds of a request of ``BATCH_ROWS`` rows; how they were measured is on the page."""
LINES = {"ours": ("/predict/housing", "/predict/housing/batch"), "ours-v2": ("/v2 JSON", "/v2 JSON")}
LINES |= {"ours-grpc": ("gRPC", "gRPC"), "ours-binary": ("", "/v2 binary")}
"""What the lines of a report ask with one row (nothing: not at all), and with many."""
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


def published(readme: str) -> list[Cost]:
    """What requests cost: of one row in the README's table of the benchmark, of many rows as on the page.

    Raises:
        ValueError: the table lacks a line.
    """
    costs = []
    for line in SINGLE_ROWS:
        row = re.search(rf"^\| This service · {re.escape(line)} \|(.*)\|$", readme, re.MULTILINE)
        if row is None:
            raise ValueError(f"README.md has no line of this service's {line} in the table of its benchmark.")
        costs.append(Cost(line, 1, float(row.group(1).split("|")[3])))
    return costs + [Cost(line, BATCH_ROWS, cpu_ms) for line, cpu_ms in BATCH_CPU_MS.items()]


def of_run(report: Report) -> list[Cost]:
    """What they cost in a run of the benchmark.

    Raises:
        ValueError: it measured nothing of this service.
    """
    single = [(line, 1, report.cpu_ms(key)) for key, (line, _) in LINES.items() if line]
    batch = [
        (line, BATCH_ROWS, report.cpu_ms(key, report.rows_connections, BATCH_ROWS)) for key, (_, line) in LINES.items()
    ]
    found = [Cost(line, rows, figure.median) for line, rows, figure in single + batch if figure]
    if not found:
        raise ValueError("The report has no valid measure of this service: run `make benchmark` anew.")
    return found


def table(cost: Cost, assumed: Assumptions) -> TextTable:
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
    return TextTable(title, columns, rows)


def text(costs: Sequence[Cost], assumed: Assumptions) -> str:
    """The computed part of the page."""
    head = (
        f"Pods of {assumed.cores} cores and as many workers; {assumed.utilisation:.0%} of the cores busy with one of "
        f"{assumed.zones} zones lost; {assumed.price:g} for a core and hour, {HOURS_A_MONTH} hours a month."
    )
    tables = [table(cost, assumed) for cost in costs]
    return "\n".join([head, *(f"\n**{one.title}**\n\n{markdown(one)}".rstrip() for one in tables)])


def page(current: str, computed: str) -> str:
    """The page with its computed part anew.

    Raises:
        ValueError: the page has no place for it.
    """
    before, begin, rest = current.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"The page needs the lines {BEGIN} and {END}.")
    return f"{before}{BEGIN}\n{computed}\n{END}{after}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables, or write them into the page."""
    parser = argparse.ArgumentParser(prog="python -m load_tests.benchmark.capacity", description=__doc__)
    defaults = Assumptions()
    parser.add_argument("--cores", type=int, default=defaults.cores, help="cores of a pod (%(default)s)")
    parser.add_argument("--utilisation", type=float, default=defaults.utilisation, help="0 to 1 (%(default)s)")
    parser.add_argument("--zones", type=int, default=defaults.zones, help="of which one may be lost (%(default)s)")
    parser.add_argument("--price", type=float, default=defaults.price, help="of a core for an hour (%(default)s)")
    parser.add_argument("--report", type=Path, metavar="JSON", help="the run to take, as reports/benchmark.json")
    parser.add_argument("--write", action="store_true", help=f"into {PAGE.relative_to(PROJECT)}, with its assumptions")
    asked = parser.parse_args(arguments)
    try:
        assumed = Assumptions(asked.cores, asked.utilisation, asked.zones, asked.price)
        costs = (
            of_run(Report.model_validate_json(asked.report.read_bytes()))
            if asked.report
            else published(README.read_text())
        )
    except (OSError, ValueError) as error:
        parser.error(str(error))
    if asked.write and (asked.report or assumed != defaults):
        parser.error("The page has what is published: change the README's table or the defaults of capacity.py.")
    computed = text(costs, assumed)
    if asked.write:
        PAGE.write_text(page(PAGE.read_text(), computed))
    else:
        sys.stdout.write(f"{computed}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
