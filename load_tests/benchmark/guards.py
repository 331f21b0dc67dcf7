"""What the guards of HTTP cost: ``python -m load_tests.benchmark.guards`` loads this service without and with them.

Without: uvicorn's own protocol class, which has no door, and no limits of headers, connections and times. Both run at
once, and each round loads one and then the other, so that what else the machine does slows both alike. The figure to
read is the ratio of CPU-milliseconds a request, of all workers.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from statistics import median

from rich.console import Console

from load_tests.benchmark.ledger import compare, start
from load_tests.benchmark.load import find_wrk
from load_tests.benchmark.plan import OURS
from load_tests.benchmark.report import table
from load_tests.errors import LoadTestError
from local_service import bypass_proxies

UNGUARDED = replace(
    OURS,
    title="without",
    command=("bentoml", "serve", "load_tests.benchmark.peers.unguarded:PredictionService"),
    environment={**OURS.environment, "LEDGER": "off"},
)
GUARDED = replace(OURS, title="with", environment={**OURS.environment, "LEDGER": "off"})


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m load_tests.benchmark.guards", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=int, default=4, help="of a load (%(default)s)")
    options = parser.parse_args(arguments)
    screen = Console(highlight=False, markup=False, soft_wrap=True)
    try:
        find_wrk()
        bypass_proxies(os.environ)
        screen.print(measure(options.rounds, options.seconds))
    except (LoadTestError, OSError) as error:
        screen.print(str(error), style="red")
        return 1
    return 0


def measure(rounds: int, seconds: int) -> str:
    """Load each line of single rows over HTTP; a table of medians, and of the ratios' spread."""
    lines = []
    with ExitStack() as stack:
        servers = start(stack, (UNGUARDED, GUARDED))
        for line in (line for line in OURS.lines if not line.grpc and not line.rows_only):
            title, pairs = compare(servers, line, rounds, seconds)
            ratios = sorted(guarded.workers / without.workers for without, guarded in pairs)
            off, on = (median(cost.workers for cost in some) for some in zip(*pairs, strict=True))
            spread = f"{ratios[0] - 1:+.1%} to {ratios[-1] - 1:+.1%}"
            lines.append((title, f"{off:.4f}", f"{on:.4f}", f"{median(ratios) - 1:+.1%}", spread))
    heads = ("", "CPU-ms without", "with", "with against without", "of all rounds")
    return table("The guards' cost: medians of the rounds", heads, lines)


if __name__ == "__main__":
    sys.exit(main())
