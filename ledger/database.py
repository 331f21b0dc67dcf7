"""The database of the ledger: SQLite or PostgreSQL, by a URL."""

import fcntl
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Table, create_engine, event, make_url
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError

from ledger.errors import LedgerError

SUPPORTED = {
    "sqlite": "sqlite",
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
}
"""SQLAlchemy's driver by the scheme of the URL."""
EXAMPLES = "sqlite:////var/lib/predictions/ledger.db or postgresql://user:password@host:5432/database"
BUSY_SECONDS = 10
"""Seconds that a writer of SQLite waits for another one."""
_POSTGRESQL_DEFAULTS = {
    "application_name": "ml-prediction-ledger",
    "connect_timeout": "5",
    # Cache compiled queries: compiling takes longer than running any of ours.
    "options": "-c jit=off",
    # Without it, a database that was made without an encoding (SQL_ASCII) returns text as bytes.
    "client_encoding": "utf8",
    # Notice within 20 seconds that a server has vanished.
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "2",
    "tcp_user_timeout": "20000",
}
_WRITES = "ledger_writes"
_MIGRATION_LOCK = 0x6C6564676572
"""Key of PostgreSQL's advisory lock: "ledger"."""


def default_url(state: Path) -> str:
    """The URL of the SQLite file in the service's state directory."""
    return f"sqlite:///{state / 'ledger.db'}"


def connect(url: str) -> Engine:
    """The engine for a URL. Nothing is opened yet.

    Raises:
        LedgerError: the URL does not parse, or is of another database. The sentence holds no password.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise LedgerError(f"DATABASE_URL is not the URL of a database. Write it like {EXAMPLES}.") from None
    if parsed.drivername not in SUPPORTED:
        raise LedgerError(f"DATABASE_URL: {parsed.drivername!r} is not supported. Write it like {EXAMPLES}.")
    parsed = parsed.set(drivername=SUPPORTED[parsed.drivername])
    if parsed.get_backend_name() == "sqlite":
        if parsed.host or not parsed.database or parsed.database == ":memory:":
            # Several processes share the database.
            raise LedgerError(f"DATABASE_URL: SQLite needs the path of a file. Write it like {EXAMPLES}.")
        engine = create_engine(parsed, connect_args={"timeout": BUSY_SECONDS})
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    if not parsed.database:
        raise LedgerError(f"DATABASE_URL: the name of the database is missing. Write it like {EXAMPLES}.")
    defaults = {name: value for name, value in _POSTGRESQL_DEFAULTS.items() if name not in parsed.query}
    # A connection that broke while it was idle is replaced without an error.
    return create_engine(parsed, connect_args=defaults, pool_pre_ping=True)


def place(engine: Engine) -> str:
    """Where the database is, for people, without the password."""
    return engine.url.render_as_string(hide_password=True)


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """A transaction that writes: all of it is kept, or nothing.

    SQLite has one writer at a time: the lock is taken at the start, since a reader that begins to write may be refused.
    """
    with engine.connect().execution_options(**{_WRITES: True}) as connection, connection.begin():
        yield connection


def insert(engine: Engine | Connection, table: Table) -> "sqlite.Insert | postgresql.Insert":
    """An ``INSERT`` that has ``on_conflict_do_update`` and ``on_conflict_do_nothing``."""
    return postgresql.insert(table) if engine.dialect.name == "postgresql" else sqlite.insert(table)


def migrate(engine: Engine) -> None:
    """Bring the tables to what this code needs. Many processes may do so at once: one works, the others wait.

    Raises:
        LedgerError: the database is of a newer version of this code.
    """
    # The workers of the service need no migrations, and Alembic takes 10 MB.
    from ledger.migrations import upgrade

    if engine.dialect.name == "postgresql":
        with transaction(engine) as connection:
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})")
            upgrade(connection)
        return
    path = Path(str(engine.url.database))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _create_sqlite(path)
        with transaction(engine) as connection:
            upgrade(connection)


def check(engine: Engine) -> None:
    """Check that the database has the tables of this code, for programs that do not migrate it.

    Raises:
        LedgerError: it does not; the sentence says what to do.
    """
    from ledger.migrations import newest, revision

    where = place(engine)
    if engine.dialect.name == "sqlite" and not Path(str(engine.url.database)).exists():
        raise LedgerError(
            f"There is no ledger at {where}: start the service, which makes it, or set STATE_DIR or DATABASE_URL as "
            f"the service has them."
        )
    with engine.connect() as connection:
        found = revision(connection)
    if found != newest():
        raise LedgerError(
            f"The ledger at {where} is at revision {found}, and this version needs {newest()}: the service brings it "
            f"there when it starts; use the version of the service that did so last."
        )


def _create_sqlite(path: Path) -> None:
    """These settings last for the file's lifetime, and must be set before it has a page."""
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
    try:
        if not connection.execute("PRAGMA page_count").fetchone()[0]:
            # Writing a record of 1,000 rows takes 60 % of the time that it takes with pages of 4 kB.
            connection.execute("PRAGMA page_size = 16384")
            # Space of deleted rows goes back to the file system in small steps.
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        # Readers and the writer do not wait for each other.
        connection.execute("PRAGMA journal_mode = WAL")
    finally:
        connection.close()


def _set_up_sqlite(connection: Any, _: object) -> None:
    # We begin transactions ourselves.
    connection.isolation_level = None
    for pragma in (
        # A commit must be on the disk when it returns: the spool segment is deleted next.
        "synchronous = FULL",
        "foreign_keys = ON",
        "cache_size = -32768",
        "mmap_size = 268435456",
        "temp_store = MEMORY",
        # Shrink the log again after a large transaction.
        "journal_size_limit = 67108864",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
