"""Admin routes: who may call them, and the record of who did."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from sqlalchemy import Engine, select
from starlette.applications import Starlette

from contract.errors import InvalidInput
from ledger.database import connect, default_url, migrate
from ledger.schema import ACTIONS
from serving.access import Access, Gate
from serving.actions import ActionLog
from serving.http.app import HttpApp, HttpRequest, HttpResponse, Route, json_response
from serving.http.door import Door
from serving.keys import Keys, Ring, digest
from serving.ledger_database import LedgerDatabase
from serving.settings import Settings
from serving.telemetry.call import Endpoint, http_counter
from serving.telemetry.request_log import RequestLog
from tests.serving.locked import KEYS, NOBODYS, settings_with_keys
from tests.waiting import wait_until

API, ADMIN = KEYS[Ring.API], KEYS[Ring.ADMIN]
LABEL = digest(ADMIN.encode()).hex()[:16]


async def done(_: HttpRequest) -> HttpResponse:
    return json_response({"done": True})


async def wrong(_: HttpRequest) -> HttpResponse:
    raise InvalidInput("no such version")


async def buggy(_: HttpRequest) -> HttpResponse:
    raise KeyError("the bug")


ROUTES = {
    path: Route(Endpoint(path, "http", counter=http_counter(path)), handler, "POST", access=Access.ADMIN)
    for path, handler in (("/models/reload", done), ("/wrong", wrong), ("/buggy", buggy))
}


def app(keys: Keys, ledger: LedgerDatabase | None = None) -> HttpApp:
    return HttpApp(ROUTES, lambda _: None, Starlette(), RequestLog(60), Gate(keys), ActionLog(ledger), Door(Settings()))


def ask(app: HttpApp, key: str | None, path: str = "/models/reload", client: str = "192.0.2.7") -> httpx.Response:
    async def post() -> httpx.Response:
        transport = httpx.ASGITransport(app, client=(client, 1234))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as opened:
            headers = {"authorization": f"Bearer {key}"} if key else {}
            return await opened.post(path, headers={**headers, "x-request-id": "order-9"})

    return asyncio.run(post())


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """Of a ledger in the directory of the test."""
    engine = connect(default_url(tmp_path))
    migrate(engine)
    yield engine
    engine.dispose()


def database(directory: Path, url: str | None = None) -> LedgerDatabase:
    return LedgerDatabase(Settings.model_validate({"STATE_DIR": directory, "DATABASE_URL": url}))


def actions(engine: Engine) -> list[tuple[str, str, str, str, int]]:
    table = ACTIONS.c
    with engine.connect() as connection:
        found = connection.execute(
            select(table.route, table.key, table.client, table.request_id, table.status).order_by(table.id)
        )
        return [tuple(row) for row in found]


@pytest.mark.parametrize("key", [None, API, ADMIN, "wrong"])
@pytest.mark.parametrize("rings", [(Ring.API,), (Ring.METRICS,)])
def test_without_admin_keys_admin_routes_are_closed_and_say_why(rings: tuple[Ring, ...], key: str | None) -> None:
    refused = ask(app(settings_with_keys(*rings).keys()), key)
    assert refused.status_code == 403
    assert refused.json()["detail"] == []
    assert "no ADMIN_KEYS" in refused.json()["error"]
    assert "python -m serving.keys new" in refused.json()["error"]


@pytest.mark.parametrize(("key", "status"), [(None, 401), (NOBODYS, 401), (API, 403), (ADMIN, 200)])
@pytest.mark.parametrize("rings", [(Ring.API, Ring.ADMIN), (Ring.ADMIN,)])
def test_only_an_admin_key_opens_admin_routes(rings: tuple[Ring, ...], key: str | None, status: int) -> None:
    if key == API and Ring.API not in rings:
        status = 401  # nobody's key here
    answer = ask(app(settings_with_keys(*rings).keys()), key)
    assert answer.status_code == status
    assert answer.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)


def test_who_did_what_goes_into_the_ledger_before_the_answer(tmp_path: Path, engine: Engine) -> None:
    served = app(settings_with_keys().keys(), database(tmp_path))
    before = time.time_ns() // 1000
    assert ask(served, ADMIN).status_code == 200
    assert ask(served, ADMIN, "/wrong", client="2001:db8::1").status_code == 400
    assert ask(served, ADMIN, "/buggy").status_code == 500
    # Refused before they did anything.
    assert ask(served, API).status_code == 403
    assert ask(served, None).status_code == 401
    assert actions(engine) == [
        ("/models/reload", LABEL, "192.0.2.7", "order-9", 200),
        ("/wrong", LABEL, "2001:db8::1", "order-9", 400),
        ("/buggy", LABEL, "192.0.2.7", "order-9", 500),
    ]
    with engine.connect() as connection:
        times = connection.scalars(select(ACTIONS.c.time_us)).all()
    assert before <= min(times) <= max(times) <= time.time_ns() // 1000


def read_only(directory: Path) -> str:
    engine = connect(default_url(directory))
    migrate(engine)
    engine.dispose()
    return f"{default_url(directory).replace('sqlite:///', 'sqlite:///file:')}?mode=ro&uri=true"


def test_an_action_of_the_first_second_waits_for_the_tables(tmp_path: Path) -> None:
    served = app(settings_with_keys().keys(), database(tmp_path))
    with ThreadPoolExecutor(1) as thread:
        asked = thread.submit(ask, served, ADMIN)
        # The first look for the tables makes the file.
        wait_until((tmp_path / "ledger.db").exists, "the tables are looked for")
        engine = connect(default_url(tmp_path))
        migrate(engine)
        assert asked.result().status_code == 200
    assert [row[0] for row in actions(engine)] == ["/models/reload"]
    engine.dispose()


@pytest.mark.parametrize(
    "url",
    [default_url, lambda _: "postgresql://nobody@127.0.0.1:9/ledger", read_only],
    ids=["new", "away", "read-only"],
)
def test_an_action_that_the_database_does_not_take_is_in_the_log(
    tmp_path: Path, url: Callable[[Path], str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.ledger_database.TABLES_SECONDS", 0.2)
    assert ask(app(settings_with_keys().keys(), database(tmp_path, url(tmp_path))), ADMIN).status_code == 200
    (record,) = [record for record in caplog.records if record.name == "serving.actions"]
    fields = {"route": "/models/reload", "key": LABEL, "client": "192.0.2.7", "status": 200}
    assert (record.levelno, record.getMessage()) == (logging.WARNING, "admin action not in the ledger")
    assert vars(record) | fields == vars(record)
    assert ADMIN not in str([vars(record) for record in caplog.records])


def test_without_a_ledger_an_action_is_a_line_of_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "keys"
    file.write_text(f"{digest(ADMIN.encode()).hex()} the operator\n")
    with caplog.at_level(logging.INFO):
        assert ask(app(Keys({}, {Ring.ADMIN: file})), ADMIN).status_code == 200
    (record,) = [record for record in caplog.records if record.name == "serving.actions"]
    fields = {"route": "/models/reload", "key": LABEL, "key_name": "the operator", "client": "192.0.2.7", "status": 200}
    assert (record.levelno, record.getMessage()) == (logging.INFO, "admin action")
    assert vars(record) | fields == vars(record)


def test_a_key_that_is_revoked_while_it_works_is_still_on_record(tmp_path: Path, engine: Engine) -> None:
    file = tmp_path / "keys"
    file.write_text(digest(ADMIN.encode()).hex())

    async def revoke(_: HttpRequest) -> HttpResponse:
        file.write_text(digest(b"another").hex())
        assert gate._keys.reread()
        return json_response({})

    gate = Gate(Keys({}, {Ring.ADMIN: file}))
    route = Route(Endpoint("/revoke", "http"), revoke, "POST", access=Access.ADMIN)
    served = HttpApp(
        {"/revoke": route},
        lambda _: None,
        Starlette(),
        RequestLog(60),
        gate,
        ActionLog(database(tmp_path)),
        Door(Settings()),
    )
    assert ask(served, ADMIN, "/revoke").status_code == 200
    assert [(row[0], row[1]) for row in actions(engine)] == [("/revoke", LABEL)]
