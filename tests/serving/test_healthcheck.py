import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from local_service import free_port
from serving import healthcheck


@pytest.fixture(params=[200, 503])
def answering(request: pytest.FixtureRequest) -> Iterator[tuple[int, int]]:
    """The port of a server that answers every probe with a status, and the status."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(request.param if self.path == "/readyz" else 404)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port, request.param
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("host", ["", "0.0.0.0", "127.0.0.1"])  # noqa: S104 - asked, not bound
def test_it_tells_whether_the_service_is_ready(answering: tuple[int, int], host: str) -> None:
    port, status = answering
    ended = subprocess.run(
        [sys.executable, "-IS", healthcheck.__file__],
        env={"API_HOST": host, "API_PORT": str(port)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr.strip()) == ((0, "") if status == 200 else (1, "/readyz answered 503"))


def test_a_service_that_is_not_there_is_no_stack_trace() -> None:
    port = free_port()
    told = healthcheck.problem({"API_PORT": str(port)})
    assert told is not None
    assert told.startswith(f"0.0.0.0:{port} does not answer: ")


def test_it_is_what_the_image_runs() -> None:
    template = (Path(healthcheck.__file__).parents[1] / "deploy" / "Dockerfile.j2").read_text()
    assert '"-IS", "/app/bento/src/serving/healthcheck.py"' in template
