"""The only map from errors to HTTP."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from bentoml.exceptions import BentoMLException
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from contract.errors import BundleError, ErrorDetail, InferenceFailed, InvalidInput, Overloaded, StartupError

logger = logging.getLogger(__name__)

MAXIMUM_DETAILS = 100
"""Most reasons listed in one answer; the sentence tells how many there are."""

INTERNAL_ERROR = "An internal error: this is our fault. The server's log has the reason."

MAXIMUM_NAME = 60
"""Most characters of a sender's field name that are repeated in an answer."""


def refusal(error: ValidationError) -> InvalidInput:
    """A body that the contract refuses, as one sentence with the first field and a detail for each."""
    problems = error.errors(include_url=False, include_context=False)[:MAXIMUM_DETAILS]
    details = [_detail(problem) for problem in problems]
    rest = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return InvalidInput(f"{details[0].msg}{rest}", details)


def _detail(problem: Any) -> ErrorDetail:
    # A field of the sender's own may be of any length.
    loc = tuple(part[:MAXIMUM_NAME] if isinstance(part, str) else part for part in problem["loc"])
    where = _path(loc) or "body"
    what = problem["msg"][0].lower() + problem["msg"][1:]
    if problem["type"] == "extra_forbidden":
        what = "unknown field"
    elif problem["type"] == "missing":
        what = "the field is missing"
    elif problem["type"] != "json_invalid" and not isinstance(problem["input"], dict | list):
        what = f"{what}, not {repr(problem['input'])[:60]}"
    return ErrorDetail(loc, f"{where}: {what}", problem["type"])


def _path(loc: Sequence[str | int]) -> str:
    """A location as people write it: ``rows[3].MedInc``."""
    path = ""
    for part in loc:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    return path.removeprefix(".")


def error_response(error: BundleError) -> Response:
    """The JSON body of an error, with its status and headers."""
    headers = {"Retry-After": str(error.retry_after)} if isinstance(error, Overloaded) else {}
    if error.status == InferenceFailed.status:
        return _response(error.status, INTERNAL_ERROR, (), headers)  # the runner has logged why
    return _response(error.status, str(error), error.detail, headers)


def http_exception_response(request: Request, error: Exception) -> Response:
    """What Starlette refuses by itself (404, 405, 503) in the same form."""
    if not isinstance(error, HTTPException):
        raise TypeError from error
    sentence = {
        404: f"There is no {request.url.path}; GET /docs lists the routes.",
        405: f"{request.url.path} does not take {request.method}; GET /docs lists the routes.",
    }.get(error.status_code, error.detail)
    return _response(error.status_code, sentence, (), dict(error.headers or {}))


def internal_error_response(_: Request, __: Exception) -> Response:
    """Our bug: the server logs the stack, the client is told no more than that."""
    return _response(500, INTERNAL_ERROR, (), {})


def _response(status: int, sentence: str, detail: Sequence[ErrorDetail], headers: dict[str, str]) -> Response:
    details = [{"loc": list(one.loc), "msg": one.msg, "type": one.type} for one in detail]
    return JSONResponse({"error": sentence, "detail": details}, status, headers)


@contextmanager
def startup_errors() -> Iterator[None]:
    """Turn a ``StartupError`` into the exception that the ``bentoml`` command prints as one sentence."""
    try:
        yield
    except StartupError as error:
        raise BentoMLException(str(error)) from None
