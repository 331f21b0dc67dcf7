"""``GET /logs/recent`` and ``GET /logs/stats``: what the ledger has, as JSON."""

import math
import re
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar
from urllib.parse import parse_qsl

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError, to_json
from sqlalchemy import Engine

from contract.errors import ErrorDetail, InvalidInput
from contract.feature import Value
from contract.table import FloatMatrix
from ledger.feedback import ID_PATTERN, canonical_id
from ledger.reader import MAXIMUM_LIMIT, SHOWN_ROWS, Bin, Logged, ModelVersion, Page, Reader, Stats
from ledger.times import from_iso, iso, now_us
from serving.access import Access
from serving.http.app import HttpRequest, HttpResponse, Route
from serving.http.errors import refusal
from serving.ledger_database import LedgerDatabase
from serving.telemetry.call import Endpoint, http_counter

RECENT = "/logs/recent"
STATS = "/logs/stats"
MAXIMUM_VALUES = 20_000
"""Maximum rows with values in one answer."""
MAXIMUM_QUERY_BYTES = 4096
_UNITS = {"m": 60, "h": 3600, "d": 86_400}
_OFFSET = re.compile(r" (\d\d:?\d\d)$")
_WINDOW = "([1-9][0-9]{0,4})([mhd])"

AnyQuery = TypeVar("AnyQuery", bound="Query")


def _time(text: object) -> object:
    try:
        # In a query a plus is a space, unless it is escaped.
        return from_iso(_OFFSET.sub(r"+\1", str(text)))
    except ValueError:
        message = "Should be a time of ISO 8601, such as 2026-11-27T03:35:16Z"
        raise PydanticCustomError("time", message) from None


def _window(text: object) -> object:
    match = re.fullmatch(_WINDOW, text) if isinstance(text, str) else None
    if match is None:
        raise PydanticCustomError("window", "Should be minutes, hours or days, such as 15m, 24h or 7d")
    return int(match[1]) * _UNITS[match[2]]


def _id(text: str) -> str:
    try:
        return canonical_id(text)
    except ValueError:
        raise PydanticCustomError("prediction_id", "Should be a prediction id, of 32 hexadecimal digits") from None


Time = Annotated[int, BeforeValidator(_time)]
Name = Annotated[str, Field(max_length=128)]


def _time_field(description: str) -> Any:
    extra = {"type": "string", "format": "date-time", "examples": ["2026-11-27T03:35:16Z"]}

    def replace(schema: dict[str, Any]) -> None:
        schema.clear()
        schema.update(extra, description=description)

    return Field(default=None, description=description, json_schema_extra=replace)


