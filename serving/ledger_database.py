"""The ledger's database, queried from threads, away from the event loop."""

import asyncio
import logging
import math
import sqlite3
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from time import monotonic
from typing import Any, TypeVar

from sqlalchemy import Engine
from sqlalchemy.exc import InterfaceError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as NoConnection

from contract.errors import BundleError
from ledger import database, quality
from ledger.quality import Quality, Window
from ledger.times import iso, now_us
from serving.errors import DatabaseAway, NotFound
from serving.settings import Settings

logger = logging.getLogger(__name__)

THREADS = 4
MAXIMUM_CALLS = 32
"""Maximum calls that run or wait for a thread; further callers are told to come back."""
RETRY_SECONDS = 5
TABLES_SECONDS = 10
"""Longest time that calls wait for the tables: the drainer makes them while a new service answers its first calls."""
TABLES_POLL_SECONDS = 0.1
QUALITY_SECONDS = 10
"""Seconds that live quality is cached: the drainer computes it every 30 seconds."""
QUALITY_WAIT_SECONDS = 1
"""Longest time that ``/models/info`` waits for it."""

T = TypeVar("T")


class LedgerDatabase:
    """The database of the settings. It is connected to when it is first asked."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._calls = 0
        self._no_tables_since: float | None = None
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="ledger-reader")

    async def run(self, work: Callable[[Engine], T]) -> T:
        """What ``work`` returns, called with the engine in a thread.

        Raises:
            NotFound: the ledger is off.
            DatabaseAway: the database does not answer, has no tables after a while, or has too much to do.
        """
        if self._settings.LEDGER == "off":
            raise NotFound("The ledger is off (LEDGER=off): predictions are not recorded.")
        if self._calls >= MAXIMUM_CALLS:
            raise DatabaseAway(f"{MAXIMUM_CALLS} calls wait for the ledger's database already. Try again.", 1)
        self._calls += 1
        try:
            while True:
                try:
                    found = await asyncio.get_running_loop().run_in_executor(self._threads, work, self._engine)
                except (OperationalError, InterfaceError, NoConnection, ProgrammingError) as error:
                    if not _lacks_tables(error):
                        raise
                    if not self._may_wait():
                        raise _away(error, _NO_TABLES) from None
                else:
                    self._no_tables_since = None
                    return found
                await asyncio.sleep(TABLES_POLL_SECONDS)
        except (OperationalError, InterfaceError, NoConnection) as error:
            raise _away(error, _AWAY) from None
        finally:
            self._calls -= 1

    def _may_wait(self) -> bool:
        """Whether it is early enough to wait for the tables."""
        if self._no_tables_since is None:
            self._no_tables_since = monotonic()
        return monotonic() - self._no_tables_since < TABLES_SECONDS

    @cached_property
    def _engine(self) -> Engine:
        return database.connect(self._settings.database_url)


_AWAY = "The ledger's database does not answer. Predictions are recorded all the same; try again later."
_NO_TABLES = (
    "The ledger's tables are not there, or not up to date: the service makes them when it starts, and its log says why "
    "it could not. Predictions are recorded all the same; try again later."
)
_UNDEFINED = ("42P01", "42703")
"""PostgreSQL's error codes for a table and a column that are not there."""


def _lacks_tables(error: Exception) -> bool:
    """Whether the drainer has not made the tables yet, or not brought those of a former version up to date."""
    cause = getattr(error, "orig", None)
    if isinstance(cause, sqlite3.Error):
        # It has no code of its own for this; errors of Python's module have none at all.
        return getattr(cause, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR
    return getattr(cause, "sqlstate", None) in _UNDEFINED


def _away(error: Exception, sentence: str) -> DatabaseAway:
    logger.warning("the ledger's database is away", extra={"reason": str(error.__cause__ or error)[:300]})
    return DatabaseAway(sentence, RETRY_SECONDS)


class LiveQuality:
    """The live quality of the served versions, as ``/models/info`` shows it."""

    def __init__(self, ledger: LedgerDatabase, minimum_rows: int) -> None:
        self._ledger = ledger
        self._minimum_rows = minimum_rows
        self._found: dict[tuple[str, str], Quality] = {}
        self._absent: str | None = None
        self._read_at = -math.inf
        self._reading: asyncio.Task[None] | None = None

    async def of(self, models: Mapping[str, str]) -> dict[str, dict[str, Any]]:
        """The quality of these versions, by model; ``absent`` says why if nothing is known."""
        if monotonic() - self._read_at >= QUALITY_SECONDS:
            if self._reading is None or self._reading.done():
                self._reading = asyncio.create_task(self._read())
            await asyncio.wait({self._reading}, timeout=QUALITY_WAIT_SECONDS)
            if not self._reading.done():
                self._absent = "The ledger's database has not answered yet."
        return {model: self._told(model, version) for model, version in models.items()}

    async def _read(self) -> None:
        try:
            found = await self._ledger.run(lambda engine: quality.read(engine, self._minimum_rows))
        except BundleError as error:
            self._found, self._absent = {}, str(error)
        else:
            self._found = {(one.model, one.version): one for one in found}
            self._absent = None
        self._read_at = monotonic()

    def _told(self, model: str, version: str) -> dict[str, Any]:
        found = self._found.get((model, version))
        if self._absent is not None:
            return {"absent": self._absent}
        if found is None:
            return {"absent": "No feedback on predictions of the last 7 days; POST /feedback takes it."}
        windows = {name: self._window(window) for name, window in found.windows.items()}
        return {"computed_at": iso(found.computed_us), "windows": windows}

    def _window(self, window: Window) -> dict[str, Any]:
        told: dict[str, Any] = {
            "labelled_rows": window.rows,
            "newest": iso(window.newest_us),
            "newest_age_seconds": round((now_us() - window.newest_us) / 1e6, 1),
        }
        if not window.metrics:
            return {**told, "absent": f"Fewer than {self._minimum_rows} labelled rows."}
        told["metrics"] = {name: round(value, 6) for name, value in window.metrics.items()}
        if window.recall:
            told["recall"] = {name: round(value, 6) for name, value in window.recall.items()}
            told["labelled_rows_by_class"] = window.class_rows
        return told
