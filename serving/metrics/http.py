"""BentoML's series of HTTP traffic, as ``RunnerTrafficMetricsMiddleware`` declares them, of one endpoint each."""

from time import time
from typing import Any

from bentoml import server_context
from prometheus_client import Counter, Gauge, Histogram


class HttpSeries:
    """The series of one endpoint, looked up once: BentoML looks five up anew for each request.

    Args:
        declared: BentoML's middleware, which has declared them.
        endpoint: the name of the endpoint.
    """

    def __init__(self, declared: Any, endpoint: str) -> None:
        service = {
            "service_name": server_context.bento_name,
            "service_version": server_context.bento_version,
            "runner_name": server_context.service_name,
        }
        self._labels = {"endpoint": endpoint, **service}
        self._total: Counter = declared.metrics_request_total
        self._seconds: Histogram = declared.metrics_request_duration
        self._in_progress: Gauge = declared.metrics_request_in_progress.labels(**self._labels)
        self._last: Gauge = declared.metrics_last_request_timestamp.labels(**service)
        self._by_status: dict[int, tuple[Counter, Histogram]] = {}

    def begin(self) -> None:
        """A request has come."""
        self._last.set(time())
        self._in_progress.inc()

    def end(self, status: int, seconds: float) -> None:
        """It was answered."""
        self._in_progress.dec()
        series = self._by_status.get(status)
        if series is None:
            labels = {**self._labels, "http_response_code": status}
            series = self._by_status[status] = (self._total.labels(**labels), self._seconds.labels(**labels))
        series[0].inc()
        series[1].observe(seconds)
