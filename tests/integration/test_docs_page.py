"""The pages of the service in a browser, behind a proxy that serves it under a path of its own, which it strips."""

import shutil
import subprocess
from collections.abc import Iterator

import httpx
import pytest

from contract import DATASETS
from contract.datasets.iris import IRIS
from local_service import free_port, running_service
from tests.integration.browser import READABLE, Page, browser
from tests.integration.try_requests import answers_alike, requests_of
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
    http-request deny deny_status 404 unless {{ path_beg {prefix}/ }}
    http-request replace-path {prefix}(/.*) \\1
    default_backend service
backend service
    server service {service}
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The host and port of the real service, with tiny models."""
    models = tmp_path_factory.mktemp("models")
    tiny_models.pin(models, {name: str(tiny_models.store(dataset).tag.version) for name, dataset in DATASETS.items()})
    with running_service(environment={"MODELS_DIR": str(models), "WORKERS": "1", "LEDGER": "on"}) as url:
        yield url.removeprefix("http://")


@pytest.fixture(scope="module")
def proxy(service: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    haproxy = shutil.which("haproxy", path="/usr/sbin:/usr/bin:/sbin:/bin")
    assert haproxy, "the integration tests need haproxy: apt-get install haproxy"
    port = free_port()
    configuration = tmp_path_factory.mktemp("proxy") / "haproxy.cfg"
    configuration.write_text(PROXY.format(port=port, prefix=PREFIX, service=service))
    with subprocess.Popen([haproxy, "-db", "-f", str(configuration)]) as process:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: process.poll() is not None or answers(f"{url}{PREFIX}/readyz"), "HAProxy answers")
        assert process.poll() is None
        yield url
        process.terminate()


def on_record(url: str, prediction_id: str) -> bool:
    """Whether the ledger has a prediction."""
    parameters = {"prediction_id": prediction_id}
    return bool(httpx.get(f"{url}/logs/recent", params=parameters).raise_for_status().json()["predictions"])


@pytest.fixture
def page() -> Iterator[Page]:
    with browser("") as page:
        page.resize(1200, 900)
        yield page


def test_the_proxy_serves_the_service_under_its_prefix_alone(proxy: str) -> None:
    assert httpx.get(f"{proxy}{PREFIX}/docs.json").is_success
    assert httpx.get(f"{proxy}/docs.json").status_code == 404


def test_the_page_shows_every_route(proxy: str, page: Page) -> None:
    page.open(f"{proxy}{PREFIX}/docs")
    for route in ("/predict/housing/batch", "/predict/iris", "/models/info"):
        # Swagger puts a word break into long paths.
        page.wait_for(f"document.body.innerText.replaceAll('\u200b', '').includes('{route}')")
    assert "Failed to load" not in page.run("document.body.innerText")


def test_a_model_can_be_tried(proxy: str, page: Page) -> None:
    url = f"{proxy}{PREFIX}"
    page.open(f"{url}/")
    page.wait_for("document.getElementById('copy') && !document.getElementById('copy').hidden")
    page.run("document.querySelectorAll('.models a')[1].click()")
    page.wait_for(f"location.href == '{url}/?model=iris' && !document.getElementById('copy').hidden")
    page.run("document.querySelector('.actions button').click()")
    page.wait_for("document.querySelector('#result .value') !== null")
    expected = httpx.post(f"{url}/predict/iris", json=IRIS.example).raise_for_status().json()
    for name, printed in requests_of(page, IRIS, "").items():
        assert answers_alike(printed, expected), name
    # The prediction is on record.
    identifier = page.run("document.querySelector('#result a').textContent")
    wait_until(lambda: on_record(url, identifier), "the prediction is on record")
    page.run("document.querySelector('#result a').click()")
    page.wait_for(f"document.querySelector('tr.call')?.innerText.includes('{identifier}')")
    assert page.errors == []


def test_an_operation_can_be_tried_out(proxy: str, page: Page) -> None:
    page.open(f"{proxy}{PREFIX}/docs#/predictions/predict_iris")
    page.wait_for("document.querySelector('button.execute') !== null")
    page.run("document.querySelector('button.execute').click()")
    shown = ".live-responses-table tbody"
    page.wait_for(f"document.querySelector('{shown} .response-col_status') !== null")
    assert page.run(f"document.querySelector('{shown} .response-col_status').innerText") == "200"
    assert page.run("document.querySelector('.request-url pre').innerText") == f"{proxy}{PREFIX}/predict/iris"
    expected = httpx.post(f"{proxy}{PREFIX}/predict/iris", json=IRIS.example).raise_for_status().json()
    assert f'"label": "{expected["label"]}"' in page.run(f"document.querySelector('{shown} code').innerText")


def test_the_predictions_on_record_can_be_read(proxy: str, page: Page) -> None:
    url = f"{proxy}{PREFIX}"
    answers = [httpx.post(f"{url}/predict/iris", json=IRIS.example).raise_for_status().json() for _ in range(3)]
    newest = answers[-1]["prediction_id"]
    wait_until(lambda: on_record(url, newest), "the prediction is on record")
    entry = {"prediction_id": newest, "actual": answers[-1]["label"]}
    assert httpx.post(f"{url}/feedback", json=entry).json()["taken"] == 1
    page.open(f"{url}/logs")
    # The script shows the box once it runs.
    page.wait_for("!document.getElementById('follow').closest('label').hidden")
    assert page.run("document.querySelectorAll('tr.call').length") >= len(answers)
    assert page.run("getComputedStyle(document.querySelector('.card')).borderRadius") == "8px"
    assert page.fits()
    bars = "[...document.querySelectorAll('.charts rect')].filter(bar => bar.getBoundingClientRect().height > 1)"
    assert page.run(f"{bars}.length") > 0
    values = "document.querySelector('tr.values')"
    height = f"{values}.getBoundingClientRect().height"
    assert page.run(height) == 0
    page.run("document.querySelector('button.more').click()")
    assert page.run(height) > 0
    shown = page.run(f"{values}.innerText")
    assert f"{answers[-1]['label']} ✓" in shown
    for name in IRIS.feature_names:
        assert name in shown
    page.resize(360, 800)
    for scheme in ("light", "dark"):
        page.prefer(scheme)
        assert page.fits()
        contrast, text = page.least_contrast()
        assert contrast >= READABLE, text
    assert page.without_label() == []
    assert page.errors == []
