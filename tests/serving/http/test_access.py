"""Keys over HTTP, with a real worker."""

import base64
import json
import logging
import socket
from collections.abc import Iterator

import httpx
import pytest

from contract.datasets.iris import IRIS
from serving.access import ATTEMPTS
from serving.keys import Ring, new_key
from serving.models import LoadedModel
from tests.serving.http.test_guard import Connection, post
from tests.serving.locked import HASHES, KEYS, headers, settings_with_keys
from tests.serving.series import scrape
from tests.serving.worker import LocalWorker

API, ADMIN, METRICS = (KEYS[ring] for ring in (Ring.API, Ring.ADMIN, Ring.METRICS))
INFER = {"inputs": [{"name": "x", "datatype": "FP64", "shape": [1, 4], "data": list(IRIS.example.values())}]}
PATHS = ("/docs.json", "/models/info", "/nowhere")
LEDGER: list[tuple[str, str, object]] = [
    ("GET", "/logs", None),
    ("GET", "/logs/recent", None),
    ("GET", "/logs/stats", None),
    ("POST", "/feedback", {"prediction_id": "0" * 32, "actual": "setosa"}),
]
PROBES = ["/health", "/v2/health/live", "/v2/health/ready"]
FLAT: list[tuple[str, str, object]] = [
    ("POST", "/predict/iris", IRIS.example),
    ("POST", "/predict/iris/batch", {"rows": [IRIS.example]}),
    ("GET", "/models/info", None),
    ("GET", "/", None),
    ("GET", "/docs", None),
    ("GET", "/docs.json", None),
    ("GET", "/openapi.json", None),
    ("GET", "/static_content/swagger-ui.css", None),
    ("GET", "/static_content/try.js", None),
]
V2: list[tuple[str, str, object]] = [
    ("GET", "/v2", None),
    ("GET", "/v2/models/iris", None),
    ("GET", "/v2/models/iris/ready", None),
    ("POST", "/v2/models/iris/infer", INFER),
    ("POST", "/v2/repository/index", {}),
]


@pytest.fixture(scope="module")
def client(locked: LocalWorker) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=locked.url, timeout=30) as opened:
        yield opened


@pytest.fixture
def scraper(locked: LocalWorker) -> Iterator[httpx.Client]:
    """A client that holds a metrics key."""
    with httpx.Client(base_url=locked.url, headers=headers(METRICS)) as opened:
        yield opened


@pytest.mark.parametrize("path", PROBES)
def test_a_probe_needs_no_key(client: httpx.Client, path: str) -> None:
    assert client.get(path).status_code == 200
    assert client.get(path, headers=headers("wrong")).status_code == 200


def test_the_probes_of_bentoml_need_no_key_and_its_schema_does(client: httpx.Client) -> None:
    """Here nothing is behind our application, which answers 404 for it."""
    for path in ("/livez", "/healthz", "/readyz"):
        assert client.get(path).status_code == 404
    assert client.get("/schema.json").status_code == 401
    assert client.get("/schema.json", headers=headers(API)).status_code == 404


@pytest.mark.parametrize(("method", "path", "body"), [*FLAT, *V2])
def test_everything_else_needs_an_api_or_admin_key(client: httpx.Client, method: str, path: str, body: object) -> None:
    def ask(key: str | None) -> httpx.Response:
        return client.request(method, path, json=body, headers=headers(key) if key else {})

    assert ask(API).status_code == ask(ADMIN).status_code == 200
    missing, unknown, other = ask(None), ask(new_key()), ask(METRICS)
    assert (missing.status_code, unknown.status_code, other.status_code) == (401, 401, 403)
    for refused in (missing, unknown):
        assert refused.headers.get_list("www-authenticate", split_commas=False)[0] == "Bearer"
    assert "www-authenticate" not in other.headers
    for refused in (missing, unknown, other):
        assert refused.headers["x-request-id"]
        told = refused.json()
        assert told.keys() == ({"error"} if path.startswith("/v2") else {"error", "detail"})
    assert "Authorization: Bearer" in missing.json()["error"]
    assert "not known" in unknown.json()["error"]
    assert "API_KEYS" in other.json()["error"]


