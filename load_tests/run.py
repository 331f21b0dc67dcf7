"""Run a load test: start ``bentoml serve``, run Locust against it, stop the service.

With ``--host`` it loads that service and starts none; ``API_KEY`` is a key, if that one asks for one.

``python -m load_tests.run [--ui] [options of Locust and of locustfile.py]``; see ``make load`` and ``make load-ui``.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn

from contract.errors import BundleError
from load_tests.errors import ONE_PROCESS
from local_service import PROJECT, bypass_proxies, free_port, running_service

LOCUSTFILE = "load_tests/locustfile.py"
REPORT_FILE = Path("reports/load_test.html")
HEADLESS = ("--headless", "--only-summary", "--html", str(REPORT_FILE))
UI = ("--web-host", "127.0.0.1", "--no-thresholds")
HOST = ("-H", "--host")
STOP_SECONDS = 15
"""Time for the users, at the end, to finish the request they have sent."""


def main(arguments: list[str]) -> int:
    """Run Locust to its end and return its exit status: 1 if a threshold is broken."""
    mode = UI if "--ui" in arguments else HEADLESS
    passed = [argument for argument in arguments if argument != "--ui"]
    if any(argument.partition("=")[0] == "--processes" for argument in passed):
        # Before Locust forks: those that it has forked would outlive it.
        sys.stderr.write(f"{ONE_PROCESS}\n")
        return 1
    locust = (sys.executable, "-m", "locust", "--locustfile", LOCUSTFILE, "--stop-timeout", str(STOP_SECONDS), *mode)
    grpc_port = free_port()
    bypass_proxies(os.environ)
    # Unwind when stopped, so that Locust and the service stop.
    signal.signal(signal.SIGTERM, _stop)
    try:
        # Locust takes the last of repeated options: the user's win.
        if any(argument.partition("=")[0] in HOST for argument in passed):
            return _run_locust([*locust, *passed])
        with running_service(environment={"GRPC_PORT": str(grpc_port)}) as url:
            return _run_locust([*locust, "--host", url, "--grpc-target", f"127.0.0.1:{grpc_port}", *passed])
    except BundleError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:  # while the service started
        return 128 + signal.SIGINT


def _run_locust(command: list[str]) -> int:
    with subprocess.Popen(command, cwd=PROJECT) as locust:  # noqa: S603 # our own command
        try:
            while True:
                try:
                    return locust.wait()
                except KeyboardInterrupt:  # it reached Locust too, which now ends the run and tells its figures
                    continue
        finally:
            locust.terminate()


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
