"""Traces, received as a collector receives them: OTLP over HTTP."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from contract.datasets.iris import IRIS
from local_service import PROJECT, running_service
from tests.waiting import wait_until


class Collector(ThreadingHTTPServer):
    """Keeps the spans that were sent to it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[ExportTraceServiceRequest] = []
        self.paths: set[str] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def spans(self) -> list[Span]:
        return [
            span
            for request in list(self.requests)
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.paths.add(self.path)
        self.server.requests.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_spans_are_exported(collector: Collector, pinned: Path) -> None:
    environment = {
        "MODELS_DIR": str(pinned),
        "WORKERS": "1",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    parent = f"00-{7:032x}-{9:016x}-01"
    with running_service(environment=environment) as url:
        httpx.get(f"{url}/health").raise_for_status()
        answer = httpx.post(f"{url}/predict/iris", json=IRIS.example, headers={"traceparent": parent})
        assert answer.status_code == 200
        wait_until(collector.spans, "a span")
    spans = collector.spans()
    assert collector.paths == {"/v1/traces"}
    assert {span.trace_id.hex() for span in spans} == {f"{7:032x}"}
    assert any("/predict/iris" in span.name for span in spans)


def test_no_request_pays_for_spans_that_nobody_collects(pinned: Path) -> None:
    code = (
        "import json, service; app = service.PredictionService.to_asgi()\n"
        "print(json.dumps([one.cls.__name__ for one in app.middlewares]))"
    )
    environment = {**os.environ, "MODELS_DIR": str(pinned), "OTEL_EXPORTER_OTLP_ENDPOINT": ""}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, env=environment, capture_output=True, text=True, check=True
    )
    names = json.loads(result.stdout.splitlines()[-1])
    assert "OpenTelemetryMiddleware" not in names
