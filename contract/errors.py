"""The error tree. Each error carries the HTTP status it is answered with, declared here once.

BundleError                 500
├── InvalidInput            400  a body or a value that the contract refuses
├── NotFound                404  an unknown path, model or version
├── MethodNotAllowed        405  carries the method that is allowed
├── PayloadTooLarge         413
├── UnsupportedMediaType    415
│   └── UnsupportedEncoding 415  a body that is compressed, but not with gzip
├── Overloaded              429  shed; carries the seconds after which to try again
├── InferenceFailed         500  the model raised: our fault
├── NotReady                503  starting or draining
├── DeadlineExceeded        504  no prediction within the time limit
├── StartupError            –    start-up cannot go on: a setting, an artifact, a port
├── PipelineError           –    a pipeline stage cannot go on
│   └── DataError           –    raw data that breaks the contract
├── LoadTestError           –    a load test cannot start
└── MonitoringError         –    metrics cannot be read
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import ClassVar

from contract.violation import Violation


@dataclass(frozen=True)
class ErrorDetail:
    """One reason of a refusal: where in the body (``loc``), what is wrong (``msg``), of which kind (``type``)."""

    loc: tuple[str | int, ...]
    msg: str
    type: str


class BundleError(Exception):
    """Base of every error of ours. ``str(error)`` is one sentence for the user."""

    status: ClassVar[int] = 500

    def __init__(self, message: str, detail: Sequence[ErrorDetail] = ()) -> None:
        super().__init__(message)
        self.detail = tuple(detail)


class Reason(StrEnum):
    """Why a row is refused: for metrics and logs, which must not have the value that the sentence has."""

    MISSING = "missing"
    NOT_A_NUMBER = "not_a_number"
    OUT_OF_RANGE = "out_of_range"
    UNKNOWN_FIELD = "unknown_field"
    MALFORMED = "malformed"


OTHER = "other"
"""In the place of a feature, where the reason is not about one of the contract."""

Refused = Mapping[tuple[str, Reason], int]
"""How many rows were refused, by feature and reason."""


class InvalidInput(BundleError):
    """A malformed body, or a value that the contract refuses. Without ``refused`` the request itself is malformed."""

    status = 400

    def __init__(
        self, message: str, detail: Sequence[ErrorDetail] = (), *, refused: Refused = MappingProxyType({})
    ) -> None:
        super().__init__(message, detail)
        self.refused = refused or {(OTHER, Reason.MALFORMED): 1}


class NotFound(BundleError):
    """An unknown path, model or version."""

    status = 404


class MethodNotAllowed(BundleError):
    """A known path, asked with a method it does not have. ``allowed`` is the one it has."""

    status = 405

    def __init__(self, message: str, allowed: str) -> None:
        super().__init__(message)
        self.allowed = allowed


class PayloadTooLarge(BundleError):
    """A body over the size limit of the settings."""

    status = 413


class UnsupportedMediaType(BundleError):
    """A body that is not JSON."""

    status = 415


class UnsupportedEncoding(UnsupportedMediaType):
    """A body that is compressed with something other than gzip."""


class Overloaded(BundleError):
    """Shed: an answer would take longer than ``max_latency_ms``.

    ``retry_after`` is in whole seconds, as in the HTTP header.
    """

    status = 429

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class InferenceFailed(BundleError):
    """The model raised, or answered with the wrong number of rows."""


class NotReady(BundleError):
    """The service is starting or draining."""

    status = 503


class DeadlineExceeded(BundleError):
    """No prediction within the time limit of the settings."""

    status = 504


class StartupError(BundleError):
    """Start-up cannot go on; the sentence says what to do."""


class MonitoringError(BundleError):
    """Metrics cannot be read, neither from Prometheus nor from the service."""


class PipelineError(BundleError):
    """A pipeline stage cannot go on; the sentence says what to do."""


class DataError(PipelineError):
    """Raw data breaks the contract. ``violations`` has every broken rule, in order of column and row."""

    def __init__(self, message: str, violations: Sequence[Violation] = ()) -> None:
        super().__init__(message)
        self.violations = tuple(violations)


class LoadTestError(BundleError):
    """A load test cannot start: no rows to send, thresholds that do not parse; the sentence says what to do."""
