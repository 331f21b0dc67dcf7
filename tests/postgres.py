"""A PostgreSQL server of our own, on a unix socket in a temporary directory."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",
    "full_page_writes": "off",
    "autovacuum_naptime": "5s",
    "log_min_messages": "panic",
}


class PostgreSQL:
    """A cluster in ``directory``; its superuser is ``ledger``. Root may not run it: then it belongs to ``postgres``."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._user: dict[str, Any] = {}
        if os.geteuid() == 0:
            account = pwd.getpwnam("postgres")
            self._user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
            os.chown(directory, account.pw_uid, account.pw_gid)
        self._process: subprocess.Popen[bytes] | None = None
        subprocess.run(
            [
                _program("initdb"),
                *("--pgdata", str(directory / "data"), "--username", "ledger", "--auth", "trust"),
                *("--encoding", "UTF8", "--locale", "C", "--no-sync", "--no-instructions"),
            ],
            cwd=directory,
            stdout=subprocess.DEVNULL,
            check=True,
            **self._user,
        )

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        settings = {**SETTINGS, "unix_socket_directories": str(self._directory)}
        self._process = subprocess.Popen(
            [
                _program("postgres"),
                *("-D", str(self._directory / "data")),
                *(part for name, value in settings.items() for part in ("-c", f"{name}={value}")),
            ],
            cwd=self._directory,
            **self._user,
        )
        # Ready in a fraction of a second; each attempt asks the server itself.
        while subprocess.run(
            [_program("pg_isready"), "--quiet", "--dbname", self.url("postgres"), "--timeout", "10"], check=False
        ).returncode:
            assert self._process.poll() is None, "PostgreSQL ended while it started"

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop the server, by default as an administrator does who does not wait for its clients."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(timeout=60)
            self._process = None

    def url(self, name: str) -> str:
        """The URL of a database."""
        return f"postgresql://ledger@/{name}?host={self._directory}"

    def new_database(self) -> str:
        """The URL of an empty schema, which is as good as a database: that would be 300 files, made and removed."""
        name = f"t{uuid.uuid4().hex}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {name}")
        return f"{self.url('postgres')}&options=-csearch_path%3D{name}"


@contextmanager
def running_postgresql() -> Iterator[PostgreSQL]:
    """Run a server for the length of a ``with`` block."""
    # The path of a socket has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="postgresql-", dir="/tmp") as directory:
        server = PostgreSQL(Path(directory))
        server.start()
        try:
            yield server
        finally:
            # Nobody needs what it has not written yet.
            server.stop(signal.SIGQUIT)


def _program(name: str) -> str:
    folders = [str(folder) for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    found = shutil.which(name, path=os.pathsep.join([*folders, os.environ.get("PATH", "")]))
    assert found, f"{name} is missing: install PostgreSQL, as .ci/install does"
    return found
