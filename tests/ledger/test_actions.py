from dataclasses import asdict

from sqlalchemy import Engine, select

from ledger.actions import Action, record_action
from ledger.schema import ACTIONS

RELOAD = Action(1_700_000_000_000_000, "/models/reload", "0123456789abcdef", "2001:db8::1", "order-9", 200)


def test_who_did_what_is_kept_in_the_order_of_its_coming(engine: Engine) -> None:
    long = Action(1_700_000_000_000_001, "/" + "r" * 100, "f" * 64, "c" * 100, "i" * 200, 500)
    record_action(engine, RELOAD)
    record_action(engine, long)
    with engine.connect() as connection:
        first, second = connection.execute(select(ACTIONS).order_by(ACTIONS.c.id)).mappings()
    assert first.items() >= asdict(RELOAD).items()
    # PostgreSQL would refuse what does not fit.
    assert (second["route"], second["key"]) == ("/" + "r" * 63, "f" * 16)
    assert (second["client"], second["request_id"], second["status"]) == ("c" * 64, "i" * 128, 500)
