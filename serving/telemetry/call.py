"""One call over HTTP or gRPC: identified, counted and logged in one place."""

from collections import Counter as Counts
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from time import perf_counter
from types import TracebackType
from typing import Any, Literal, Self

from bentoml import server_context
from prometheus_client import Counter, Gauge, Histogram

from contract.dataset import Dataset
from contract.errors import BundleError, InvalidInput
from serving.errors import NotReceived
from serving.telemetry import UNKNOWN, bulk, request_id, series
from serving.telemetry.model import count_refused
from serving.telemetry.request_log import RequestLog

CallProtocol = Literal["http", "v2", "grpc"]

INTERNAL = BundleError.status
OVERLOADED = 429
ARRIVED = "arrived"
"""In the state of an HTTP request, as ASGI has it: when it had arrived, by ``perf_counter``."""
CLIENT_CLOSED_REQUEST = 499
"""nginx's status for a client that left before it was answered. Only metrics and logs show it."""


class CallCounter:
    """The series of one HTTP endpoint or gRPC method.

    Args:
        in_progress: gauge of the calls that are being answered.
        answered: the counter and the histogram of seconds for a status.
        on_begun: called once for all calls that have begun since the last write.
    """

    def __init__(
        self,
        in_progress: Gauge,
        answered: Callable[[Any], tuple[Counter, Histogram]],
        on_begun: Callable[[], None] = lambda: None,
    ) -> None:
        self._gauge = in_progress
        self._answered = answered
        self._on_begun = on_begun
        self._in_progress = 0
        self._any_begun = False
        self._seconds: defaultdict[Any, list[float]] = defaultdict(list)
        self._series: dict[Any, tuple[Counter, Histogram]] = {}

    def begin(self) -> None:
        """Count a call that has arrived."""
        self._in_progress += 1
        self._any_begun = True
        bulk.note(self)

    def end(self, status: Any, seconds: float) -> None:
        """Count its answer, with its status and the seconds since its arrival."""
        self._in_progress -= 1
        self._seconds[status].append(seconds)
        bulk.note(self)

    def count_refused(self, status: Any, calls: int) -> None:
        """Count calls that were refused in the moment they arrived."""
        self._any_begun = True
        self._seconds[status] += [0.0] * calls
        bulk.note(self)

    def write(self) -> None:
        """Write the noted calls."""
        begun, self._any_begun = self._any_begun, False
        answered, self._seconds = self._seconds, defaultdict(list)
        self._gauge.set(self._in_progress)
        if begun:
            self._on_begun()
        for status, seconds in answered.items():
            counter, histogram = self._of(status)
            counter.inc(len(seconds))
            bulk.observe_all(histogram, seconds)

    def start_at_zero(self, *statuses: Any) -> None:
        """Create the series of these statuses at 0, so that a rate counts the first call too."""
        for status in statuses:
            self._of(status)

    def _of(self, status: Any) -> tuple[Counter, Histogram]:
        if status not in self._series:
            self._series[status] = self._answered(status)
        return self._series[status]


@cache
def http_counter(endpoint: str) -> CallCounter:
    """The series that BentoML has for HTTP, of one endpoint."""
    service = {
        "service_name": server_context.bento_name,
        "service_version": server_context.bento_version,
        "runner_name": server_context.service_name,
    }
    labels = {"endpoint": endpoint, **service}

    def answered(status: int) -> tuple[Counter, Histogram]:
        with_status = {**labels, "http_response_code": status}
        return series.HTTP_REQUESTS.labels(**with_status), series.HTTP_SECONDS.labels(**with_status)

    last = series.HTTP_LAST_REQUEST.labels(**service)
    return CallCounter(series.HTTP_IN_PROGRESS.labels(**labels), answered, last.set_to_current_time)


@cache
def grpc_counter(service: str, method: str, model: str) -> CallCounter:
    """The series of one gRPC method and model, named as go-grpc-prometheus names them."""

    def answered(code: str) -> tuple[Counter, Histogram]:
        labels = (service, method, code, model)
        return series.GRPC_HANDLED.labels(*labels), series.GRPC_SECONDS.labels(*labels)

    return CallCounter(series.GRPC_IN_PROGRESS.labels(service, method, model), answered)


