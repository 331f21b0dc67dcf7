"""BentoML's series of HTTP traffic, as ``RunnerTrafficMetricsMiddleware`` declares them, of one endpoint each."""

from typing import Any

from bentoml import server_context
from prometheus_client import Counter, Histogram

from serving.telemetry.calls import Calls


def http_calls(declared: Any, endpoint: str) -> Calls:
    """The series of one endpoint, looked up once: BentoML looks five up anew for each request.

    Args:
        declared: BentoML's middleware, which has declared them.
        endpoint: the name of the endpoint.
    """
    service = {
        "service_name": server_context.bento_name,
        "service_version": server_context.bento_version,
        "runner_name": server_context.service_name,
    }
    labels = {"endpoint": endpoint, **service}

    def answered(status: int) -> tuple[Counter, Histogram]:
        answer = {**labels, "http_response_code": status}
        return declared.metrics_request_total.labels(**answer), declared.metrics_request_duration.labels(**answer)

    last = declared.metrics_last_request_timestamp.labels(**service)
    return Calls(declared.metrics_request_in_progress.labels(**labels), answered, begun=last.set_to_current_time)
