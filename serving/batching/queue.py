"""The rows that wait for a runner, and the next batch of them."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

from contract.errors import BundleError
from contract.table import FloatMatrix
from serving.telemetry import request_id


@dataclass(eq=False, slots=True)
class QueuedRows:
    """The rows ``[N, F]`` of one call, and how far they are.

    ``arrived`` and ``queued_at`` are times of ``perf_counter``: when the request had arrived at the worker, and when
    its rows came here. ``behind``: True if other rows were already queued. ``missing`` rows have no output yet.
    ``queue_seconds`` and ``inference_seconds`` are filled in while its batches run.
    """

    rows: FloatMatrix
    future: asyncio.Future[FloatMatrix]
    arrived: float
    queued_at: float
    behind: bool
    missing: int
    request_id: str = field(default_factory=request_id.CURRENT.get)
    taken: int = 0
    queue_seconds: float = 0.0
    inference_seconds: float = 0.0
    parts: list[FloatMatrix] = field(default_factory=list)

    @property
    def queued(self) -> int:
        """How many rows are still in the queue."""
        return len(self.rows) - self.taken

    def fail(self, error: BundleError) -> None:
        """Pass an error to the caller, unless it already has an answer or has left."""
        if not self.future.done():
            self.future.set_exception(error)


SMALL_ROWS = 16
"""Requests up to this many rows go before larger ones, so that a single row does not wait for others' batches."""


class Slice(NamedTuple):
    """Some rows of one call, in a batch."""

    request: QueuedRows
    start: int
    size: int


class BatchQueue:
    """Requests in order of arrival, small ones first.

    Args:
        max_batch_size: maximum rows in a batch.
    """

    def __init__(self, max_batch_size: int) -> None:
        self.max_batch_size = max_batch_size
        self.rows = 0
        """Rows in the queue."""
        self.small_rows = 0
        """Rows of small requests."""
        self.next_rows = 0
        """Rows that run before those of a request that arrives now: at most one batch of each queued request."""
        self._small: deque[QueuedRows] = deque()
        self._others: deque[QueuedRows] = deque()

    def __len__(self) -> int:
        return len(self._small) + len(self._others)

    def __iter__(self) -> Iterator[QueuedRows]:
        return chain(self._small, self._others)

    def is_small(self, rows: int) -> bool:
        """Whether a request with this many rows goes before larger ones."""
        return rows <= SMALL_ROWS and rows <= self.max_batch_size

    def append(self, request: QueuedRows) -> None:
        """Add a new request."""
        self._count(request, 1)
        self._line(request).append(request)

    def forget(self, request: QueuedRows) -> None:
        """Drop the queued rows of a request."""
        if request.queued:
            self._line(request).remove(request)
            self._count(request, -1)
            request.taken = len(request.rows)

    def take(self, refusal: Callable[[QueuedRows], BundleError | None]) -> list[Slice]:
        """Remove and return the next batch; empty if the queue is.

        The rest of a request that is larger than a batch goes to the end of the queue, so that small requests do not
        wait for all of it. The rest of a smaller request, which only met a full batch, comes next.

        Args:
            refusal: the error to drop a request with, or None to run it.
        """
        batch = []
        room = self.max_batch_size
        while room and (line := self._small or self._others):
            request = line[0]
            error = refusal(request)
            if error is not None:
                self.forget(request)
                request.fail(error)
                continue
            line.popleft()
            self._count(request, -1)
            batch.append(Slice(request, request.taken, min(request.queued, room)))
            request.taken += batch[-1].size
            room -= batch[-1].size
            if request.queued:
                self._count(request, 1)
                large = len(request.rows) > self.max_batch_size
                (line.append if large else line.appendleft)(request)
        return batch

    def _count(self, request: QueuedRows, sign: int) -> None:
        """Add the queued rows of a request to the sums (1), or subtract them (-1)."""
        self.rows += sign * request.queued
        self.next_rows += sign * min(request.queued, self.max_batch_size)
        if self.is_small(len(request.rows)):
            self.small_rows += sign * request.queued

    def _line(self, request: QueuedRows) -> deque[QueuedRows]:
        return self._small if self.is_small(len(request.rows)) else self._others
