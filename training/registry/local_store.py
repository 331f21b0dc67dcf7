"""The SQLite file that MLflow keeps its store in, when no server does.

Two things that MLflow leaves to its users: that one process at a time creates what is missing, and that a project
folder can be moved or copied.
"""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

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
_OWN_FOLDERS = (("runs", "artifact_uri"), ("logged_models", "artifact_location"))
"""Those whose folder is of one run or model, and is named after its random id."""


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
    does the name of the database. Only paths in this project's ``mlruns/``, or in that of a folder where the project
    was before, are changed: an experiment may have its artifacts elsewhere.
    """
    path = database(uri)
    if path is None or path.is_absolute():
        return
    with contextlib.closing(sqlite3.connect(path, timeout=120)) as connection, connection:
        folders = {f"{Path.cwd() / _ARTIFACTS}/", *_former_folders(connection)}

        def relative(path: str | None) -> str | None:
            absolute = _absolute(path)
            for folder in folders:
                if absolute is not None and absolute.startswith(folder):
                    return _ARTIFACTS + absolute.removeprefix(folder)
            return path

        connection.create_function("project_path", 1, relative, deterministic=True)
        for table, column in _PATHS:
            connection.execute(
                f"UPDATE {table} SET {column} = project_path({column}) WHERE {column} != project_path({column})"  # noqa: S608 # names of ours
            )


def _former_folders(connection: sqlite3.Connection) -> Iterator[str]:
    """Each ``/…/mlruns/`` whose artifacts are in this project's: their paths have random names, which no other has."""
    for table, column in _OWN_FOLDERS:
        for (path,) in connection.execute(f"SELECT {column} FROM {table}"):  # noqa: S608 # names of ours
            root, found, below = (_absolute(path) or "").rpartition(f"/{_ARTIFACTS}")
            if found and Path(_ARTIFACTS, below).exists():
                yield f"{root}/{_ARTIFACTS}"


def _absolute(path: str | None) -> str | None:
    """An absolute path, also of a URI ``file:///…``; None for what is neither."""
    if path is not None and path.startswith("file:///"):
        return unquote(path.removeprefix("file://"))
    return path if path is not None and path.startswith("/") else None
