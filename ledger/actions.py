"""Actions: who did what on an admin route."""

from dataclasses import asdict, dataclass

from sqlalchemy import Engine, insert

from ledger.database import transaction
from ledger.schema import ACTIONS


@dataclass(frozen=True, slots=True)
class Action:
    """One answered call of an admin route.

    Args:
        time_us: when it was answered, in microseconds since 1970, UTC.
        route: what was called.
        key: the first 16 digits of the SHA-256 hash of the key.
        client: the address it came from.
        request_id: as in its answer and in the log.
        status: of the answer, as HTTP has it.
    """

    time_us: int
    route: str
    key: str
    client: str
    request_id: str
    status: int


def record_action(engine: Engine, action: Action) -> None:
    """Write one action. Text that is longer than its column is cut off.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: the database is away, or has not been migrated yet.
    """
    values = asdict(action)
    for column in ACTIONS.columns:
        length = getattr(column.type, "length", None)
        if length is not None:
            values[column.name] = values[column.name][:length]
    with transaction(engine) as connection:
        connection.execute(insert(ACTIONS).values(values))
