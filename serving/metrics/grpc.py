"""The series of gRPC, named as go-grpc-prometheus names them, where dashboards look for them.

The label ``model`` is ``unknown`` for a model that is not served, and "" where the method is not about one.
"""

from contextlib import AbstractContextManager
from functools import cache

from prometheus_client import Counter, Gauge, Histogram

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


class GrpcCall:
    """The series of one method and one model."""

    def __init__(self, service: str, method: str, model: str) -> None:
        self._labels = (service, method, model)
        self._in_progress = _IN_PROGRESS.labels(service, method, model)
        self._by_code: dict[str, tuple[Counter, Histogram]] = {}

    def in_progress(self) -> AbstractContextManager[None]:
        """Count a call while it lasts."""
        return self._in_progress.track_inprogress()

    def observe(self, code: str, seconds: float) -> None:
        """Count an answered call: the name of its status code, and the seconds it took."""
        series = self._by_code.get(code)
        if series is None:
            service, method, model = self._labels
            labels = (service, method, code, model)
            series = self._by_code[code] = (_HANDLED.labels(*labels), _SECONDS.labels(*labels))
        series[0].inc()
        series[1].observe(seconds)


grpc_call = cache(GrpcCall)
"""The series of a method and a model, which the caller takes from the registry: nothing grows without bound."""
