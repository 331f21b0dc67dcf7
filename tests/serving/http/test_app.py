"""The outermost application: routes by exact path, and bugs of whatever is inside."""

import asyncio
import re

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from contract import DATASETS
from serving.access import Gate
from serving.actions import ActionLog
from serving.http import pages, retrain
from serving.http.app import Handler, HttpApp, HttpRequest, HttpResponse, Route, json_response
from serving.http.door import Door
from serving.keys import Keys
from serving.settings import Settings
from serving.telemetry.call import Endpoint, http_counter
from serving.telemetry.request_log import RequestLog
from tests.serving.worker import LocalWorker


async def buggy(_: HttpRequest) -> HttpResponse:
    raise KeyError("the bug")


async def fine(request: HttpRequest) -> HttpResponse:
    return json_response({"path": request.scope["path"]})


async def behind(scope: Scope, _: Receive, send: Send) -> None:
    """In the place of BentoML's application: it raises, at /livez after the answer has begun."""
    if scope["path"] == "/livez":
        await send({"type": "http.response.start", "status": 200, "headers": []})
    raise KeyError("the bug")


def route(path: str, handler: Handler) -> Route:
    return Route(Endpoint(path, "http", counter=http_counter(path)), handler, "POST")


APP = HttpApp(
    {path: route(path, handler) for path, handler in (("/a", fine), ("/buggy", buggy))},
    lambda _: None,
    behind,
    RequestLog(slow_seconds=60),
    Gate(Keys({}, {})),
    ActionLog(None),
    Door(Settings()),
)


def ask(path: str) -> httpx.Response:
    async def post() -> httpx.Response:
        transport = httpx.ASGITransport(APP)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post(path, headers={"X-Request-ID": "order-9"})

    return asyncio.run(post())


@pytest.mark.parametrize("path", ["/buggy", "/readyz"])
def test_a_bug_is_answered_and_logged_with_its_stack_once(caplog: pytest.LogCaptureFixture, path: str) -> None:
    answer = ask(path)
    assert answer.status_code == 500
    assert answer.headers["x-request-id"] == "order-9"
    assert answer.json()["error"].startswith("An internal error")
    assert "bug" not in answer.text
    (record,) = caplog.records
    assert (record.levelname, vars(record)["route"], vars(record)["status"]) == ("ERROR", path, 500)
    assert record.exc_info
    assert isinstance(record.exc_info[1], KeyError)


def test_a_bug_in_mid_answer_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/livez", "headers": []}
    asyncio.run(APP(scope, receive, send))
    # No second answer: the server closes the connection.
    assert [message["type"] for message in sent] == ["http.response.start"]
    (record,) = caplog.records
    assert (record.levelname, vars(record)["status"]) == ("ERROR", 500)
    assert record.exc_info


@pytest.mark.parametrize("path", ["/a", "/a/", "//a", "/a%0A", "/a%00", "/A", "/a/b", "/a%2F", "/%61"])
def test_only_the_exact_path_is_answered(path: str) -> None:
    assert ask(path).status_code == (200 if path in {"/a", "/%61"} else 404)


BENTOML_OWN = ["/predict_housing", "/status", "/submit", "/assets/main.js", "/mcp"]


@pytest.mark.parametrize("end", ["%0A", "%0D%0A", "%00", "%7F", "/", "//", "/submit", "/status", ";a=b"])
def test_nothing_falls_through_to_bentomls_endpoints(client: httpx.Client, end: str) -> None:
    for path in ("/predict/housing", "/predict/iris/batch", "/v2/models/iris/infer", "/readyz", "/schema.json"):
        if path.startswith("/v2") and end in {"/", "//"}:
            continue  # the protocol's routes take a slash at their end
        answer = client.post(f"{path}{end}", json={})
        assert (answer.status_code, "There is no" in answer.json()["error"]) == (404, True)


@pytest.mark.parametrize("path", BENTOML_OWN)
def test_bentomls_own_routes_do_not_exist(client: httpx.Client, path: str) -> None:
    for method in ("GET", "POST"):
        assert client.request(method, path).status_code == 404


def test_every_route_of_the_running_application_is_documented(worker: LocalWorker) -> None:
    """Pages, and what belongs to a page, are no routes of the API."""
    documented = set(worker.document["paths"])
    served = {
        re.sub(rf"^/v2/models/({'|'.join(DATASETS)})", "/v2/models/{model_name}", one) for one in worker.app.routes
    }
    served = {path for path in served if not path.startswith(f"{pages.STATIC}/")}
    assert served - documented == {"/", "/docs", "/docs.json", "/openapi.json"}
    found = {path for path in documented if "{model_version}" in path or path == retrain.STATUS}
    assert documented - served == found, "only what is found by a pattern has no route of its own"


@pytest.mark.parametrize(
    ("path", "name", "model", "counted"),
    [
        ("/predict/iris", "/predict/iris", "iris", True),
        ("/predict/iris/batch", "/predict/iris/batch", "iris", True),
        ("/v2/models/iris/infer", "/v2/models/iris/infer", "iris", True),
        ("/v2/models/iris/versions/7/infer", "/v2/models/iris/infer", "iris", True),
        ("/v2/models/iris/versions/7", "/v2/models/iris", "iris", True),
        ("/v2/models/iris/versions", "unknown", "", True),
        ("/v2/models/iris/versions/7/ready/", "/v2/models/iris/ready", "iris", False),
        ("/v2/models/tulips/infer", "unknown", "", True),
        ("/v2//", "/v2", "", True),
        ("/v2x", "unknown", "", True),
        ("//v2", "unknown", "", True),
        ("", "unknown", "", True),
        ("/v2/health/live", "/v2/health/live", "", False),
    ],
)
def test_a_path_has_one_endpoint_however_it_is_written(
    worker: LocalWorker, path: str, name: str, model: str, counted: bool
) -> None:
    endpoint = worker.app.route(path).endpoint
    dataset = endpoint.dataset.name if endpoint.dataset else ""
    assert (endpoint.name, dataset, endpoint.counter is not None) == (name, model, counted)
