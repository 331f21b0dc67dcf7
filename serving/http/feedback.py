"""``POST /feedback``: what came true for earlier predictions."""

import math
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError
from sqlalchemy import Engine

from contract.errors import ErrorDetail, InvalidInput, cut
from ledger import feedback
from ledger.feedback import ID_PATTERN, Answer, Outcome, Truth, canonical_id
from serving.access import Access
from serving.errors import UnsupportedMediaType
from serving.http.app import JSON, HttpRequest, HttpResponse, Route, json_response
from serving.http.body import media_type, most_tokens, parse_json, read_body
from serving.http.errors import MAXIMUM_DETAILS, ErrorReason, Reasons
from serving.ledger_database import LedgerDatabase
from serving.settings import Settings
from serving.telemetry import series
from serving.telemetry.call import Endpoint, http_counter

PATH = "/feedback"
MAXIMUM_ENTRIES = 10_000
MAXIMUM_CLASS_NAME = 200
_MAXIMUM_ROW = 2**31 - 1
"""Width of the column."""


def _check_actual(value: object) -> object:
    # One error of ours replaces pydantic's error for each type.
    if isinstance(value, str):
        good = len(value) <= MAXIMUM_CLASS_NAME
    else:
        good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not good:
        raise PydanticCustomError("actual_type", "Should be a finite number, or the name of a class")
    return value


def _check_id(value: str) -> str:
    try:
        return canonical_id(value)
    except ValueError:
        raise PydanticCustomError("prediction_id", "Should be a prediction id, of 32 hexadecimal digits") from None


class FeedbackEntry(BaseModel):
    """What came true for one row of a prediction."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    prediction_id: Annotated[str, AfterValidator(_check_id)] = Field(
        description="Of the prediction, as it was answered.",
        examples=["019abf3c52b071f4a1138a0d3c7c4f6d"],
        json_schema_extra={"pattern": ID_PATTERN},
    )
    row: int = Field(default=0, ge=0, le=_MAXIMUM_ROW, description="Index of the row in a batch, from 0.")
    actual: Annotated[float | str, BeforeValidator(_check_actual)] = Field(
        description="The true value, for regression; the name or the index of the true class, for classification.",
        examples=[4.526, "setosa"],
    )


class FeedbackResult(BaseModel):
    """What became of the entries."""

    taken: int = Field(description="Entries that are kept.")
    replaced: int = Field(description="Entries that replaced another value, which is kept as a correction.")
    unchanged: int = Field(description="Entries whose value was there already.")
    waiting: int = Field(
        description="Entries without a prediction on record. They are kept for an hour: it may be on its way."
    )
    refused: int = Field(description="Entries that are refused; `detail` says why.")
    unknown: list[str] = Field(description="The prediction ids of the entries that wait.")
    detail: list[ErrorReason] = Field(description="A reason for each refused entry, at most 100.")


EXAMPLE = [
    {"prediction_id": "019abf3c52b071f4a1138a0d3c7c4f6d", "actual": 4.526},
    {"prediction_id": "019abf3c530470c88d3e5b1f6a7c9e02", "row": 3, "actual": "setosa"},
]
_MOST_TOKENS = most_tokens(len(FeedbackEntry.model_fields))


class FeedbackApp:
    """Answers the requests of the route.

    Args:
        ledger: where feedback is kept.
        settings: the limits of size and time.
    """

    def __init__(self, ledger: LedgerDatabase, settings: Settings) -> None:
        self._ledger = ledger
        self._limit = settings.MAX_BODY_BYTES
        self._seconds = settings.TIMEOUT_SECONDS

    @property
    def route(self) -> Route:
        """The route."""
        endpoint = Endpoint(PATH, "http", counter=http_counter(PATH))
        return Route(endpoint, self.answer, "POST", access=Access.LEDGER)

    async def answer(self, request: HttpRequest) -> HttpResponse:
        """Body to entries to what became of them."""
        kind = media_type(request.scope) or JSON
        if kind != JSON:
            raise UnsupportedMediaType(f"The body must be {JSON}, not {cut(kind)}.")
        body = await read_body(request.scope, request.receive, self._limit, self._seconds)
        many = body.lstrip()[:1] == b"["

        def keep(engine: Engine) -> tuple[list[Truth], Answer]:
            # Parsed here too: 10,000 entries would hold up the event loop for some 10 ms.
            truths = _parse(body, many=many)
            return truths, feedback.give(engine, truths)

        truths, answer = await self._ledger.run(keep)
        for outcome, count in answer.counts.items():
            series.FEEDBACK.labels(outcome).inc(count)
        detail = [
            ErrorDetail((position, field) if many else (field,), _told(position, field, message, many=many), "refused")
            for position, (field, message) in list(answer.problems.items())[:MAXIMUM_DETAILS]
        ]
        if len(answer.problems) == len(truths):
            rest = f" (and {len(truths) - 1} more)" if len(truths) > 1 else ""
            raise InvalidInput(f"{detail[0].msg}{rest}", detail)
        pairs = zip(truths, answer.outcomes, strict=True)
        unknown = dict.fromkeys(truth.prediction_id for truth, outcome in pairs if outcome is Outcome.WAITING)
        listed: list[dict[str, Any]] = [{"loc": list(one.loc), "msg": one.msg, "type": one.type} for one in detail]
        return json_response({**answer.counts, "unknown": list(unknown), "detail": listed})


def _parse(body: bytes, *, many: bool) -> list[Truth]:
    """The entries of a body.

    Raises:
        InvalidInput: names the entry and the field.
    """
    content = parse_json(body, _MOST_TOKENS)
    reasons = Reasons()
    entries: list[FeedbackEntry] = []
    if not many:
        entries = [reasons.check(FeedbackEntry, content)]
    elif reasons.check_list(content, MAXIMUM_ENTRIES):
        for index, one in enumerate(content):
            entries.append(reasons.check(FeedbackEntry, one, (index,)))
            left = len(content) - index - 1
            if reasons.enough and left:
                reasons.unchecked = f"{left} of {len(content)} entries were not checked"
                break
    if reasons:
        raise reasons.refusal()
    return [Truth(entry.prediction_id, entry.row, entry.actual) for entry in entries]


def _told(position: int, field: str, message: str, *, many: bool) -> str:
    return f"[{position}].{field}: {message}" if many else f"{field}: {message}"