@pytest.mark.parametrize("rings", [(Ring.API,), (Ring.ADMIN,), (Ring.API, Ring.ADMIN)])
def test_what_is_on_record_needs_an_api_or_admin_key_if_there_are_any(
    loaded: dict[str, LoadedModel], rings: tuple[Ring, ...]
) -> None:
    local = LocalWorker(loaded, settings_with_keys(*rings))
    with local.running(), httpx.Client(base_url=local.url) as client:
        for method, path, body in LEDGER:
            assert client.request(method, path, json=body).status_code == 401
            for ring in rings:
                # The ledger is off here.
                assert client.request(method, path, json=body, headers=headers(KEYS[ring])).status_code == 404
        challenges = client.get("/logs").headers.get_list("www-authenticate")
        assert [challenge.partition(" ")[0] for challenge in challenges] == ["Bearer", "Basic"]
        assert client.get("/logs", auth=httpx.BasicAuth("me", KEYS[rings[0]])).status_code == 404


def test_outsiders_are_told_of_a_model_what_a_request_takes(loaded: dict[str, LoadedModel]) -> None:
    local = LocalWorker(loaded, settings_with_keys(Ring.ADMIN))
    with local.running(), httpx.Client(base_url=local.url) as client:

        def told(key: str | None) -> dict[str, object]:
            answer = client.get("/models/info", headers=headers(key) if key else {}).raise_for_status()
            assert set(answer.json()["models"]) == set(loaded)
            return dict(answer.json()["models"]["iris"])

        assert told(None) == told("wrong")
        assert told(ADMIN).keys() - told(None).keys() >= {"run_id", "git_revision", "metrics", "onnx", "live_quality"}
        assert told(None)["version"] == loaded["iris"].version
        features = {feature["name"]: feature for feature in told(None)["features"]}  # type: ignore[attr-defined]
        assert features.keys() == set(IRIS.feature_names)
        assert "mean" not in features["petal_width"]
        # The example in the document and the page say no more.
        path = client.get("/docs.json").json()["paths"]["/models/info"]["get"]
        example = path["responses"]["200"]["content"]["application/json"]["example"]
        assert example["models"]["iris"] == told(None)
        made = [f"<dt>{fact}</dt>" for fact in ("Training rows", "Training data", "Algorithm")] + ["<h3>Quality</h3>"]
        shown = [client.get("/?model=iris", headers=headers(key)).text for key in ("wrong", ADMIN, "wrong")]
        assert [[one in page for one in made] for page in shown] == [[False] * 4, [True] * 4, [False] * 4]
        assert all("<dt>Version</dt>" in page for page in shown)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/v2/nowhere", 404),
        ("POST", "/v2/models/tulips/infer", 404),
        ("GET", "/predict/iris", 405),
        ("DELETE", "/v2/models/iris/infer", 405),
        ("OPTIONS", "/docs", 405),
    ],
)
def test_what_is_wrong_with_a_request_is_told_to_those_with_a_key(
    client: httpx.Client, method: str, path: str, status: int
) -> None:
    assert client.request(method, path).status_code == 401
    assert client.request(method, path, headers=headers(API)).status_code == status


@pytest.mark.parametrize("path", ["/metrics", "/metrics/prometheus"])
def test_metrics_have_keys_of_their_own(client: httpx.Client, path: str) -> None:
    assert client.get(path).status_code == 401
    assert client.get(path, headers=headers(API)).status_code == 403
    assert client.get(path, headers=headers(METRICS)).status_code == 200
    assert client.get(path, headers=headers(ADMIN)).status_code == 200


@pytest.mark.parametrize(("path", "asks"), [("/", True), ("/docs", True), ("/docs.json", False), ("/v2", False)])
def test_a_browser_asks_for_a_key_on_pages_alone(client: httpx.Client, path: str, asks: bool) -> None:
    challenges = client.get(path).headers.get_list("www-authenticate")
    assert [challenge.partition(" ")[0] for challenge in challenges] == (["Bearer", "Basic"] if asks else ["Bearer"])


def test_a_key_as_a_password_opens_what_is_only_read(client: httpx.Client) -> None:
    auth = httpx.BasicAuth("me", API)
    for path in ("/docs", "/docs.json", "/static_content/swagger-ui-bundle.js", "/models/info"):
        assert client.get(path, auth=auth).status_code == client.head(path, auth=auth).status_code == 200
    # Another site's form could make a browser send this.
    refused = client.post("/predict/iris", json=IRIS.example, auth=auth)
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")


