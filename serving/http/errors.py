"""Errors as HTTP answers: what is wrong with a body, and the JSON that says it."""

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

from pydantic import BaseModel, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from contract.errors import OTHER, BundleError, ErrorDetail, InvalidInput, Reason, cut, shown
from contract.row import NOT_A_TIME, UNKNOWN_CATEGORY
from serving.errors import sentence

MAXIMUM_DETAILS = 100
"""Maximum reasons listed in one answer. No more are looked for; its sentence tells what was not checked."""
NAMED_UNKNOWN = 3
"""Unknown fields of an object that are named; the others are counted."""


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


Location = tuple[str | int, ...]
"""Where in a body: names and positions."""


class Reasons:
    """Why a body is refused: at most ``MAXIMUM_DETAILS`` reasons, and what they are about, for metrics.

    ``unchecked`` tells what was not checked, since there were enough reasons; "" for nothing.
    """

    def __init__(self) -> None:
        self.unchecked = ""
        self._details: list[ErrorDetail] = []
        self._count = 0
        self._refused: Counter[tuple[str, Reason]] = Counter()

    def __bool__(self) -> bool:
        return self._count > 0

    @property
    def enough(self) -> bool:
        """Whether no more need be looked for."""
        return self._count >= MAXIMUM_DETAILS

    def add(self, loc: Location, what: str, kind: str, reason: tuple[str, Reason] = (OTHER, Reason.MALFORMED)) -> None:
        """Take one reason: what is wrong at a place, of which kind, and how metrics count it."""
        self._refused[reason] += 1
        self._note(loc, what, kind)

    def add_all(self, error: ValidationError, loc: Location = ()) -> None:
        """Take the reasons of pydantic for what is at ``loc``."""
        for problem in error.errors(include_url=False, include_context=False):
            kind = "missing" if problem["input"] is None else problem["type"]
            self.add((*loc, *problem["loc"]), _what(problem), kind, _reason(problem))

    def check(self, model: type[BaseModel], content: object, loc: Location = ()) -> Any:
        """The object at ``loc`` as an instance of ``model``; None if it is refused.

        Unknown fields are counted, and the first few named: pydantic takes 6 µs for each.
        """
        if not isinstance(content, dict):
            self.add(loc, "input should be an object", "model_type")
            return None
        names = (field.alias or name for name, field in model.model_fields.items())
        known = {name: content[name] for name in names if name in content}
        valid = None
        try:
            valid = model.model_validate(known)
        except ValidationError as error:
            self.add_all(error, loc)
        if len(known) == len(content) or model.model_config.get("extra") != "forbid":
            return valid
        self.check_names(content, known, loc)
        return None

    def check_list(self, items: object, most: int, loc: Location = ()) -> bool:
        """Whether what is at ``loc`` is a list of 1 to ``most`` items."""
        if not isinstance(items, list):
            self.add(loc, "input should be a valid array", "list_type")
        elif not items:
            self.add(loc, "list should have at least 1 item, not 0", "too_short")
        elif len(items) > most:
            self.add(loc, f"list should have at most {most} items, not {len(items)}", "too_long")
        else:
            return True
        return False

    def check_names(self, content: Collection[str], known: Collection[str], loc: Location = ()) -> None:
        """Refuse fields of the object at ``loc`` that are not known."""
        unknown = [name for name in content if name not in known]
        if not unknown:
            return
        self._refused[OTHER, Reason.UNKNOWN_FIELD] += 1
        for name in unknown[:NAMED_UNKNOWN]:
            self._note((*loc, name), _UNKNOWN, "extra_forbidden")
        if len(unknown) > NAMED_UNKNOWN:
            self._note(loc, f"{len(unknown) - NAMED_UNKNOWN} more unknown fields", "extra_forbidden")

    def refusal(self) -> InvalidInput:
        """The refusal: a sentence about the first reason, and a detail for each."""
        more = [f"{self._count - 1} more"] if self._count > 1 else []
        more += [self.unchecked] if self.unchecked else []
        rest = f" (and {'; '.join(more)})" if more else ""
        return InvalidInput(f"{self._details[0].msg}{rest}", self._details, refused=self._refused)

    def _note(self, loc: Location, what: str, kind: str) -> None:
        self._count += 1
        if len(self._details) < MAXIMUM_DETAILS:
            loc = tuple(cut(part) if isinstance(part, str) else part for part in loc)
            self._details.append(ErrorDetail(loc, f"{_path(loc) or 'body'}: {what}", kind))


def refusal(error: ValidationError) -> InvalidInput:
    """The refusal of a query by its model."""
    reasons = Reasons()
    reasons.add_all(error)
    return reasons.refusal()


def checked(model: type[BaseModel], content: object) -> Any:
    """An object of a body as an instance of ``model``.

    Raises:
        InvalidInput: names the field.
    """
    reasons = Reasons()
    valid = reasons.check(model, content)
    if valid is None:
        raise reasons.refusal()
    return valid


def _reason(problem: Any) -> tuple[str, Reason]:
    """The feature and the reason of a problem; the row is the whole body, or one of its ``rows``."""
    loc = problem["loc"]
    if problem["type"] == "extra_forbidden":
        return OTHER, Reason.UNKNOWN_FIELD
    if loc and isinstance(loc[-1], str):
        if problem["input"] is None:
            return loc[-1], Reason.MISSING
        return loc[-1], _REASONS.get(problem["type"], Reason.NOT_A_NUMBER)
    return OTHER, Reason.MALFORMED


_REASONS = {
    "missing": Reason.MISSING,
    "greater_than_equal": Reason.OUT_OF_RANGE,
    "less_than_equal": Reason.OUT_OF_RANGE,
    "int_type": Reason.WRONG_TYPE,
    "bool_type": Reason.WRONG_TYPE,
    "string_type": Reason.WRONG_TYPE,
    "string_too_short": Reason.MISSING,
    NOT_A_TIME: Reason.WRONG_TYPE,
    UNKNOWN_CATEGORY: Reason.UNKNOWN_CATEGORY,
}
"""By type of error, pydantic's or ours; all other types mean that the value is not a finite number."""
_UNKNOWN = "unknown field"


def _what(problem: Any) -> str:
    if problem["type"] == "extra_forbidden":
        return _UNKNOWN
    if problem["type"] == "missing":
        return "the field is missing"
    if problem["input"] is None:
        return "the value is missing (null)"
    what = f"{problem['msg'][0].lower()}{problem['msg'][1:]}"
    if problem["type"] == "json_invalid" or isinstance(problem["input"], dict | list):
        return what
    value = problem["input"]
    return f"{what}, not {_JSON[value] if isinstance(value, bool) else shown(value)}"


_JSON = {True: "true", False: "false"}


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
        404: f"There is no {cut(request.url.path)}; GET /docs lists the routes.",
        405: f"{cut(request.url.path)} does not take {cut(request.method)}; GET /docs lists the routes.",
    }.get(error.status_code, error.detail)
    return JSONResponse({"error": sentence, "detail": []}, error.status_code, dict(error.headers or {}))
