"""``make demo``: traffic shifts, drift is found, a challenger is trained and takes over, the quality recovers.

The rows are those of the splits; true values come back after some seconds, as they would after some days. The service,
the ledger and the retraining work in a copy of the project, a temporary folder: models, registry, feedback and
``dvc.lock`` of the project itself stay as they are. At the end the service stays, to be looked at, until Ctrl-C; then
the copy is removed.
"""

import argparse
import asyncio
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack

import httpx
from rich.console import Console

from contract.errors import BundleError
from load_tests.demo.project import copied
from load_tests.demo.story import statistics, tell, told
from local_service import PROJECT, running_service

SECONDS = 45.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve, tell the story, and stay until Ctrl-C. Return 1 if something did not happen."""
    parser = argparse.ArgumentParser(
        prog="python -m load_tests.demo", description="The loop of the project, shown on a copy of it."
    )
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"length of the hour (default: {SECONDS:g})")
    parser.add_argument("--once", action="store_true", help="end after the story, and print the statistics")
    options = parser.parse_args(arguments)
    console = Console()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    ports = {"API_PORT": os.environ.get("API_PORT") or "8000", "GRPC_PORT": os.environ.get("GRPC_PORT") or "8001"}
    started = time.monotonic()
    try:
        with ExitStack() as stack:
            with console.status("copy the project, start the service"):
                project = stack.enter_context(copied(PROJECT))
                url = stack.enter_context(running_service(environment={**project.of_service, **ports}))
            console.print(
                f"A service at {url}, in a copy of the project, {project.folder}: your models, registry and feedback "
                "stay as they are.",
                soft_wrap=True,
            )
            target = f"127.0.0.1:{ports['GRPC_PORT']}"
            outcome = asyncio.run(tell(project, url, target, options.seconds, console))
            console.print(f"\n[bold]Told in {time.monotonic() - started:.0f} s.[/]", highlight=False)
            for line in told(outcome, project, url):
                console.print(line, highlight=False, soft_wrap=True)
            if options.once:
                console.print(statistics(url))
                return 1 if outcome.failed else 0
            console.print("\nThe service stays until Ctrl-C; then the copy is removed.")
            signal.pause()
    except BundleError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except httpx.HTTPError as error:
        sys.stderr.write(f"The service does not answer any more: {error!r}\n")
        return 1
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
