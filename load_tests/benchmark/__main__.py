"""``python -m load_tests.benchmark``: measure and report; publish a result; compare two checkouts."""

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from load_tests.benchmark import capacity, report, runner
from load_tests.benchmark.compare import compare
from load_tests.benchmark.load import find
from load_tests.benchmark.plan import FULL, OURS, QUICK, QUICK_SERVERS, SERVERS
from load_tests.benchmark.result import Result, summarise
from load_tests.errors import LoadTestError
from local_service import PROJECT, bypass_proxies


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 1 if the benchmark cannot go on, else 0, even if a target is missed."""
    options = _options(arguments)
    bypass_proxies(os.environ)
    # Unwind when stopped, so that the servers stop.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    screen = Console(highlight=False, markup=False, soft_wrap=True)
    try:
        if options.publish:
            for path in publish(Result.model_validate_json(options.publish.read_bytes())):
                screen.print(f"Written: {path}")
        elif options.against:
            find("wrk")
            size = {"rounds": options.rounds, "seconds": options.seconds}
            checkouts = (options.checkout.resolve(), options.against.resolve())
            screen.print(compare(checkouts, only=options.only or (), say=screen.print, **size))
        else:
            find("wrk")
            _measure(options, screen)
    except (LoadTestError, OSError, ValueError) as error:
        screen.print(str(error), style="red")
        return 1
    return 0


def publish(result: Result) -> list[Path]:
    """Write the published result, and the sections of the pages that show it; return the paths."""
    report.PUBLISHED.write_text(
        result.model_copy(update={"samples": []}).model_dump_json(indent=1, exclude_defaults=True) + "\n"
    )
    pages = {
        report.README: ("benchmark", report.headline(result)),
        report.PAGE: ("benchmark", report.page(result)),
        capacity.PAGE: ("computed", capacity.text(capacity.costs(result), capacity.Assumptions())),
    }
    for page, (name, content) in pages.items():
        page.write_text(report.replace_section(page.read_text(), name, content))
    return [report.PUBLISHED, *pages]


def _measure(options: argparse.Namespace, screen: Console) -> None:
    tag, model = runner.deployed_model()
    plan = QUICK if options.quick else FULL
    chosen = options.only or (QUICK_SERVERS if options.quick else [server.key for server in SERVERS])
    servers = [server for server in SERVERS if server.key in chosen]
    started, seconds = time.monotonic(), plan.estimate(servers)
    screen.print(f"The benchmark takes about {seconds / 60:.0f} min, and the installation of the environments.")

    def say(text: str) -> None:
        screen.print(f"[{time.monotonic() - started:4.0f} s] {text}")

    day, revision, machine = datetime.now(UTC).date(), runner.revision(), runner.machine()
    run = runner.Benchmark(plan, model, say).measure(servers)
    result = summarise(run, plan, servers, day=day, revision=revision, model=tag, machine=machine)
    text = report.markdown(result)
    screen.print(text)
    options.output.mkdir(parents=True, exist_ok=True)
    for name, content in (("benchmark.json", result.model_dump_json(indent=1)), ("benchmark.md", text)):
        (options.output / name).write_text(content)
        screen.print(f"Written: {options.output / name}")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make benchmark", description="Compare the service with its alternatives.")
    keys = [server.key for server in SERVERS] + [line.key for line in OURS.lines[1:]]
    parser.add_argument("--quick", action="store_true", help=f"{', '.join(QUICK_SERVERS)} only, one short round")
    parser.add_argument("--only", action="append", choices=keys, metavar="NAME", help=f"one of {', '.join(keys)}")
    parser.add_argument("--output", type=Path, default=PROJECT / "reports", help="folder of the report (reports)")
    parser.add_argument(
        "--publish",
        metavar="JSON",
        type=Path,
        nargs="?",
        const=report.PUBLISHED,
        help="measure nothing; write a result into README.md and docs/ (default: the published one anew)",
    )
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="compare this service with another checkout")
    parser.add_argument("--checkout", type=Path, default=PROJECT, help="with --against: instead of this one")
    parser.add_argument("--rounds", type=int, default=6, help="with --against (%(default)s)")
    parser.add_argument("--seconds", type=int, default=3, help="with --against: of a load (%(default)s)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