@pytest.mark.parametrize("path", ["/predict/iris/batch", "/v2/models/iris/infer", "/nowhere"])
def test_a_large_body_is_refused_before_it_is_read(locked: LocalWorker, path: str) -> None:
    size = 16_000_000
    with socket.create_connection(("127.0.0.1", int(locked.url.rpartition(":")[2])), timeout=20) as stream:
        connection = Connection(stream)
        connection.send(post(path, b"", length=size))
        # The answer is there before a byte of the body is.
        status, answered, body = connection.answer()
        assert (status, answered["connection"]) == (401, "close")
        assert json.loads(body)["error"]
        for _ in range(16):
            connection.send(b" " * (size // 16))
        assert connection.ended()


def test_who_asks_first_is_not_told_to_send(locked: LocalWorker) -> None:
    with socket.create_connection(("127.0.0.1", int(locked.url.rpartition(":")[2])), timeout=20) as stream:
        connection = Connection(stream)
        connection.send(post("/predict/iris", b"", "Expect: 100-continue\r\n", length=100))
        assert connection.answer()[0] == 401


def test_a_refused_request_leaves_the_connection_usable(locked: LocalWorker) -> None:
    row = json.dumps(IRIS.example).encode()
    with socket.create_connection(("127.0.0.1", int(locked.url.rpartition(":")[2])), timeout=20) as stream:
        connection = Connection(stream)
        connection.send(post("/predict/iris", row))
        assert connection.answer()[0] == 401
        connection.send(post("/predict/iris", row, f"Authorization: Bearer {API}\r\n"))
        assert connection.answer()[0] == 200


def test_wrong_keys_are_counted_and_then_slowed_down(client: httpx.Client, scraper: httpx.Client) -> None:
    before = scrape(scraper)
    address = headers("")["x-forwarded-for"]

    def ask(key: str) -> httpx.Response:
        return client.get("/v2", headers={"authorization": f"Bearer {key}", "x-forwarded-for": address})

    answers = [ask(new_key()) for _ in range(ATTEMPTS + 2)]
    assert [answer.status_code for answer in answers] == [401] * ATTEMPTS + [429] * 2
    assert 50 <= int(answers[-1].headers["retry-after"]) <= 60
    assert "wrong keys" in answers[-1].json()["error"]
    # Who has a right key behind the same address is not locked out.
    assert ask(API).status_code == 200
    client.get("/v2")
    client.get("/v2", headers=headers(METRICS))
    client.get("/v2", headers={"authorization": "Basic"})
    grown = scrape(scraper).since(before).of("ml_access_refused_total", "reason", protocol="v2")
    assert grown == {"unknown": ATTEMPTS, "limited": 2, "missing": 1, "forbidden": 1, "malformed": 1}


def test_an_address_in_a_header_is_not_believed_by_default(loaded: dict[str, LoadedModel]) -> None:
    settings = settings_with_keys().model_copy(update={"FORWARDED_ALLOW_IPS": ""})
    local = LocalWorker(loaded, settings)
    with local.running():
        statuses = [httpx.get(local.url, headers=headers(new_key())).status_code for _ in range(ATTEMPTS + 1)]
    assert statuses == [401] * ATTEMPTS + [429]


@pytest.mark.parametrize("rings", [(), (Ring.ADMIN,), (Ring.METRICS,)])
def test_without_api_keys_predictions_need_none(loaded: dict[str, LoadedModel], rings: tuple[Ring, ...]) -> None:
    settings = (
        settings_with_keys(*rings)
        if rings
        else settings_with_keys().model_copy(update={ring.value: None for ring in Ring})
    )
    local = LocalWorker(loaded, settings)
    with local.running(), httpx.Client(base_url=local.url) as client:
        for method, path, body in [*FLAT, *V2]:
            assert client.request(method, path, json=body).status_code == 200
        # A key that nobody asked for changes nothing, right or wrong.
        assert client.get("/v2", headers=headers(new_key())).status_code == 200
        assert client.get("/metrics").status_code == (401 if Ring.METRICS in rings else 200)


def test_keys_are_never_shown(client: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    wrong = new_key()
    basic = base64.b64encode(f"me:{API}".encode()).decode()
    shown = []
    with caplog.at_level(logging.DEBUG):
        for key in (API, ADMIN, METRICS, wrong):
            shown += [client.get(path, headers=headers(key)).text for path in PATHS]
            shown.append(client.post("/predict/iris", json={}, headers=headers(key)).text)
        shown.append(client.get("/nowhere", headers={"authorization": f"Basic {basic}"}).text)
        shown.append(client.get("/metrics", headers=headers(METRICS)).text)
    assert any(vars(record).get("route") == "unknown" for record in caplog.records)
    shown += [str(vars(record)) for record in caplog.records if record.name.partition(".")[0] != "httpx"]
    for secret in (API, ADMIN, METRICS, wrong, basic, *HASHES.values()):
        assert not any(secret in text for text in shown)
