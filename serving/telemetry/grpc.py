"""The series of gRPC, named as go-grpc-prometheus names them, where dashboards look for them.

The label ``model`` is ``unknown`` for a model that is not served, and "" where the method is not about one.
"""

from functools import cache

from prometheus_client import Counter, Gauge, Histogram

from serving.telemetry.calls import Calls

_HANDLED = Counter("grpc_server_handled", "gRPC calls answered.", ["grpc_service", "grpc_method", "grpc_code", "model"])
_SECONDS = Histogram(
    "grpc_server_handling_seconds",
    "Seconds from the arrival of a gRPC call to its answer.",
    ["grpc_service", "grpc_method", "grpc_code", "model"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
_IN_PROGRESS = Gauge(
    "grpc_server_in_progress",
    "gRPC calls that are being answered.",
    ["grpc_service", "grpc_method", "model"],
    multiprocess_mode="livesum",
)


@cache
def grpc_calls(service: str, method: str, model: str) -> Calls:
    """The series of a method and a model, which come from the registry: nothing grows without bound."""

    def answered(code: str) -> tuple[Counter, Histogram]:
        labels = (service, method, code, model)
        return _HANDLED.labels(*labels), _SECONDS.labels(*labels)

    return Calls(_IN_PROGRESS.labels(service, method, model), answered)
