"""The migrations of the database, by Alembic.

A new one: change ``ledger/schema.py``; ``python -m ledger.migrations "what changes"`` writes a file in ``versions``;
read and correct it.
"""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from ledger.errors import LedgerError

FOLDER = Path(__file__).parent


def configuration(connection: Connection) -> Config:
    """Alembic's configuration, which has it work on this connection."""
    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def revision(connection: Connection) -> str | None:
    """The revision of the database; None before the first."""
    return MigrationContext.configure(connection).get_current_revision()


def newest() -> str | None:
    """The revision that this code needs; None before the first."""
    return ScriptDirectory(str(FOLDER)).get_current_head()


def upgrade(connection: Connection) -> None:
    """Bring the database to the newest revision, in the transaction of this connection.

    Raises:
        LedgerError: the revision of the database is not known here.
    """
    current = revision(connection)
    known = {script.revision for script in ScriptDirectory(str(FOLDER)).walk_revisions()}
    if current is not None and current not in known:
        raise LedgerError(
            f"The ledger's database is at revision {current!r}, which this version does not know: a newer version has "
            f"migrated it. Run that version or a later one, or give this one a database of its own by DATABASE_URL."
        )
    if current != newest():
        command.upgrade(configuration(connection), "head")