class Query(BaseModel):
    """The parameters of a query. A parameter without a value counts as absent."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Filters(Query):
    """Which predictions."""

    model: Name | None = Field(default=None, description="Of this model.")
    version: Name | None = Field(default=None, description="Of this version; needs the model too.")
    since: Time | None = _time_field("From this time on. Without an offset it is in UTC.")
    until: Time | None = _time_field("Before this time. Without an offset it is in UTC.")


class RecentFilters(Filters):
    """Which predictions of all."""

    prediction_id: Annotated[str, AfterValidator(_id)] | None = Field(
        default=None, description="This one.", json_schema_extra={"pattern": ID_PATTERN}
    )
    request_id: Name | None = Field(default=None, description="Of this request: its `X-Request-ID`.")
    cursor: Name | None = Field(default=None, description="The `cursor` of the page before.")

    def page(self, reader: Reader, *, limit: int, rows: int) -> Page:
        """The predictions, newest first.

        Raises:
            InvalidInput: names the parameter.
        """
        return reader.recent(
            model=self.model,
            version=self.version,
            since_us=self.since,
            until_us=self.until,
            prediction_id=self.prediction_id,
            request_id=self.request_id,
            cursor=self.cursor,
            limit=limit,
            shown_rows=rows,
        )


class RecentQuery(RecentFilters):
    """The parameters of ``/logs/recent``."""

    limit: int = Field(default=100, ge=1, le=MAXIMUM_LIMIT, description="Most predictions of the page.")
    rows: int = Field(default=SHOWN_ROWS, ge=1, le=10_000, description="Of each prediction, the first rows to show.")

    def check_size(self) -> None:
        """Refuse what would be an answer of many megabytes.

        Raises:
            InvalidInput: names ``rows``.
        """
        if self.limit * self.rows > MAXIMUM_VALUES:
            raise _refused("rows", f"should be at most {MAXIMUM_VALUES // self.limit} with a limit of {self.limit}")


class StatsQuery(Filters):
    """The parameters of ``/logs/stats``."""

    window: Annotated[int | None, BeforeValidator(_window)] = Field(
        default=None,
        description="Minutes, hours or days up to now, or to `until`; 24h without it and `since`.",
        json_schema_extra=lambda schema: schema.update(type="string", pattern=f"^{_WINDOW}$", examples=["24h"]),
    )

    @property
    def bounds(self) -> tuple[int, int]:
        """The window, in microseconds since 1970.

        Raises:
            InvalidInput: both ``window`` and ``since`` are given.
        """
        until = now_us() if self.until is None else self.until
        if self.since is None:
            return until - (86_400 if self.window is None else self.window) * 1_000_000, until
        if self.window is not None:
            raise _refused("window", "send it or since, not both")
        return self.since, until


class LoggedRow(BaseModel):
    """One row of a prediction."""

    row: int = Field(description="Its index in the prediction.")
    features: dict[str, Value] = Field(
        default={}, description="What was sent, by feature; left out where it is not on record (`LEDGER_FEATURES=off`)."
    )
    prediction: float | str = Field(description="The predicted value, or the name of the likeliest class.")
    probabilities: dict[str, float] = Field(default={}, description="By class; left out for regression.")
    actual: float | str = Field(default="", description="What came true; left out where it is not known.")


class LoggedPrediction(BaseModel):
    """One answered prediction call."""

    prediction_id: str = Field(description="As it was answered.")
    request_id: str = Field(description="Its `X-Request-ID`.")
    time: str = Field(description="When it was answered: ISO 8601, UTC.", examples=["2026-11-27T03:35:16.123456Z"])
    model: str = Field(description="Name of the model.")
    version: str = Field(description="Version that answered.")
    protocol: str = Field(description="`http`, `v2` or `grpc`.")
    milliseconds: float = Field(description="From the arrival of the call to its prediction.")
    row_count: int = Field(description="How many rows it had.")
    rows: list[LoggedRow] = Field(description="The first of them.")


class RecentPredictions(BaseModel):
    """Predictions on record, newest first."""

    predictions: list[LoggedPrediction]
    cursor: str | None = Field(description="For the page that follows; null on the last.")


class LoggedBin(BaseModel):
    """How many rows were predicted to be of a class, or from ``low`` to below ``high``; null where it is open."""

    label: str = Field(default="", description="Name of the class.")
    low: float | None = Field(default=None, description="Lower end, included.")
    high: float | None = Field(default=None, description="Upper end, excluded.")
    rows: int
    share: float = Field(description="Of the version's rows.")


class LoggedVersion(BaseModel):
    """What a version has done in a window."""

    model: str = Field(description="Name of the model.")
    version: str = Field(description="Version that answered.")
    requests: int = Field(description="Prediction calls answered.")
    rows: int = Field(description="Rows predicted.")
    latency_ms: dict[str, float | None] = Field(description="Quantiles: p50, p95, p99.")
    distribution: list[LoggedBin] = Field(description="Rows by predicted class, or by bin of the predicted value.")
    labelled_rows: int = Field(description="Rows whose true value is known.")
    feedback_share: float = Field(description="Share of the rows whose true value is known.")


class LoggedErrors(BaseModel):
    """Requests that were refused or failed."""

    model: str = Field(description="Empty where they are about none.")
    protocol: str = Field(description="`http`, `v2` or `grpc`.")
    status: int = Field(description="Of HTTP; for gRPC, the one that HTTP would have.")
    requests: int


class LoggedStats(BaseModel):
    """Statistics of a window."""

    since: str = Field(description="Its beginning: ISO 8601, UTC.")
    until: str = Field(description="Its end.")
    models: list[LoggedVersion]
    errors: list[LoggedErrors]


ANSWERS = (LoggedRow, LoggedPrediction, RecentPredictions, LoggedBin, LoggedVersion, LoggedErrors, LoggedStats)


def parse(kind: type[AnyQuery], request: HttpRequest) -> AnyQuery:
    """The parameters of a request.

    Raises:
        InvalidInput: names the parameter that does not hold.
    """
    text: bytes = request.scope["query_string"]
    if len(text) > MAXIMUM_QUERY_BYTES:
        raise InvalidInput(f"The query is longer than {MAXIMUM_QUERY_BYTES} bytes.")
    try:
        return kind.model_validate(dict(parse_qsl(text.decode("latin-1"))))
    except ValidationError as error:
        raise refusal(error) from None


def _refused(field: str, what: str) -> InvalidInput:
    message = f"{field}: {what}"
    return InvalidInput(message, [ErrorDetail((field,), message, field)])


class LogsApp:
    """Answers both routes."""

    def __init__(self, ledger: LedgerDatabase) -> None:
        self._ledger = ledger

    @property
    def routes(self) -> list[Route]:
        """The routes."""
        return [
            Route(Endpoint(path, "http", counter=http_counter(path)), handler, access=Access.LEDGER)
            for path, handler in ((RECENT, self.recent), (STATS, self.stats))
        ]

    async def recent(self, request: HttpRequest) -> HttpResponse:
        """Predictions, newest first."""
        query = parse(RecentQuery, request)
        query.check_size()

        def read(engine: Engine) -> bytes:
            page = query.page(Reader(engine), limit=query.limit, rows=query.rows)
            # Written here too: 20,000 rows would hold up the event loop.
            return to_json({"predictions": [logged(one) for one in page.predictions], "cursor": page.cursor})

        return HttpResponse(await self._ledger.run(read))

    async def stats(self, request: HttpRequest) -> HttpResponse:
        """Counts, latency and distributions of a window."""
        query = parse(StatsQuery, request)
        since, until = query.bounds

        def read(engine: Engine) -> bytes:
            found = Reader(engine).stats(since_us=since, until_us=until, model=query.model, version=query.version)
            return to_json(stats(found))

        return HttpResponse(await self._ledger.run(read))


def logged(one: Logged) -> dict[str, Any]:
    """A prediction as plain data: features by name, classes by name."""
    return {
        "prediction_id": one.id,
        "request_id": one.request_id,
        "time": iso(one.time_us),
        "model": one.model.model,
        "version": one.model.version,
        "protocol": one.protocol,
        "milliseconds": round(one.milliseconds, 3),
        "row_count": one.rows,
        "rows": [_row(one, index) for index in range(len(one.outputs))],
    }


def _row(one: Logged, index: int) -> dict[str, Any]:
    row: dict[str, Any] = {"row": index}
    if one.features is not None:
        values = zip(one.model.kinds, one.features[index].tolist(), strict=True)
        row["features"] = {feature.name: feature.decode(value) for feature, value in values}
    names = one.model.outputs
    row["prediction"] = shown_output(one.model, one.outputs, index)
    if len(names) > 1:
        row["probabilities"] = dict(zip(names, one.outputs[index].tolist(), strict=True))
    if index in one.actuals:
        row["actual"] = shown_value(one.model, one.actuals[index])
    return row


def shown_output(model: ModelVersion, outputs: FloatMatrix, index: int) -> float | str:
    """What was predicted for a row: the value, or the name of the likeliest class."""
    if len(model.outputs) == 1:
        return float(outputs[index, 0])
    return model.outputs[int(outputs[index].argmax())]


def shown_value(model: ModelVersion, value: float) -> float | str:
    """What came true: the value, or the name of the class."""
    return value if len(model.outputs) == 1 else model.outputs[int(value)]


def stats(found: Stats) -> dict[str, Any]:
    """Statistics as plain data."""
    return {
        "since": iso(found.since_us),
        "until": iso(found.until_us),
        "models": [
            {
                "model": one.model,
                "version": one.version,
                "requests": one.requests,
                "rows": one.rows,
                "latency_ms": {
                    f"p{share * 100:g}": None if math.isnan(value) else round(value, 3)
                    for share, value in one.latency_ms.items()
                },
                "distribution": _distribution(one.distribution, one.rows),
                "labelled_rows": one.labelled_rows,
                "feedback_share": round(one.feedback_share, 6),
            }
            for one in found.versions
        ],
        "errors": [
            {"model": one.model, "protocol": one.protocol, "status": one.status, "requests": one.requests}
            for one in found.errors
        ],
    }


def _distribution(bins: Sequence[Bin], rows: int) -> list[dict[str, Any]]:
    return [
        {
            **({"low": one.low, "high": one.high} if one.label is None else {"label": one.label}),
            "rows": one.rows,
            "share": round(one.rows / rows, 6),
        }
        for one in bins
    ]
