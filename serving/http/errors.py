"""Errors as HTTP answers: what is wrong with a body, and the JSON that says it."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from contract.errors import OTHER, BundleError, ErrorDetail, InvalidInput, Reason
from serving.errors import sentence

MAXIMUM_DETAILS = 100
"""Maximum reasons listed in one answer; its sentence tells how many there are."""
MAXIMUM_NAME = 60
"""Maximum characters of an unknown field name that are repeated in an answer."""


class ErrorReason(BaseModel):
    """One reason of a refusal."""

    loc: list[str | int] = Field(
        description="Where in the body: names and positions.", examples=[["rows", 3, "MedInc"]]
    )
    msg: str = Field(description="What is wrong, with the field.")
    type: str = Field(description="Kind of the problem, for programs.", examples=["less_than_equal"])


class Error(BaseModel):
    """Every error: one sentence that names the field, and a detail for each reason."""

    error: str = Field(description="What is wrong, and with which field.")
    detail: list[ErrorReason] = Field(description="At most 100 reasons; empty where the sentence says all.")


def refusal(error: ValidationError) -> InvalidInput:
    """The refusal of a body by the contract: a sentence about the first field, and a detail for each."""
    problems = error.errors(include_url=False, include_context=False)
    details = [_detail(problem) for problem in problems[:MAXIMUM_DETAILS]]
    rest = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return InvalidInput(f"{details[0].msg}{rest}", details, refused=Counter(map(_reason, problems)))


def _reason(problem: Any) -> tuple[str, Reason]:
    """The feature and the reason of a problem; the row is the whole body, or one of its ``rows``."""
    loc = problem["loc"]
    if problem["type"] == "extra_forbidden":
        return OTHER, Reason.UNKNOWN_FIELD
    if loc and isinstance(loc[-1], str):
        return loc[-1], _REASONS.get(problem["type"], Reason.NOT_A_NUMBER)
    return OTHER, Reason.MALFORMED


_REASONS = {
    "missing": Reason.MISSING,
    "greater_than_equal": Reason.OUT_OF_RANGE,
    "less_than_equal": Reason.OUT_OF_RANGE,
}
"""By pydantic's type of error; all other types mean that the value is not a finite number."""


def _detail(problem: Any) -> ErrorDetail:
    # An unknown field name may be of any length.
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


def flat_error(error: BundleError) -> dict[str, Any]:
    """The JSON body of an error, everywhere but under ``/v2``: one sentence, and a detail for each reason."""
    return {
        "error": sentence(error),
        "detail": [{"loc": list(one.loc), "msg": one.msg, "type": one.type} for one in error.detail],
    }


def http_exception_response(request: Request, error: Exception) -> Response:
    """Answer errors of BentoML's application (404, 405, 503) in our form."""
    if not isinstance(error, HTTPException):
        raise TypeError(
            f"http_exception_response answers HTTPException alone, not {type(error).__name__}: register it for that."
        ) from error
    sentence = {
        404: f"There is no {request.url.path}; GET /docs lists the routes.",
        405: f"{request.url.path} does not take {request.method}; GET /docs lists the routes.",
    }.get(error.status_code, error.detail)
    return JSONResponse({"error": sentence, "detail": []}, error.status_code, dict(error.headers or {}))
