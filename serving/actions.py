"""Who did what on an admin route: a row of the ledger, or a line of the log where there is no ledger."""

import logging
import time
from dataclasses import asdict
from functools import partial

from sqlalchemy.exc import SQLAlchemyError

from ledger.actions import Action, record_action
from serving.errors import DatabaseAway
from serving.keys import Key
from serving.ledger_database import LedgerDatabase
from serving.telemetry.call import Call

logger = logging.getLogger(__name__)


class ActionLog:
    """Records each action before its answer is sent, so that no answered action is missing.

    Args:
        ledger: the ledger's database; None without a ledger.
    """

    def __init__(self, ledger: LedgerDatabase | None) -> None:
        self._ledger = ledger

    async def record(self, call: Call, key: Key, client: str) -> None:
        """Record what a call did. If the database does not take it, a warning with all of it is logged.

        Args:
            call: an answered call of an admin route.
            key: what it was let in with.
            client: the address it came from.
        """
        action = Action(
            time_us=time.time_ns() // 1000,
            route=call.endpoint.name,
            key=key.label,
            client=client,
            request_id=call.request_id,
            status=call.status,
        )
        # The request id is in every line.
        fields = {name: value for name, value in asdict(action).items() if name != "request_id"}
        if key.name:
            fields["key_name"] = key.name
        if self._ledger is None:
            logger.info("admin action", extra=fields)
            return
        try:
            await self._ledger.run(partial(record_action, action=action))
        except (DatabaseAway, SQLAlchemyError) as error:
            logger.warning("admin action not in the ledger", extra={**fields, "reason": type(error).__name__})
