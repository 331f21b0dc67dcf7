"""Load on a service of its own: starts ``bentoml serve``, runs Locust against it, stops the service.

``python -m load_tests.run [--ui] [options of Locust and of locustfile.py]``; see ``make load`` and ``make load-ui``.
"""

import subprocess
import sys
from pathlib import Path

from contract.errors import BundleError
from local_service import PROJECT, free_port, running_service

LOCUSTFILE = Path("load_tests/locustfile.py")
REPORT_FILE = Path("reports/load_test.html")
UI_PORT = 8089
STOP_SECONDS = 15
"""Time that users have, at the end, for the request they have sent."""


def locust_command(url: str, grpc_port: int, arguments: list[str], *, ui: bool) -> list[str]:
    """Locust's command line; ``arguments`` come last, so that they win."""
    if ui:
        mode = ["--web-host", "127.0.0.1", "--web-port", str(UI_PORT), "--no-thresholds"]
    else:
        mode = ["--headless", "--only-summary", "--html", str(REPORT_FILE)]
    return [
        *(sys.executable, "-m", "locust", "--locustfile", str(LOCUSTFILE)),
        *("--host", url, "--grpc-target", f"127.0.0.1:{grpc_port}", "--stop-timeout", str(STOP_SECONDS)),
        *mode,
        *arguments,
    ]


def main(arguments: list[str]) -> int:
    """Run Locust to its end and return its exit status: 1 if a threshold is broken."""
    ui = "--ui" in arguments
    passed = [argument for argument in arguments if argument != "--ui"]
    grpc_port = free_port()
    try:
        with running_service(environment={"GRPC_PORT": str(grpc_port)}) as url:
            command = locust_command(url, grpc_port, passed, ui=ui)
            if ui:
                page = f"http://127.0.0.1:{UI_PORT}"
                sys.stdout.write(f"The service is at {url}, Locust's page at {page}; stop both with Ctrl-C.\n")
            return subprocess.run(command, cwd=PROJECT, check=False).returncode  # noqa: S603 # our own command
    except BundleError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
