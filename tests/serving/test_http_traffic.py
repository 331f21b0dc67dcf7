"""The layer around the application, when the application has a bug."""

import asyncio

import httpx
import pytest
from bentoml import server_context
from starlette.types import Message, Receive, Scope, Send

from serving.http.endpoints import Endpoints
from serving.http.traffic import HttpTraffic
from serving.telemetry.request_log import RequestLog


async def buggy(scope: Scope, receive: Receive, send: Send) -> None:
    """Raises, at the path /begun after the answer has begun."""
    await receive()
    if scope["path"] == "/begun":
        await send({"type": "http.response.start", "status": 200, "headers": []})
    raise KeyError("the bug")


@pytest.fixture(scope="module")
def traffic() -> HttpTraffic:
    server_context.service_routes = []
    return HttpTraffic(
        buggy,
        endpoints=Endpoints({"/predict/a": "a", "/begun": "a"}, ["a"]),
        versions={"a": "v1"},
        log=RequestLog(slow_seconds=60),
        namespace="test_http_traffic",
    )


@pytest.mark.parametrize("path", ["/predict/a", "/metrics"])
def test_a_bug_is_answered_and_logged_with_its_stack_once(
    traffic: HttpTraffic, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(traffic)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post(path, headers={"X-Request-ID": "order-9"})

    answer = asyncio.run(ask())
    assert answer.status_code == 500
    assert answer.headers["x-request-id"] == "order-9"
    assert answer.json()["error"].startswith("An internal error")
    assert "bug" not in answer.text
    (record,) = caplog.records
    assert (record.levelname, vars(record)["route"], vars(record)["status"]) == ("ERROR", path, 500)
    assert record.exc_info
    assert isinstance(record.exc_info[1], KeyError)


def test_a_bug_in_mid_answer_is_logged(traffic: HttpTraffic, caplog: pytest.LogCaptureFixture) -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/begun", "headers": []}
    asyncio.run(traffic(scope, receive, send))
    # No second answer: the server closes the connection.
    assert [message["type"] for message in sent] == ["http.response.start"]
    (record,) = caplog.records
    assert (record.levelname, vars(record)["status"], vars(record)["version"]) == ("ERROR", 500, "v1")
    assert record.exc_info
