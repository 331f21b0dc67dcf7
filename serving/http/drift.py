"""``POST /drift/detect``: drift of rows that the caller sends, or of the recent window of the ledger."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, Literal, Self, cast

from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator
from pydantic_core import PydanticCustomError
from sqlalchemy import Engine

from contract.dataset import MAXIMUM_BATCH_ROWS, Dataset
from contract.errors import cut
from ledger import windows
from ledger.reader import Reader
from ledger.times import now_us
from model.drift import Detector, Drift, Requests
from model.reference import Reference
from serving.bundle import Bundle
from serving.errors import DeadlineExceeded, Overloaded, UnsupportedMediaType
from serving.http.app import JSON, HttpRequest, HttpResponse, Route
from serving.http.body import media_type, most_tokens, parse_json, read_body
from serving.http.errors import Reasons, checked
from serving.http.rows import checked_rows, finished
from serving.ledger_database import LedgerDatabase
from serving.models import LoadedModel
from serving.settings import Settings
from serving.telemetry.call import Endpoint, http_counter

PATH = "/drift/detect"
DEFAULT_HOURS = 24
MAXIMUM_WAITING = 4
"""Maximum requests with rows that run or wait; one with 10,000 rows takes a fifth of a second."""
_HOUR_US = 3600 * 1_000_000


class DriftRequest(BaseModel):
    """What to compare with training: ``rows``, or predictions on record, by ``hours`` or ``newest_rows``."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    hours: float | None = Field(
        default=None, gt=0, le=36_500 * 24, description="Predictions of the last so many hours; 24 if nothing is sent."
    )
    newest_rows: int | None = Field(
        default=None, ge=1, le=windows.MAXIMUM_ROWS, description="So many of the newest predicted rows."
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = [name for name in ("rows", "hours", "newest_rows") if getattr(self, name, None) is not None]
        if len(given) > 1:
            raise PydanticCustomError("one_of", f"Send one of {' and '.join(given)}")
        return self


@cache
def request_of(dataset: Dataset) -> type[DriftRequest]:
    """The body of a request about a model."""
    rows: Any = list[dataset.row]  # type: ignore[name-defined]  # a class at run time
    name: Any = Literal[dataset.name]
    body: Any = create_model(
        f"{dataset.row.__name__}sDriftRequest",
        __base__=DriftRequest,
        __module__=__name__,
        __doc__=DriftRequest.__doc__,
        model=(name, Field(description="The model.")),
        rows=(
            rows | None,
            Field(default=None, min_length=1, max_length=MAXIMUM_BATCH_ROWS, description="Rows, as in a batch."),
        ),
    )
    return cast(type[DriftRequest], body)


class DriftApp:
    """Answers the requests of the route.

    Args:
        bundle: the models that are served.
        ledger: has the predictions on record.
        settings: the limits of size and time.
    """

    def __init__(self, bundle: Bundle, ledger: LedgerDatabase, settings: Settings) -> None:
        self._bundle = bundle
        self._most_tokens = max(most_tokens(dataset.json_fields) for dataset in bundle.datasets)
        name: Any = Literal[tuple(bundle.predictors)]
        self._of_model = create_model("OfModel", model=(name, ...))
        self._ledger = ledger
        self._limit = settings.MAX_BODY_BYTES
        self._seconds = settings.TIMEOUT_SECONDS
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="drift")
        self._waiting = 0
        self._detectors: dict[str, tuple[str, Detector]] = {}

    @property
    def route(self) -> Route:
        """The route."""
        return Route(Endpoint(PATH, "http", counter=http_counter(PATH)), self.answer, "POST")

    async def answer(self, request: HttpRequest) -> HttpResponse:
        """Body to rows to their drift."""
        kind = media_type(request.scope) or JSON
        if kind != JSON:
            raise UnsupportedMediaType(f"The body must be {JSON}, not {cut(kind)}.")
        body = await read_body(request.scope, request.receive, self._limit, self._seconds)
        try:
            drift = await asyncio.wait_for(self._detect(body), self._seconds)
        except TimeoutError:
            raise DeadlineExceeded(f"There was no answer within {self._seconds:g} seconds.") from None
        return HttpResponse(drift.model_dump_json().encode())

    async def _detect(self, body: bytes) -> Drift:
        if self._waiting >= MAXIMUM_WAITING:
            raise Overloaded(f"{MAXIMUM_WAITING} requests are compared or wait already. Try again.", 1)
        self._waiting += 1
        try:
            # Parsed there too: 10,000 rows would hold up the event loop.
            found = await asyncio.get_running_loop().run_in_executor(self._thread, self._of_rows, body)
        finally:
            self._waiting -= 1
        if isinstance(found, Drift):
            return found
        model, asked = found
        return await self._ledger.run(lambda engine: self._of_window(engine, model, asked))

    def _of_rows(self, body: bytes) -> Drift | tuple[LoadedModel, DriftRequest]:
        """The drift of rows that were sent; without any, what is to be compared instead."""
        content = parse_json(body, self._most_tokens)
        name = checked(self._of_model, content).model
        model, reasons, matrix = self._bundle[name].model, Reasons(), None
        rows = content.get("rows")
        if rows is not None:
            matrix = finished(checked_rows(model.dataset, rows, reasons, ("rows",)))
            # They count as sent by the caller, and are checked.
            content = {**content, "rows": [model.dataset.example]}
        asked = reasons.check(request_of(model.dataset), content)
        if reasons:
            raise reasons.refusal()
        if matrix is None:
            return model, asked
        return self._detector(model).detect(model.version, matrix, model.artifact.outputs(matrix))

    def _of_window(self, engine: Engine, model: LoadedModel, asked: DriftRequest) -> Drift:
        reader, name, now = Reader(engine), model.dataset.name, now_us()
        if asked.newest_rows is not None:
            window = windows.newest(reader, name, model.version, asked.newest_rows, until_us=now)
        else:
            since = now - int((asked.hours or DEFAULT_HOURS) * _HOUR_US)
            window = windows.last_hours(reader, name, model.version, since_us=max(since, 0), until_us=now)
        detector = self._detector(model)
        if window is None:
            return detector.detect(model.version, None, model.artifact.golden_rows(model.dataset)[:0])
        requests = Requests(window.requests, window.refused)
        return detector.detect_window(model.version, window.time_us, window.features, window.outputs, requests)

    def _detector(self, model: LoadedModel) -> Detector:
        name = model.dataset.name
        known = self._detectors.get(name)
        if known is None or known[0] != model.version:
            artifact = model.artifact
            reference = Reference.read(artifact.directory, artifact.card)
            known = self._detectors[name] = model.version, Detector(artifact.card, reference)
        return known[1]
