import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

Answer = Callable[[str, dict[str, str]], tuple[int, str]]
"""A path and its parameters to a status and a body."""


@contextmanager
def answering(answer: Answer) -> Iterator[str]:
    """The URL of an HTTP server on loopback."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            address = urlsplit(self.path)
            status, body = answer(address.path, {name: texts[0] for name, texts in parse_qs(address.query).items()})
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def service() -> Iterator[str]:
    """A ``/metrics`` on which Iris predicts 10 rows more at each look, all of them setosa."""
    registry = CollectorRegistry()
    requests = Counter(
        "bentoml_service_request", "Requests.", ["endpoint", "http_response_code"], registry=registry
    ).labels("/predict/iris", "200")
    predictions = Counter("ml_predictions", "Rows.", ["model", "version"], registry=registry).labels("iris", "v1")
    classes = Counter("ml_predicted_class", "Classes.", ["model", "label"], registry=registry)
    shares = Gauge("ml_class_reference_share", "Shares.", ["model", "label"], registry=registry)
    for label in ("setosa", "virginica"):
        shares.labels("iris", label).set(0.5)
    refused = Counter("ml_refused_rows", "Refused.", ["model", "feature", "reason"], registry=registry)
    information = Gauge(
        "ml_model_info", "Model.", ["model", "version", "run_id", "algorithm", "trained_at"], registry=registry
    )
    information.labels("iris", "v1", "run", "logistic", "2026-01-01").set(1)
    test = Gauge("ml_model_test_metric", "Test.", ["model", "version", "metric"], registry=registry)
    test.labels("iris", "v1", "accuracy").set(0.95)
    live = Gauge("ml_model_live_metric", "Live.", ["model", "version", "window", "metric"], registry=registry)
    labelled = Gauge("ml_model_labelled_rows", "Labelled.", ["model", "version", "window"], registry=registry)
    for window, count in (("7d", 900), ("24h", 400), ("1h", 12)):
        labelled.labels("iris", "v1", window).set(count)
    for window in ("7d", "24h"):
        live.labels("iris", "v1", window, "accuracy").set(0.9125)
    starts = Counter("ml_worker_starts", "Starts.", registry=registry)
    starts.inc(2)

    def answer(path: str, _: dict[str, str]) -> tuple[int, str]:
        if path != "/metrics":
            return 404, "{}"
        requests.inc(10)
        predictions.inc(10)
        classes.labels("iris", "setosa").inc(600)
        refused.labels("iris", "petal_width", "out_of_range").inc()
        return 200, generate_latest(registry).decode()

    with answering(answer) as url:
        yield url


@pytest.fixture
def prometheus() -> Iterator[str]:
    """Prometheus' HTTP API, with one series for every query; the query ``refused`` is refused."""

    def answer(path: str, parameters: dict[str, str]) -> tuple[int, str]:
        query = parameters.get("query", "")
        labels = {"__name__": "ml_worker_starts_total", "job": "ml-api", "model": "iris", "endpoint": "/predict/iris"}
        if query == "refused":
            return 400, json.dumps({"status": "error", "error": "parse error"})
        if path == "/api/v1/alerts":
            alert = {
                "labels": {"alertname": "NoTraffic", "severity": "ticket"},
                "annotations": {"summary": "Silence."},
                "state": "firing",
            }
            data: dict[str, object] = {"alerts": [alert, alert | {"state": "pending"}]}
        elif path == "/api/v1/query_range":
            points = [[1_800_000_000 + 60 * step, str(step / 10)] for step in range(5)]
            empty = query.startswith("model_bucket:reference_share")
            data = {"resultType": "matrix", "result": [] if empty else [{"metric": labels, "values": points}]}
        elif query == "1":
            data = {"resultType": "scalar", "result": [1_800_000_000, "1"]}
        else:
            data = {"resultType": "vector", "result": [{"metric": labels, "value": [1_800_000_000, "2"]}]}
        return 200, json.dumps({"status": "success", "data": data})

    with answering(answer) as url:
        yield url
