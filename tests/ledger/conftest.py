"""Every test of the database runs on SQLite and on PostgreSQL."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from ledger import database
from ledger.reader import Reader
from ledger.store import Store

# Before any metric is declared: two kinds of values in one process would write to the same file.
from serving import telemetry as telemetry
from tests.postgres import PostgreSQL, running_postgresql


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    with running_postgresql() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a new database without tables."""
    if request.param == "sqlite":
        return database.default_url(tmp_path)
    server: PostgreSQL = request.getfixturevalue("postgresql")
    return server.new_database()


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """The engine of a new database with tables."""
    engine = database.connect(database_url)
    database.migrate(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def store(engine: Engine) -> Store:
    return Store(engine)


@pytest.fixture
def reader(engine: Engine) -> Reader:
    return Reader(engine)
