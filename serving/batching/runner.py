"""Adaptive batching: rows of concurrent requests run through the model together.

When the model is idle, a row runs at once. While a batch runs, new rows queue up, and then run as one batch. So batches
grow with the load, and no row waits for a timer.
"""

import asyncio
import logging
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import perf_counter
from typing import NamedTuple, Protocol

import numpy as np

from contract.table import FloatMatrix
from serving.batching.queue import BatchQueue, QueuedRows, Slice
from serving.batching.timer import BatchTimer
from serving.errors import DeadlineExceeded, InferenceFailed, NotReady, Overloaded

logger = logging.getLogger(__name__)

Model = Callable[[FloatMatrix], FloatMatrix]
"""Maps rows ``[N, F]`` to outputs ``[N, K]``; a row's output does not depend on the other rows."""


class BatchObserver(Protocol):
    """Gets told about the batches of a runner."""

    def batch(self, rows: int, seconds: float) -> None:
        """The model has answered a batch; ``rows`` and ``seconds`` say how large it was and how long it took."""

    def shed(self) -> None:
        """A call was refused because of the load."""


class Batched(NamedTuple):
    """What a runner answers to the rows of one call.

    ``outputs`` are ``[N, K]``. ``queue_seconds`` passed until the first batch with its rows started;
    ``inference_seconds`` is the time of all batches with its rows, in the model.
    """

    outputs: FloatMatrix
    queue_seconds: float
    inference_seconds: float


LOOP_SECONDS = 0.002
"""A batch that is predicted to take longer runs in a thread, so that the event loop keeps answering."""
CAUTION = 1.1
"""Factor on an estimated latency: estimates are off by some per cent, and the limit holds for the slowest call."""
WARM_UP_SIZES = (1, 1, 2, 4, 8, 16, 32, 64, 128, 256, 1, 64, 256)


