"""Write the migration for what has changed in ``ledger/schema.py``: ``python -m ledger.migrations "what changes"``."""

import sys
import tempfile
from pathlib import Path

from alembic import command

from ledger import database
from ledger.migrations import configuration, newest


def write(message: str) -> None:
    """Write a file in ``versions``: the difference between a database of the newest revision and the schema."""
    with tempfile.TemporaryDirectory() as folder:
        engine = database.connect(database.default_url(Path(folder)))
        database.migrate(engine)
        number = f"{int(newest() or '0') + 1:04}"
        with database.transaction(engine) as connection:
            command.revision(configuration(connection), message, autogenerate=True, rev_id=number)
        engine.dispose()


if __name__ == "__main__":
    write(sys.argv[1])
