"""The base of all errors, and the errors of more than one room. Each room declares its own where they are raised.

Each error carries the HTTP status that it is answered with; 500 unless it says otherwise.

BundleError                 500
├── InvalidInput            400  a body or a value that the contract refuses
├── DataError               –    a table that breaks the contract
├── StartupError            –    start-up cannot go on: a setting, an artifact, a port
│   └── model.card          ContractMismatch
├── model.deployed          DeploymentError
├── model.session           ArtifactError
├── serving.errors          Unauthenticated 401, PermissionDenied 403, NotFound 404, MethodNotAllowed 405,
│                           Conflict 409, PayloadTooLarge 413, UnsupportedMediaType 415, UnsupportedEncoding 415,
│                           Overloaded 429, TooManyAttempts 429, InferenceFailed 500, NotReady 503, DatabaseAway 503,
│                           DeadlineExceeded 504
├── ledger.errors           LedgerError; ledger.jobs NotNow 409
├── training.errors         PipelineError
├── loop.errors             LoopError
├── load_tests.errors       LoadTestError
├── monitoring.errors       MonitoringError
├── deploy.errors           DeployError
└── local_service           ServiceNotStarted
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from reprlib import Repr
from types import MappingProxyType
from typing import ClassVar

from contract.violation import Violation

MAXIMUM_ECHO = 60
"""Most characters of what a client sent that a message repeats."""
_REPR = Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = MAXIMUM_ECHO


def cut(word: str) -> str:
    """A word of a client for a message, a label or a log line: ``MAXIMUM_ECHO`` characters at most."""
    return word if len(word) <= MAXIMUM_ECHO else f"{word[: MAXIMUM_ECHO - 1]}…"


def shown(value: object) -> str:
    """A value of a client as Python writes it, cut likewise. The time it takes does not grow with the value."""
    return repr(cut(value)) if isinstance(value, str) else cut(_REPR.repr(value))


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
    WRONG_TYPE = "wrong_type"
    UNKNOWN_CATEGORY = "unknown_category"
    OUT_OF_RANGE = "out_of_range"
    UNKNOWN_FIELD = "unknown_field"
    MALFORMED = "malformed"


OTHER = "other"
"""Label used when no known feature is at fault."""

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


class StartupError(BundleError):
    """Start-up cannot go on; the sentence says what to do."""


class DataError(BundleError):
    """Raw data breaks the contract. ``violations`` has every broken rule, in order of column and row."""

    def __init__(self, message: str, violations: Sequence[Violation] = ()) -> None:
        super().__init__(message)
        self.violations = tuple(violations)