class Runner:
    """A model and its adaptive batcher, for one event loop.

    Args:
        name: name of the model, for error messages.
        model: rows ``[N, F]`` to outputs ``[N, K]``.
        max_batch_size: maximum rows in one call of the model; a larger request is split.
        max_latency_ms: a request is refused at once if its answer is estimated to take longer, and refused before it
            runs if it has waited longer. An idle runner refuses nothing.
        timeout_seconds: maximum time a request waits for its answer.

    ``observer`` is told of every batch, once it is set.
    """

    def __init__(
        self, name: str, model: Model, *, max_batch_size: int, max_latency_ms: float, timeout_seconds: float
    ) -> None:
        self._name = name
        self._model = model
        self._max_batch_size = max_batch_size
        self._max_latency = max_latency_ms / 1000
        self._timeout = timeout_seconds
        self._queue = BatchQueue(max_batch_size)
        self._watcher: asyncio.TimerHandle | None = None
        self._scheduled_at: float | None = None
        self._running_until: float | None = None
        self._closing = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"runner-{name}")
        self.timer = BatchTimer()
        self.observer: BatchObserver | None = None

    def warm_up(self, rows: FloatMatrix) -> None:
        """Run these rows ``[N, F]`` in batches of several sizes, before there are callers.

        So the first caller is as fast as the others, and the timer knows how long a batch takes. No time limit applies.

        Raises:
            InferenceFailed: the model raised.
        """
        for size in WARM_UP_SIZES:
            batch = np.resize(rows, (min(size, self._max_batch_size), rows.shape[1]))
            started = perf_counter()
            self._call(batch)
            self.timer.observe(len(batch), perf_counter() - started)

    async def run(self, rows: FloatMatrix, arrived: float | None = None) -> Batched:
        """Run rows ``[N, F]``, N at least 1, and answer their outputs in the same order.

        Args:
            rows: of one call.
            arrived: when it had arrived, by ``perf_counter``: ``max_latency_ms`` counts from then. Default: now.

        Raises:
            Overloaded: the answer would take longer than ``max_latency_ms``; nothing was run.
            DeadlineExceeded: there is no answer after ``timeout_seconds``.
            NotReady: the runner is draining.
            InferenceFailed: the model raised, for this batch.
        """
        if self._closing:
            raise NotReady(f"The model {self._name} is shutting down.")
        now = perf_counter()
        busy = bool(self._queue.rows) or self._running_until is not None
        arrived = now if arrived is None else arrived
        if busy and (latency := now - arrived + self.estimated_latency(len(rows), now)) > self._max_latency:
            raise self._overloaded("an answer is estimated to take", latency)
        loop = asyncio.get_running_loop()
        request = QueuedRows(rows, loop.create_future(), arrived, now, behind=busy, missing=len(rows))
        self._queue.append(request)
        self._schedule(loop)
        try:
            outputs = await request.future
        except asyncio.CancelledError:
            self._queue.forget(request)
            raise
        return Batched(outputs, request.queue_seconds, request.inference_seconds)

    def estimated_latency(self, rows: int, now: float) -> float:
        """Seconds until rows that arrive ``now`` are answered; for more than one batch, until the first part is.

        A small request waits for the small ones in the queue, one that fits into one batch for one batch of each, and a
        larger one for the whole queue.
        """
        latency = 0.0
        if self._running_until is not None:
            latency = max(self._running_until - now, 0.0)
        queue = self._queue
        if queue.is_small(rows):
            before = queue.small_rows
        else:
            before = queue.next_rows if rows <= self._max_batch_size else queue.rows
        full, rest = divmod(before + min(rows, self._max_batch_size), self._max_batch_size)
        latency += full * (self.timer.gap + self.timer.predict(self._max_batch_size))
        if rest:
            latency += self.timer.gap + self.timer.predict(rest)
        return CAUTION * latency

    async def close(self) -> None:
        """Refuse new requests and finish those that were accepted."""
        self._closing = True
        await self._idle.wait()
        self._thread.shutdown()

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        # Run in the next turn of the event loop. By then, all requests read in this turn are in the queue.
        if self._running_until is None and self._scheduled_at is None:
            self._scheduled_at = perf_counter()
            self._idle.clear()
            loop.call_soon(self._run_batch, loop)

    def _overloaded(self, what: str, seconds: float) -> Overloaded:
        if self.observer is not None:
            self.observer.shed()
        return Overloaded(
            f"The model {self._name} is overloaded: {what} {seconds * 1000:.0f} ms, "
            f"over the limit of {self._max_latency * 1000:.0f} ms.",
            retry_after=math.ceil(seconds),
        )

    def _late(self) -> DeadlineExceeded:
        return DeadlineExceeded(f"There was no prediction within {self._timeout:g} seconds.")

    def _refusal(self, request: QueuedRows, now: float) -> DeadlineExceeded | Overloaded | None:
        """Why a request has waited too long to be run, or None."""
        if now - request.queued_at > self._timeout:
            return self._late()
        age = now - request.arrived
        if age > self._max_latency and request.behind and not request.taken:
            return self._overloaded("the request has waited", age)
        return None

    def _watch(self, loop: asyncio.AbstractEventLoop, batch: list[Slice]) -> None:
        """While a batch runs in the thread: fail requests that have waited too long, and schedule the next check."""
        now = perf_counter()
        waiting = dict.fromkeys([part.request for part in batch] + list(self._queue))
        for request in waiting:
            if request.queued_at <= now - self._timeout:
                self._queue.forget(request)
                request.fail(self._late())
        first = min((request.queued_at for request in waiting if not request.future.done()), default=now)
        self._watcher = loop.call_later(first + self._timeout - now, self._watch, loop, batch)

    def _run_batch(self, loop: asyncio.AbstractEventLoop) -> None:
        now = perf_counter()
        if self._scheduled_at is not None:
            self.timer.observe_gap(now - self._scheduled_at)
        self._scheduled_at = None
        batch = self._queue.take(partial(self._refusal, now=now))
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
            oldest = min(part.request.queued_at for part in batch)
            self._watcher = loop.call_later(max(oldest + self._timeout - started, 0), self._watch, loop, batch)
            future = loop.run_in_executor(self._thread, self._call, rows)
            future.add_done_callback(lambda done: self._finish(loop, batch, rows, started, done))

    def _finish(
        self,
        loop: asyncio.AbstractEventLoop,
        batch: list[Slice],
        rows: FloatMatrix,
        started: float,
        done: asyncio.Future[FloatMatrix],
    ) -> None:
        self._running_until = None
        if self._watcher is not None:
            self._watcher.cancel()
        error = done.exception()
        if error is not None:
            if not isinstance(error, InferenceFailed):  # such as sys.exit() in a model: callers must not wait for ever
                error = InferenceFailed(f"The model {self._name} failed on a batch of {len(rows)} rows: {error!r}")
            self._fail(batch, error)
        else:
            self._succeed(batch, rows, done.result(), started)
        self._go_on(loop)

    def _succeed(self, batch: list[Slice], rows: FloatMatrix, outputs: FloatMatrix, started: float) -> None:
        seconds = perf_counter() - started
        self.timer.observe(len(rows), seconds)
        self._deliver(batch, outputs, started, seconds)
        if self.observer is not None:
            self.observer.batch(len(rows), seconds)

    def _go_on(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._queue:
            self._schedule(loop)
        else:
            self._idle.set()

    def _call(self, rows: FloatMatrix) -> FloatMatrix:
        try:
            outputs = self._model(rows)
        except Exception as error:  # a model may raise anything: callers are told, and the stack is logged
            raise InferenceFailed(f"The model {self._name} failed on a batch of {len(rows)} rows: {error}") from error
        if len(outputs) != len(rows):
            raise InferenceFailed(f"The model {self._name} answered {len(rows)} rows with {len(outputs)} outputs.")
        return outputs

    def _deliver(self, batch: list[Slice], outputs: FloatMatrix, started: float, seconds: float) -> None:
        position = 0
        for request, start, count in batch:
            if not start:
                request.queue_seconds = started - request.queued_at
            request.inference_seconds += seconds
            part = outputs[position : position + count]
            position += count
            request.missing -= count
            if request.future.done():
                continue
            request.parts.append(part)
            if not request.missing:
                request.future.set_result(part if len(request.parts) == 1 else np.concatenate(request.parts))

    def _fail(self, batch: list[Slice], error: InferenceFailed) -> None:
        identifiers = [request.request_id for request, _, _ in batch]
        logger.error("batch failed", extra={"model": self._name, "request_ids": identifiers}, exc_info=error)
        for request, _, _ in batch:
            self._queue.forget(request)
            # An exception of its own for each caller: a shared one would gather every caller's traceback.
            request.fail(InferenceFailed(str(error)))
