"""The page of the API in a browser, behind a proxy that serves it under a path of its own, which it strips."""

import html
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from contract import DATASETS
from contract.iris import IRIS
from local_service import free_port, running_service
from tests.integration.test_readme import dom
from tests.serving import tiny_models

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


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The host and port of the real service, with tiny models."""
    models = tmp_path_factory.mktemp("models")
    tiny_models.pin(models, {name: str(tiny_models.store(dataset).tag.version) for name, dataset in DATASETS.items()})
    with running_service(environment={"MODELS_DIR": str(models), "WORKERS": "1"}) as url:
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
    configuration.write_text(PROXY.format(port=port, page=page, prefix=PREFIX, service=service))
    with subprocess.Popen([haproxy, "-db", "-f", str(configuration)]) as process:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 30
        while not answers(url):
            assert process.poll() is None
            assert time.monotonic() < deadline
        yield url
        process.terminate()


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}{PREFIX}/readyz").is_success
    except httpx.TransportError:
        return False


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
    # Chromium's virtual time does not wait for the service, and may be over before the answer is there: press again.
    for _ in range(8):
        shown = dom(f"{proxy}/try", 30_000)
        title = re.search(r"<title>(.*?)</title>", shown, re.DOTALL)
        if title:
            break
    assert title, "nothing was shown after Execute was pressed"
    told = json.loads(html.unescape(title[1]))
    assert (told["code"], told["address"]) == ("200", f"{proxy}{PREFIX}/predict/iris")
    expected = httpx.post(f"{proxy}{PREFIX}/predict/iris", json=IRIS.example).raise_for_status().json()
    assert f'"label": "{expected["label"]}"' in told["body"]
