"""Adaptive batching: rows of concurrent requests run through the model together.

Idle, a row runs at once. While a batch runs, what arrives gathers, and runs as one batch on completion. So a batch is
as large as the load makes it, and nobody waits for a timer.
"""

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from time import perf_counter
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from contract.errors import InferenceFailed, NotReady, Overloaded
from serving import request_id

logger = logging.getLogger(__name__)

FloatMatrix = NDArray[np.float64]
Model = Callable[[FloatMatrix], FloatMatrix]
"""Rows ``[N, F]`` to outputs ``[N, K]``; a row's output does not depend on the rows beside it."""


class Observer(Protocol):
    """Is told what a runner does."""

    def batch(self, rows: FloatMatrix, outputs: FloatMatrix, waits: Sequence[float], seconds: float) -> None:
        """Rows ``[N, F]`` became outputs ``[N, K]``; each request that began with it had waited so many seconds."""

    def shed(self) -> None:
        """A request was refused because of the load."""


LOOP_SECONDS = 0.002
"""A batch predicted to take longer than this runs in a thread, so that the event loop goes on answering."""


class BatchTimer:
    """Predicts the seconds a batch takes: ``fixed + per_row * rows``, by least squares, the recent weighing more."""

    def __init__(self, decay: float = 0.98) -> None:
        self._decay = decay
        self._weight = self._rows = self._seconds = self._rows_squared = self._product = 0.0
        self.fixed = 0.0
        self.per_row = 0.0

    def observe(self, rows: int, seconds: float) -> None:
        """Learn from one batch."""
        decay = self._decay
        self._weight = self._weight * decay + 1
        self._rows = self._rows * decay + rows
        self._seconds = self._seconds * decay + seconds
        self._rows_squared = self._rows_squared * decay + rows * rows
        self._product = self._product * decay + rows * seconds
        mean_rows, mean_seconds = self._rows / self._weight, self._seconds / self._weight
        variance = self._rows_squared / self._weight - mean_rows * mean_rows
        if variance < 1e-9 * (1 + mean_rows * mean_rows):
            # All batches had one size: the slope is unknown, and the line through the origin is the cautious guess.
            self.per_row = mean_seconds / mean_rows
        else:
            covariance = self._product / self._weight - mean_rows * mean_seconds
            self.per_row = min(max(covariance / variance, 0.0), mean_seconds / mean_rows)
        self.fixed = mean_seconds - self.per_row * mean_rows

    def predict(self, rows: int) -> float:
        """Seconds for one batch of ``rows``; 0 before the first observation."""
        return self.fixed + self.per_row * rows


@dataclass(eq=False)
class _Request:
    """Rows of one caller, and how far they are."""

    rows: FloatMatrix
    future: asyncio.Future[FloatMatrix]
    arrived: float = field(default_factory=perf_counter)
    request_id: str = field(default_factory=request_id.CURRENT.get)
    taken: int = 0
    missing: int = 0
    parts: list[FloatMatrix] = field(default_factory=list)

    @property
    def queued(self) -> int:
        return len(self.rows) - self.taken


