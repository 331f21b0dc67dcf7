"""The one door: every protocol asks a ``Predictor`` for a ``Prediction``, and nothing else calls a runner."""

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from random import Random
from time import perf_counter
from typing import NamedTuple, Protocol

from contract.errors import cut
from contract.table import FloatMatrix
from serving.batching.runner import Runner
from serving.batching.turns import Turns
from serving.errors import NotFound
from serving.models import LoadedModel
from serving.settings import Settings
from serving.telemetry import bulk
from serving.telemetry.call import Call
from serving.telemetry.model import ModelMetrics

logger = logging.getLogger(__name__)

PENDING_ROWS = 4096
"""With this many rows waiting, the observers are told at once, before the next flush."""

# Names, no secrets: as unlikely to collide as those of `uuid`, without a system call for each.
_RANDOM = Random()  # noqa: S311


class Prediction(NamedTuple):
    """The answer of one model to the rows of one call.

    A tuple, since a frozen data class takes four times as long to make.

    Args:
        id: a UUIDv7 as 32 hexadecimal digits, so that they sort by time. A row of a batch is ``id`` and its index.
        model, version: what answered.
        rows: ``[N, F]``, as validated.
        outputs: ``[N, K]``: the prediction (K = 1), or the probability of each class (K = C).
        call: who asked, and how.
        seconds: from the arrival of the call to this prediction.
        queue_seconds: from the arrival at the runner to the start of the first batch.
        inference_seconds: of the batches that held its rows, in the model.
    """

    id: str
    model: str
    version: str
    rows: FloatMatrix
    outputs: FloatMatrix
    call: Call
    seconds: float
    queue_seconds: float
    inference_seconds: float


class Observer(Protocol):
    """Gets every answered prediction, many at a time and after the answers were sent."""

    def predicted(self, predictions: Sequence[Prediction]) -> None:
        """Handle predictions, in the order of their answers. It runs on the event loop: be quick."""


class Observers:
    """Collects answered predictions and tells each observer of them within ``bulk.FLUSH_SECONDS``."""

    def __init__(self) -> None:
        self._observers: list[Observer] = []
        self._pending: list[Prediction] = []
        self._rows = 0

    def add(self, observer: Observer) -> None:
        """Tell one more observer, from the next prediction on."""
        self.write()  # Pending predictions were answered before it came.
        self._observers.append(observer)

    def remove(self, observer: Observer) -> None:
        """Tell an observer no longer."""
        self._observers.remove(observer)

    def note(self, prediction: Prediction) -> None:
        """Take a prediction that is about to be answered."""
        self._pending.append(prediction)
        self._rows += len(prediction.rows)
        bulk.note(self)
        if self._rows >= PENDING_ROWS:
            # After this turn of the event loop, in which the caller gets its answer.
            asyncio.get_running_loop().call_soon(self.write)
            self._rows = 0

    def write(self) -> None:
        """Tell the observers of what is pending."""
        pending, self._pending, self._rows = self._pending, [], 0
        if not pending:
            return
        for observer in self._observers:
            try:
                observer.predicted(pending)
            except Exception:
                # A bug of one observer must affect neither the callers nor the other observers.
                logger.exception("observer failed", extra={"observer": type(observer).__name__})


@dataclass(frozen=True, slots=True, eq=False)
class _Served:
    """A model and its runner. A call uses the same pair from its start to its answer."""

    model: LoadedModel
    runner: Runner