@dataclass(frozen=True, eq=False, slots=True)
class Endpoint:
    """What a call asks for: a route of HTTP, or a method of gRPC and a model.

    Args:
        name: in metrics and logs.
        protocol: how it is asked.
        dataset: the model it is about; None for none.
        counter: its series; None for probes, scrapes and pages, which are not counted.
    """

    name: str
    protocol: CallProtocol
    dataset: Dataset | None = None
    counter: CallCounter | None = None

    def count_refused(self, status: int, calls: int) -> None:
        """Count calls that were refused with an HTTP status before they were read."""
        if self.counter is not None:
            self.counter.count_refused(status, calls)
        model = self.dataset.name if self.dataset else ""
        FAILURES.note(model, self.protocol, status, calls)
        if model and status == OVERLOADED:
            series.SHED.labels(model).inc(calls)


class Failures:
    """Requests that were refused or failed, by model ("" for none), protocol and status of HTTP.

    ``listeners`` are told of them within ``bulk.FLUSH_SECONDS``. There is one instance, ``FAILURES``.
    """

    def __init__(self) -> None:
        self.listeners: list[Callable[[Mapping[tuple[str, CallProtocol, int], int]], None]] = []
        self._counts: Counts[tuple[str, CallProtocol, int]] = Counts()

    def note(self, model: str, protocol: CallProtocol, status: int, requests: int = 1) -> None:
        """Count requests that were not answered with success."""
        if self.listeners:
            self._counts[model, protocol, status] += requests
            bulk.note(self)

    def write(self) -> None:
        """Tell the listeners."""
        counts, self._counts = self._counts, Counts()
        for listener in self.listeners:
            listener(counts)


FAILURES = Failures()


class Call:
    """A call from its arrival to its answer: a context manager around the work.

    The code that answers sets ``status``, and ``error`` if the call was refused or failed. ``version`` is the version
    of the model that answered, set by ``Predictor.predict``; "" until then.

    Args:
        endpoint: what it asks for.
        asked_id: the identifier that the caller asked for.
        log: writes the line of the call, if it is worth one.
        started: when it arrived, by ``perf_counter``; now, if it is left out.
    """

    __slots__ = (
        "_log",
        "code",
        "endpoint",
        "error",
        "request_id",
        "scope",
        "started",
        "status",
        "version",
    )

    def __init__(self, endpoint: Endpoint, asked_id: str | None, log: RequestLog, started: float | None = None) -> None:
        self.endpoint = endpoint
        self.request_id = request_id.begin(asked_id)
        self.version = ""
        self.status = CLIENT_CLOSED_REQUEST
        """Of HTTP; for gRPC, the one that HTTP would have."""
        self.code: str | None = None
        """Of gRPC; None for HTTP."""
        self.error: BaseException | None = None
        self.scope: Mapping[str, Any] | None = None
        """Of HTTP, as ASGI has it; None for gRPC."""
        self._log = log
        self.started = perf_counter() if started is None else started

    @property
    def arrived(self) -> float:
        """When the whole request had arrived, by ``perf_counter``; time spent waiting for the client does not count."""
        if self.scope is None:
            return self.started
        found: float = self.scope.get("state", {}).get(ARRIVED, self.started)
        return found

    def __enter__(self) -> Self:
        counter = self.endpoint.counter
        if counter is not None:
            counter.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, stack: TracebackType | None
    ) -> None:
        seconds = perf_counter() - self.started
        endpoint, status, failure = self.endpoint, self.status, self.error
        counter = endpoint.counter
        if counter is not None:
            counter.end(self.code or status, seconds)
            if status >= 400:
                model = endpoint.dataset.name if endpoint.dataset else ""
                FAILURES.note(model, endpoint.protocol, status)
                if isinstance(failure, NotReceived):
                    # The others are counted where they wait.
                    series.SHED.labels(model or UNKNOWN).inc()
        if isinstance(failure, InvalidInput) and endpoint.dataset is not None:
            count_refused(endpoint.dataset, failure.refused)
        # Answers to probes and pages are not logged, unless there is a bug.
        if (counter is not None or status == INTERNAL) and self._log.wants(status, seconds):
            self._log.write(status, seconds, failure, self._line())

    def _line(self) -> dict[str, Any]:
        line: dict[str, Any] = {"route": self.endpoint.name}
        if self.endpoint.dataset is not None:
            line["model"] = self.endpoint.dataset.name
        if self.version:
            line["version"] = self.version
        if self.scope is not None:
            line["method"] = self.scope["method"][:20]
        line["status"] = self.code or self.status
        if self.scope is not None and self.endpoint.name == UNKNOWN:
            line["path"] = self.scope["path"][:200]
        return line
