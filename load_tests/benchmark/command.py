"""The command of a comparison: its options, its screen, and its errors."""

import argparse
import os
from collections.abc import Callable, Sequence

from rich.console import Console

from load_tests.benchmark.load import find
from load_tests.errors import LoadTestError
from local_service import bypass_proxies

Say = Callable[[str], object]
"""Prints a text."""


def run(
    module: str,
    description: str | None,
    measure: Callable[[int, int, Say], object],
    arguments: Sequence[str] | None = None,
    *,
    rounds: int,
    seconds: int = 4,
    tool: str = "wrk",
) -> int:
    """Run a comparison, and return 1 if it cannot go on, else 0.

    Args:
        module: its name below ``load_tests.benchmark``.
        description: for ``--help``.
        measure: takes the number of rounds and the seconds of a load, and prints what it finds.
        arguments: of the command; by default those of this process.
        rounds: unless ``--rounds`` says otherwise.
        seconds: unless ``--seconds`` says otherwise.
        tool: the load generator that it needs.
    """
    parser = argparse.ArgumentParser(prog=f"python -m load_tests.benchmark.{module}", description=description)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--seconds", type=int, default=seconds, help="of a load (%(default)s)")
    options = parser.parse_args(arguments)
    screen = Console(highlight=False, markup=False, soft_wrap=True)
    try:
        find(tool)
        bypass_proxies(os.environ)
        measure(options.rounds, options.seconds, screen.print)
    except (LoadTestError, OSError) as error:
        screen.print(str(error), style="red")
        return 1
    return 0
