"""Errors of the service, and what a client is told of them over any transport."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from bentoml import server_context
from bentoml.exceptions import BentoMLException

from contract.errors import BundleError, StartupError

logger = logging.getLogger(__name__)

INTERNAL_ERROR = "An internal error: this is our fault. The server's log has the reason."
"""The sentence that a client gets if we have a bug."""


class Unauthenticated(BundleError):
    """No key, or an unknown one."""

    status = 401


class PermissionDenied(BundleError):
    """A known key that does not open this route."""

    status = 403


class NotFound(BundleError):
    """An unknown path, model or version."""

    status = 404


class MethodNotAllowed(BundleError):
    """A known path, asked with a method it does not have. ``allowed`` is the one it has."""

    status = 405

    def __init__(self, message: str, allowed: str) -> None:
        super().__init__(message)
        self.allowed = allowed


class Conflict(BundleError):
    """The deployed or the previous model cannot be served; nothing was changed."""

    status = 409


class PayloadTooLarge(BundleError):
    """A body over the size limit of the settings."""

    status = 413


class UnsupportedMediaType(BundleError):
    """A body that is not JSON."""

    status = 415


class UnsupportedEncoding(UnsupportedMediaType):
    """A body that is compressed with something other than gzip."""


class Overloaded(BundleError):
    """Shed: the service has too much to do, as where an answer would take longer than ``max_latency_ms``.

    ``retry_after`` is in whole seconds, as in the HTTP header.
    """

    status = 429

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class NotReceived(Overloaded):
    """Shed while it was being received: too many unfinished requests at a time."""


class TooManyAttempts(BundleError):
    """Too many wrong keys from one client. ``retry_after`` is in whole seconds, as in the HTTP header."""

    status = 429

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class InferenceFailed(BundleError):
    """The model raised, or answered with the wrong number of rows."""


class NotReady(BundleError):
    """The service is shutting down, or its workers do not answer in time."""

    status = 503


class DatabaseAway(BundleError):
    """The ledger's database cannot be used now. ``retry_after`` is in whole seconds, as in the HTTP header."""

    status = 503

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DeadlineExceeded(BundleError):
    """No prediction within the time limit of the settings."""

    status = 504


def sentence(error: BundleError) -> str:
    """The sentence that a client gets. If an error is our fault, only the log has the reason."""
    return INTERNAL_ERROR if error.status == InferenceFailed.status else str(error)


def error_headers(error: BundleError) -> dict[str, str]:
    """The headers of an error's answer; in gRPC, its trailing metadata in lower case."""
    if isinstance(error, Overloaded | TooManyAttempts | DatabaseAway):
        return {"Retry-After": str(error.retry_after)}
    if isinstance(error, Unauthenticated):
        return {"WWW-Authenticate": "Bearer"}
    if isinstance(error, UnsupportedEncoding):
        return {"Accept-Encoding": "gzip"}
    return {"Allow": error.allowed} if isinstance(error, MethodNotAllowed) else {}


@contextmanager
def startup_errors() -> Iterator[None]:
    """Turn a ``StartupError`` into the exception that the ``bentoml`` command prints as one sentence.

    A worker logs the sentence and ends; BentoML would log the exception twice, with its stack.
    """
    try:
        yield
    except StartupError as error:
        if server_context.worker_index is not None:
            logger.critical("this worker cannot start: %s", error)
            raise SystemExit(1) from None
        raise BentoMLException(str(error)) from None
