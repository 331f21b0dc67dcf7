import sqlite3
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, inspect, text

from ledger import database
from ledger.errors import LedgerError
from ledger.migrations import configuration, newest, revision
from ledger.schema import METADATA
from local_service import PROJECT
from tests.ledger.processes import pool
from tests.postgres import PostgreSQL


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("sekret", "is not the URL of a database"),
        ("postgresql://user:sekret@host:port/name", "is not the URL of a database"),
        ("mysql://user:sekret@host/name", "'mysql' is not supported"),
        ("postgresql+psycopg2://user:sekret@host/name", "'postgresql\\+psycopg2' is not supported"),
        ("postgresql://user:sekret@host", "the name of the database is missing"),
        ("sqlite://", "SQLite needs the path of a file"),
        ("sqlite:///:memory:", "SQLite needs the path of a file"),
        ("sqlite://sekret/ledger.db", "SQLite needs the path of a file"),
    ],
)
def test_a_wrong_url_is_refused_without_its_password(url: str, sentence: str) -> None:
    with pytest.raises(LedgerError, match=sentence) as refused:
        database.connect(url)
    assert "postgresql://user:password@host" in str(refused.value)
    assert "sekret" not in str(refused.value)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_the_schemes_of_postgresql(scheme: str) -> None:
    engine = database.connect(f"{scheme}://user:p%40ss@host:5433/name?sslmode=require")
    assert engine.dialect.driver == "psycopg"
    assert database.place(engine) == "postgresql+psycopg://user:***@host:5433/name?sslmode=require"


def test_a_database_without_an_encoding_is_taken(postgresql: PostgreSQL) -> None:
    with psycopg.connect(postgresql.url("postgres"), autocommit=True) as connection:
        connection.execute("CREATE DATABASE plain ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
    engine = database.connect(postgresql.url("plain"))
    database.migrate(engine)
    with engine.connect() as reading:
        assert reading.scalar(text("SELECT 'größer'")) == "größer"
    engine.dispose()


def test_the_migrations_make_the_tables_of_the_schema(engine: Engine) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, METADATA) == []
        assert revision(connection) == newest()
    database.check(engine)


def test_migrations_go_back_too(engine: Engine) -> None:
    with database.transaction(engine) as connection:
        command.downgrade(configuration(connection), "base")
    assert inspect(engine).get_table_names() == ["alembic_version"]
    with pytest.raises(LedgerError, match="is at revision None, and this version needs"):
        database.check(engine)
    database.migrate(engine)
    database.check(engine)


def migrate_and_insert(url: str) -> None:
    engine = database.connect(url)
    database.migrate(engine)
    with database.transaction(engine) as connection:
        connection.execute(text("INSERT INTO errors VALUES (1, 'm', 'http', 400, 0) ON CONFLICT DO NOTHING"))
        connection.execute(text("UPDATE errors SET requests = requests + 1"))
    engine.dispose()


def test_many_processes_migrate_at_once(database_url: str) -> None:
    with pool(6) as workers:
        workers.map(migrate_and_insert, [database_url] * 12, chunksize=1)
    engine = database.connect(database_url)
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT requests FROM errors")) == 12
    engine.dispose()


def test_a_newer_database_is_refused(engine: Engine) -> None:
    with database.transaction(engine) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(LedgerError, match="at revision '9999', which this version does not know: a newer version"):
        database.migrate(engine)
    with engine.connect() as connection:
        assert revision(connection) == "9999"


def test_a_transaction_is_kept_whole_or_not_at_all(engine: Engine) -> None:
    def fail() -> None:
        with database.transaction(engine) as connection:
            connection.execute(text("INSERT INTO segments VALUES ('one', 1, 1)"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM segments")) == 0


def test_sqlite_reads_while_another_writes(tmp_path: Path) -> None:
    engine = database.connect(database.default_url(tmp_path / "state"))
    database.migrate(engine)
    with database.transaction(engine) as writer, engine.connect() as reader:
        writer.execute(text("INSERT INTO segments VALUES ('one', 1, 1)"))
        assert reader.scalar(text("SELECT count(*) FROM segments")) == 0
    with sqlite3.connect(tmp_path / "state" / "ledger.db") as other:
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert other.execute("PRAGMA auto_vacuum").fetchone() == (2,)
    engine.dispose()


def test_there_is_no_ledger_yet(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=r"There is no ledger at .*start the service"):
        database.check(database.connect(database.default_url(tmp_path)))
    assert not list(tmp_path.iterdir())


def test_workers_do_not_load_alembic() -> None:
    code = "import sys, ledger.store, ledger.reader; print('alembic' in sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "False"
