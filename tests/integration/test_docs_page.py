"""The pages of the service in a browser, behind a proxy that serves it under a path of its own, which it strips."""

import html
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from contract import DATASETS
from contract.datasets.iris import IRIS
from local_service import free_port, running_service
from tests.integration.test_documentation import dom
from tests.serving import tiny_models
from tests.waiting import answers, wait_until

PREFIX = "/teams/ml"
PROXY = """
defaults
    mode http
    timeout connect 2s
    timeout client 60s
    timeout server 60s
frontend proxy
    bind 127.0.0.1:{port}
    http-request return status 200 content-type "text/html; charset=utf-8" file {page} if {{ path /try }}
    http-request return status 200 content-type "text/html; charset=utf-8" file {reader} if {{ path /read }}
    http-request deny deny_status 404 unless {{ path_beg {prefix}/ }}
    http-request replace-path {prefix}(/.*) \\1
    default_backend service
backend service
    server service {service}
"""
# A person who opens an operation and presses "Execute"; what is shown then is left in the title.
PERSON = """
<!doctype html>
<meta charset="utf-8">
<iframe id="docs" width="1200" height="900" src="{prefix}/docs#/{tag}/{operation}"></iframe>
<script>
const page = () => document.getElementById("docs").contentDocument;
const wait = setInterval(() => {{
  const execute = page().querySelector("button.execute");
  const code = page().querySelector(".live-responses-table tbody .response-col_status");
  if (code) {{
    clearInterval(wait);
    const body = page().querySelector(".live-responses-table tbody code").innerText;
    const address = page().querySelector(".request-url pre").innerText;
    document.title = JSON.stringify({{code: code.innerText, address, body}});
  }} else if (execute && !execute.dataset.pressed) {{
    execute.dataset.pressed = "yes";
    execute.click();
  }}
}}, 100);
</script>
"""
# A person who opens the values of the newest prediction on record; what is seen then is left in the title.
READER = """
<!doctype html>
<meta charset="utf-8">
<iframe id="logs" width="1200" height="900" src="{prefix}/logs"></iframe>
<script>
const frame = document.getElementById("logs");
const wait = setInterval(() => {{
  const page = frame.contentDocument;
  const button = page.querySelector("button.more");
  const follow = page.getElementById("follow");
  if (page.readyState !== "complete" || !button || follow.closest("label").hidden) return;
  clearInterval(wait);
  const values = button.closest("tbody").querySelector("tr.values");
  const closed = values.getBoundingClientRect().height;
  button.click();
  document.title = JSON.stringify({{
    closed,
    opened: values.getBoundingClientRect().height,
    shown: values.innerText,
    rows: page.querySelectorAll("tr.call").length,
    wide: page.documentElement.scrollWidth,
    bars: [...page.querySelectorAll(".charts rect")].filter((bar) => bar.getBoundingClientRect().height > 1).length,
    styled: page.defaultView.getComputedStyle(page.querySelector(".card")).borderRadius,
  }});
}}, 100);
</script>
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The host and port of the real service, with tiny models."""
    models = tmp_path_factory.mktemp("models")
    tiny_models.pin(models, {name: str(tiny_models.store(dataset).tag.version) for name, dataset in DATASETS.items()})
    with running_service(environment={"MODELS_DIR": str(models), "WORKERS": "1", "LEDGER": "on"}) as url:
        yield url.removeprefix("http://")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the proxy serves at ``/try``."""
    return tmp_path_factory.mktemp("proxy") / "try.html"


@pytest.fixture(scope="module")
def proxy(service: str, page: Path) -> Iterator[str]:
    haproxy = shutil.which("haproxy", path="/usr/sbin:/usr/bin:/sbin:/bin")
    assert haproxy, "the integration tests need haproxy: apt-get install haproxy"
    port = free_port()
    configuration = page.with_name("haproxy.cfg")
    page.write_text(PERSON.format(prefix=PREFIX, tag="predictions", operation="predict_iris"))
    reader = page.with_name("read.html")
    reader.write_text(READER.format(prefix=PREFIX))
    configuration.write_text(PROXY.format(port=port, page=page, reader=reader, prefix=PREFIX, service=service))
    with subprocess.Popen([haproxy, "-db", "-f", str(configuration)]) as process:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: process.poll() is not None or answers(f"{url}{PREFIX}/readyz"), "HAProxy answers")
        assert process.poll() is None
        yield url
        process.terminate()


def seen(address: str) -> Any:
    """What the script of a page leaves in its title."""
    # Chromium's virtual time does not wait for the service, and may be over before the answer is there: try again.
    for _ in range(8):
        title = re.search(r"<title>(.*?)</title>", dom(address, 30_000), re.DOTALL)
        if title:
            return json.loads(html.unescape(title[1]))
    pytest.fail(f"nothing was seen at {address}")


def test_the_proxy_serves_the_service_under_its_prefix_alone(proxy: str) -> None:
    assert httpx.get(f"{proxy}{PREFIX}/docs.json").is_success
    assert httpx.get(f"{proxy}/docs.json").status_code == 404


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_the_page_shows_every_route(proxy: str, path: str) -> None:
    shown = dom(f"{proxy}{PREFIX}{path}")
    for route in ("/predict/housing/batch", "/predict/iris", "/models/info"):
        # Swagger puts a word break into long paths.
        assert route in re.sub(r"<wbr[^>]*>|\u200b", "", shown)
    assert "Failed to load" not in shown


def test_an_operation_can_be_tried_out(proxy: str) -> None:
    told = seen(f"{proxy}/try")
    assert (told["code"], told["address"]) == ("200", f"{proxy}{PREFIX}/predict/iris")
    expected = httpx.post(f"{proxy}{PREFIX}/predict/iris", json=IRIS.example).raise_for_status().json()
    assert f'"label": "{expected["label"]}"' in told["body"]


def test_the_predictions_on_record_can_be_read(proxy: str) -> None:
    url = f"{proxy}{PREFIX}"
    answers = [httpx.post(f"{url}/predict/iris", json=IRIS.example).raise_for_status().json() for _ in range(3)]
    newest = answers[-1]["prediction_id"]
    wait_until(
        lambda: httpx.get(f"{url}/logs/recent", params={"prediction_id": newest}).json().get("predictions"),
        "the prediction is on record",
    )
    entry = {"prediction_id": newest, "actual": answers[-1]["label"]}
    assert httpx.post(f"{url}/feedback", json=entry).json()["taken"] == 1
    told = seen(f"{proxy}/read")
    assert told["rows"] >= len(answers)
    assert (told["closed"], told["styled"]) == (0, "8px")
    assert told["opened"] > 0
    assert told["wide"] <= 1200
    assert told["bars"] > 0
    assert f"{answers[-1]['label']} ✓" in told["shown"]
    for name in IRIS.feature_names:
        assert name in told["shown"]