class Runner:
    """A model and its adaptive batcher, for one event loop.

    Args:
        name: of the model, for error sentences.
        model: rows ``[N, F]`` to outputs ``[N, K]``.
        max_batch_size: most rows the model is given at once; a larger request is split.
        max_latency_ms: a request whose estimated wait is longer is refused at once.

    ``observer`` is told of every batch, once it is set.
    """

    def __init__(self, name: str, model: Model, *, max_batch_size: int, max_latency_ms: float) -> None:
        self._name = name
        self._model = model
        self._max_batch_size = max_batch_size
        self._max_latency = max_latency_ms / 1000
        self._queue: deque[_Request] = deque()
        self._queued_rows = 0
        self._scheduled = False
        self._running_until: float | None = None
        self._closing = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"runner-{name}")
        self.timer = BatchTimer()
        self.observer: Observer | None = None

    async def run(self, rows: FloatMatrix) -> FloatMatrix:
        """The model's outputs ``[N, K]`` for rows ``[N, F]``, N at least 1, in their order.

        Raises:
            Overloaded: the estimated wait is over ``max_latency_ms``; nothing was run.
            NotReady: the runner is draining.
            InferenceFailed: the model raised, for this batch.
        """
        if self._closing:
            raise NotReady(f"The model {self._name} is shutting down.")
        wait = self.estimated_wait()
        if wait > self._max_latency:
            if self.observer is not None:
                self.observer.shed()
            raise Overloaded(
                f"The model {self._name} is overloaded: the estimated wait is {wait * 1000:.0f} ms, "
                f"over the limit of {self._max_latency * 1000:.0f} ms.",
                retry_after=math.ceil(wait),
            )
        loop = asyncio.get_running_loop()
        request = _Request(rows, loop.create_future(), missing=len(rows))
        self._queue.append(request)
        self._queued_rows += len(rows)
        self._schedule(loop)
        try:
            return await request.future
        except asyncio.CancelledError:
            self._forget(request)
            raise

    def estimated_wait(self) -> float:
        """Seconds of work that was taken before: the batch that runs, and all that is queued.

        A small request may be begun sooner, between the parts of large ones; it is the work that must stay bounded.
        """
        wait = 0.0
        if self._running_until is not None:
            wait = max(self._running_until - perf_counter(), 0.0)
        if self._queued_rows:
            full, rest = divmod(self._queued_rows, self._max_batch_size)
            wait += full * self.timer.predict(self._max_batch_size)
            if rest:
                wait += self.timer.predict(rest)
        return wait

    async def close(self) -> None:
        """Refuse what comes, finish what was taken."""
        self._closing = True
        await self._idle.wait()
        self._thread.shutdown()

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        # A turn of the event loop later, every request that was read in this turn is in the queue.
        if self._running_until is None and not self._scheduled:
            self._scheduled = True
            self._idle.clear()
            loop.call_soon(self._run_batch, loop)

    def _forget(self, request: _Request) -> None:
        if request.queued:
            self._queue.remove(request)
            self._queued_rows -= request.queued
            request.taken = len(request.rows)

    def _take(self) -> list[tuple[_Request, int, int]]:
        """The next batch: slices of requests, first come first served.

        The rest of a request that is larger than a batch goes to the end of the queue, so that small ones need not
        wait for the whole of it.
        """
        batch = []
        room = self._max_batch_size
        for _ in range(len(self._queue)):
            request = self._queue.popleft()
            start = request.taken
            count = min(request.queued, room)
            request.taken += count
            room -= count
            batch.append((request, start, count))
            if request.queued:
                self._queue.append(request)
            if not room:
                break
        self._queued_rows -= self._max_batch_size - room
        return batch

    def _run_batch(self, loop: asyncio.AbstractEventLoop) -> None:
        self._scheduled = False
        batch = self._take()
        if not batch:
            self._idle.set()
            return
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("batch", extra={"model": self._name, "rows": [count for _, _, count in batch]})
        slices = [request.rows[start : start + count] for request, start, count in batch]
        rows = slices[0] if len(slices) == 1 else np.concatenate(slices)
        predicted = self.timer.predict(len(rows))
        if predicted <= LOOP_SECONDS:
            started = perf_counter()
            try:
                outputs = self._call(rows)
            except InferenceFailed as error:
                self._fail(batch, error)
            else:
                self._succeed(batch, rows, outputs, started)
            self._go_on(loop)
        else:
            started = perf_counter()
            self._running_until = started + predicted
            future = loop.run_in_executor(self._thread, self._call, rows)
            future.add_done_callback(lambda done: self._finish(loop, batch, rows, started, done))

    def _finish(
        self,
        loop: asyncio.AbstractEventLoop,
        batch: list[tuple[_Request, int, int]],
        rows: FloatMatrix,
        started: float,
        done: asyncio.Future[FloatMatrix],
    ) -> None:
        self._running_until = None
        error = done.exception()
        if isinstance(error, InferenceFailed):
            self._fail(batch, error)
        else:
            self._succeed(batch, rows, done.result(), started)
        self._go_on(loop)

    def _succeed(
        self, batch: list[tuple[_Request, int, int]], rows: FloatMatrix, outputs: FloatMatrix, started: float
    ) -> None:
        seconds = perf_counter() - started
        self.timer.observe(len(rows), seconds)
        self._deliver(batch, outputs)
        if self.observer is not None:
            waits = [started - request.arrived for request, start, _ in batch if not start]
            self.observer.batch(rows, outputs, waits, seconds)

    def _go_on(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._queue:
            self._schedule(loop)
        else:
            self._idle.set()

    def _call(self, rows: FloatMatrix) -> FloatMatrix:
        try:
            outputs = self._model(rows)
        except Exception as error:  # a model may raise anything: its callers are told, and the stack goes with it
            raise InferenceFailed(f"The model {self._name} failed on a batch of {len(rows)} rows: {error}") from error
        if len(outputs) != len(rows):
            raise InferenceFailed(f"The model {self._name} answered {len(rows)} rows with {len(outputs)} outputs.")
        return outputs

    def _deliver(self, batch: list[tuple[_Request, int, int]], outputs: FloatMatrix) -> None:
        position = 0
        for request, _, count in batch:
            part = outputs[position : position + count]
            position += count
            request.missing -= count
            if request.future.done():
                continue
            request.parts.append(part)
            if not request.missing:
                request.future.set_result(part if len(request.parts) == 1 else np.concatenate(request.parts))

    def _fail(self, batch: list[tuple[_Request, int, int]], error: InferenceFailed) -> None:
        identifiers = [request.request_id for request, _, _ in batch]
        logger.error("batch failed", extra={"model": self._name, "request_ids": identifiers}, exc_info=error)
        for request, _, _ in batch:
            self._forget(request)
            if not request.future.done():
                # An exception of its own for each caller: a shared one would gather every caller's traceback.
                request.future.set_exception(InferenceFailed(str(error)))
