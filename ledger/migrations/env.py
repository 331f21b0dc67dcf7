"""Alembic runs this for each command: on the connection, and in the transaction, that it is given."""

from typing import Any, Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext

from ledger.schema import METADATA, PredictionId


def render_item(_: str, item: Any, autogenerate: AutogenContext) -> str | Literal[False]:
    """How a type of ours is written in a migration; False for Alembic's own way."""
    if not isinstance(item, PredictionId):
        return False
    autogenerate.imports.add("from ledger.schema import PredictionId")
    return "PredictionId()"


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    render_item=render_item,
    transactional_ddl=True,  # SQLite can, in the transaction that we begin ourselves
)
with context.begin_transaction():
    context.run_migrations()
