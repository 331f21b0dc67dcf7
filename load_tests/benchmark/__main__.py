"""``python -m load_tests.benchmark``: run, show, write the report."""

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from load_tests.benchmark import compare, deployment, machine, measure, terminal, writing, wrk
from load_tests.benchmark.errors import BenchmarkError
from load_tests.benchmark.plan import FULL, QUICK, QUICK_SERVERS
from load_tests.benchmark.results import Report
from load_tests.benchmark.servers import OURS, SERVERS, Server
from local_service import bypass_proxies

PROJECT = Path(__file__).parents[2]
REPORTS = PROJECT / "reports"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and report; the exit status: 1 if the benchmark cannot go on, 0 else, also where a target is missed."""
    asked = _arguments(arguments)
    bypass_proxies(os.environ)
    # A benchmark that is stopped unwinds as one that fails: its servers end.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    screen = terminal.Terminal()
    try:
        wrk.find()
        if asked.against:
            checkouts = (asked.checkout.resolve(), asked.against.resolve())
            compare.compare(
                checkouts, rounds=asked.rounds, seconds=asked.seconds, only=asked.only or (), screen=Console()
            )
            return 0
        report = Report.model_validate_json(asked.render.read_bytes()) if asked.render else _measure(asked, screen)
    except BenchmarkError as error:
        screen.error(str(error))
        return 1
    written = writing.write(report, asked.output)
    screen.report(report)
    screen.written(written)
    return 0


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make benchmark", description="This service beside its alternatives.")
    keys = [server.key for server in SERVERS] + [line.key for line in OURS.lines[1:]]
    parser.add_argument("--quick", action="store_true", help=f"{', '.join(QUICK_SERVERS)} only, one short round")
    parser.add_argument("--only", action="append", choices=keys, metavar="NAME", help=f"one of {', '.join(keys)}")
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="compare this service with another checkout")
    parser.add_argument("--checkout", type=Path, default=PROJECT, help="with --against: instead of this one")
    parser.add_argument("--rounds", type=int, default=6, help="with --against (default: %(default)s)")
    parser.add_argument("--seconds", type=int, default=3, help="with --against: of a round (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=REPORTS, help="folder of the reports (default: reports)")
    parser.add_argument("--render", type=Path, metavar="JSON", help="measure nothing; report an earlier run anew")
    return parser.parse_args(arguments)


def _measure(asked: argparse.Namespace, screen: terminal.Terminal) -> Report:
    wrk.find()
    model = deployment.find()
    plan = QUICK if asked.quick else FULL
    chosen = asked.only or (QUICK_SERVERS if asked.quick else [server.key for server in SERVERS])
    servers = [server for server in SERVERS if server.key in chosen]
    facts = machine.machine()
    with screen.progress(plan.estimate(servers)) as progress:
        commands, failures = measure.prepare(servers, progress)
        ready: list[Server] = [server for server in servers if server.environment_name in commands]
        benchmark = measure.Benchmark(model, plan, progress)
        started = time.time()
        benchmark.measure(ready, commands)
    return writing.report(
        benchmark.run, plan, ready, commands, failures=failures, machine=facts, model=model.tag, started=started
    )


if __name__ == "__main__":
    sys.exit(main())
