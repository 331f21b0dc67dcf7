"""What browsers are told by pages, and which other sites may call the API."""

import asyncio
import re

import httpx
import pytest
from starlette.applications import Starlette

from serving.http.security import allow_origins
from tests.serving.worker import LocalWorker

ORIGIN = "https://app.example.com"


@pytest.mark.parametrize("path", ["/", "/docs", "/logs"])
def test_a_page_loads_and_runs_nothing_but_ours(worker: LocalWorker, path: str) -> None:
    headers = httpx.get(f"{worker.url}{path}").headers
    assert headers["content-type"].startswith("text/html")
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'self'" in policy
    assert not re.search(r"script-src[^;]*unsafe|https?:|\*", policy)
    assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "same-origin")


def ask(origins: tuple[str, ...], worker: LocalWorker, method: str, **headers: str) -> httpx.Response:
    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(allow_origins(worker.app, origins))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, "/v2", headers={"origin": ORIGIN, **headers})

    return asyncio.run(send())


@pytest.mark.parametrize(
    ("origins", "allowed"),
    [((), None), ((ORIGIN,), ORIGIN), (("https://other.example.com",), None), (("*",), "*")],
)
def test_pages_of_other_origins_call_only_where_it_is_configured(
    worker: LocalWorker, origins: tuple[str, ...], allowed: str | None
) -> None:
    answer = ask(origins, worker, "GET")
    assert answer.status_code == 200
    assert answer.headers.get("access-control-allow-origin") == allowed
    asked = ask(origins, worker, "OPTIONS", **{"access-control-request-method": "POST"})
    assert asked.headers.get("access-control-allow-origin") == allowed


def test_without_origins_nothing_is_around_the_application() -> None:
    app = Starlette()
    assert allow_origins(app, ()) is app