class Predictor:
    """Validated rows in, predictions out. The model behind it can be replaced while it serves.

    Args:
        model: the model to serve.
        settings: the limits of the runner.
        observers: are told of every prediction.
        turns: of large requests, shared by the models of a worker; its own, if they are left out.
    """

    def __init__(
        self, model: LoadedModel, settings: Settings, observers: Observers, turns: Turns | None = None
    ) -> None:
        self.dataset = model.dataset
        self._settings = settings
        self._observers = observers
        self._turns = Turns(settings.MAX_LATENCY_MS, settings.TIMEOUT_SECONDS) if turns is None else turns
        self._closed = False
        self._metrics = ModelMetrics(model.dataset)
        observers.add(self._metrics)
        self._served = self._serve(model)
        self._metrics.serve(model)

    @property
    def model(self) -> LoadedModel:
        """The model that is served now."""
        return self._served.model

    @property
    def version(self) -> str:
        """The version that is served now."""
        return self._served.model.version

    async def predict(self, rows: FloatMatrix, call: Call, version: str = "") -> Prediction:
        """Predict rows; they share batches with those of other calls.

        Args:
            rows: ``[N, F]``, N at least 1, which hold the contract.
            call: who asks; is told the version that answers.
            version: the only version that may answer; "" for whichever is served.

        Raises:
            NotFound: another version is served.
            Overloaded: the answer would take longer than ``MAX_LATENCY_MS``; nothing was run.
            DeadlineExceeded: there is no answer after ``TIMEOUT_SECONDS``.
            NotReady: the service is shutting down.
            InferenceFailed: the model raised.
        """
        # Read it once: the model that is named must be the one that answers, also during a replacement.
        served = self._served
        call.version = served.model.version
        if version:
            self.check_version(version)
        outputs, queue_seconds, inference_seconds = await served.runner.run(rows, call.arrived)
        prediction = Prediction(
            new_id(),
            self.dataset.name,
            served.model.version,
            rows,
            outputs,
            call,
            perf_counter() - call.started,
            queue_seconds,
            inference_seconds,
        )
        self._observers.note(prediction)
        return prediction

    def check_turn(self, size: int) -> None:
        """Refuse a body of this size, in bytes, before it is read, if it would be refused before it is parsed.

        Raises:
            Overloaded: its turn would come later than ``MAX_LATENCY_MS``.
        """
        self._turns.check(size, self._metrics.shed)

    def turn(self, size: int) -> AbstractAsyncContextManager[None]:
        """Parse, predict and answer a body of this size, in bytes, within this block: large ones take turns.

        Raises:
            Overloaded: its turn would come, or came, later than ``MAX_LATENCY_MS``.
            DeadlineExceeded: its turn did not come within ``TIMEOUT_SECONDS``.
        """
        return self._turns.take(size, self._metrics.shed)

    def check_version(self, version: str) -> None:
        """Refuse a version that is not the one served.

        Raises:
            NotFound: names both.
        """
        if version != self.version:
            raise NotFound(f"The model {self.dataset.name} is served in version {self.version}, not {cut(version)!r}.")

    async def replace(self, model: LoadedModel) -> None:
        """Serve another version from now on.

        Calls that were taken before are answered by the version that took them. Returns when the last one is.
        """
        replacement = self._serve(model)
        await asyncio.to_thread(replacement.runner.warm_up, model.artifact.golden_rows(model.dataset))
        former, self._served = self._served, replacement
        self._metrics.serve(model)
        if self._closed:
            await replacement.runner.close()
        await former.runner.close()

    def warm_up(self) -> None:
        """Run the model on its golden rows, so that the first caller does not pay for it."""
        self._served.runner.warm_up(self.model.artifact.golden_rows(self.dataset))

    async def close(self) -> None:
        """Refuse new calls and finish accepted ones. A replacement that is under way will refuse too."""
        self._closed = True
        await self._served.runner.close()

    def _serve(self, model: LoadedModel) -> _Served:
        settings = self._settings
        runner = Runner(
            model.dataset.name,
            model.artifact.outputs,
            max_batch_size=settings.MAX_BATCH_SIZE,
            max_latency_ms=settings.MAX_LATENCY_MS,
            timeout_seconds=settings.TIMEOUT_SECONDS,
        )
        runner.observer = self._metrics
        return _Served(model, runner)


def new_id() -> str:
    """A UUIDv7 as 32 hexadecimal digits: milliseconds since 1970, their fraction, 62 random bits (RFC 9562, 5.7)."""
    milliseconds, rest = divmod(time.time_ns(), 1_000_000)
    fraction = rest * 4096 // 1_000_000
    head = (milliseconds << 16) | 0x7000 | fraction
    return f"{head:016x}{0x8000000000000000 | _RANDOM.getrandbits(62):016x}"
