"""The SQLite file that MLflow keeps its store in, when no server does.

Two things that MLflow leaves to its users: that one process at a time creates what is missing, and that a project
folder can be moved or copied.
"""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

_PREFIX = "sqlite:///"
_ARTIFACTS = "mlruns/"
"""The folder beside the database that MLflow puts artifacts into by default."""
_PATHS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""The columns of MLflow's tables that hold paths of artifacts."""


def database(uri: str) -> Path | None:
    """The database file of a tracking URI; None if the store is not an SQLite file."""
    return Path(uri.removeprefix(_PREFIX).partition("?")[0]) if uri.startswith(_PREFIX) else None


@contextlib.contextmanager
def locked(uri: str) -> Iterator[None]:
    """Let one process at a time create what the store lacks: MLflow's own creation of tables and names is not safe.

    The lock is an SQLite transaction in a file beside the database. It ends with its process, however that ends. A
    server needs no lock.
    """
    path = database(uri)
    if path is None:
        yield
        return
    lock = path.with_suffix(".lock.db")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(lock, timeout=120, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield


def make_paths_relative(uri: str) -> None:
    """Make the paths of artifacts relative to the project, if the database is named relative to it.

    MLflow writes absolute paths, also when it is given others. With these a project that was moved finds none of its
    artifacts, and a copy writes into the original. MLflow resolves relative paths against the working directory, as it
    does the name of the database.
    """
    path = database(uri)
    if path is None or path.is_absolute():
        return
    with contextlib.closing(sqlite3.connect(path, timeout=120)) as connection, connection:
        connection.create_function("project_path", 1, _project_path, deterministic=True)
        for table, column in _PATHS:
            connection.execute(
                f"UPDATE {table} SET {column} = project_path({column}) WHERE {column} != project_path({column})"  # noqa: S608 # names of ours
            )


def _project_path(path: str | None) -> str | None:
    """``/home/me/project/mlruns/1/…`` as ``mlruns/1/…``; what is no such path, as it is."""
    if path is None or not path.startswith(("/", "file:///")):
        return path
    _, found, below = path.rpartition(f"/{_ARTIFACTS}")
    return f"{_ARTIFACTS}{below}" if found else path
