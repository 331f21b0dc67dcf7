"""The pages in a browser: by keyboard alone, on a phone, in the dark, with keys; and the requests that they show."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bentoml
import httpx
import pytest

from contract import DATASETS
from contract.dataset import Dataset, Target
from contract.datasets.housing import HOUSING
from contract.datasets.iris import IRIS
from contract.row import Row, category, feature
from local_service import free_port
from serving.keys import Ring
from serving.models import LoadedModel, load
from serving.settings import Settings
from tests.integration.browser import READABLE, Page, browser
from tests.integration.try_requests import answers_alike, requests_of
from tests.kinds import models
from tests.kinds.datasets import KINDS, VOYAGE
from tests.serving import tiny_models
from tests.serving.locked import KEYS, settings_with_keys
from tests.serving.worker import LocalWorker


class ScansRow(Row):
    """Names that a form of HTML has itself, and would lose to its fields."""

    dataset: str = category("a", "b", description="Where it is from.", example="a")
    size: float = feature(unit="m", minimum=0, maximum=9, description="Size.", example=1.5, alias="querySelectorAll")


SCANS = Dataset(
    name="scans",
    description="Size of a scan.",
    row=ScansRow,
    target=Target(name="size", unit="m", description="Size.", minimum=0, maximum=9),
)
OURS = {**KINDS, SCANS.name: SCANS}
EVERY = {**DATASETS, **OURS}
KEY = KEYS[Ring.API]
PATHS = ("/", "/?model=iris", "/?model=voyage", "/?model=parcel", "/docs", "/logs")


def served(folder: Path) -> dict[str, LoadedModel]:
    """A tiny model of each dataset of the registry, and of the tests' own."""
    stored = {name: str(tiny_models.store(dataset).tag.version) for name, dataset in DATASETS.items()}
    loaded = {name: load(dataset, bentoml.models.get(f"{name}:{stored[name]}")) for name, dataset in DATASETS.items()}
    return loaded | {name: models.load(folder / name, dataset) for name, dataset in OURS.items()}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LoadedModel]:
    return served(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def url(loaded: dict[str, LoadedModel]) -> Iterator[str]:
    """A worker in this process."""
    settings = Settings(API_HOST="127.0.0.1", API_PORT=free_port(), GRPC_PORT=free_port(), LEDGER="off")
    worker = LocalWorker(loaded, settings, datasets=EVERY.values())
    with worker.running():
        yield worker.url


@pytest.fixture
def page() -> Iterator[Page]:
    """A browser that knows a key; there must be nothing in its console."""
    with browser(KEY) as page:
        page.resize(1200, 900)
        yield page
        assert page.errors == []


def to_try(page: Page, url: str, dataset: Dataset) -> None:
    """Open the page of a model."""
    page.open(f"{url}/?model={dataset.name}")
    # The script shows the button once it runs.
    page.wait_for("document.getElementById('copy') && !document.getElementById('copy').hidden")


def focused(page: Page) -> str:
    """The name of the field, or the text of the button or link, that has the focus."""
    found: str = page.run(
        "document.activeElement.name || document.activeElement.id || document.activeElement.textContent.trim()"
    )
    return found


def fill(page: Page, name: str, value: str) -> None:
    """Put a value into a field."""
    field = f"document.getElementById('form').elements[{json.dumps(name)}]"
    page.run(f"{field}.value = {json.dumps(value)}; {field}.dispatchEvent(new Event('input', {{bubbles: true}}))")


def predicted(page: Page) -> dict[str, Any]:
    """The answer that the page shows."""
    page.wait_for("document.querySelector('#result .value') !== null")
    answer: dict[str, Any] = json.loads(page.run("document.querySelector('#result pre').textContent"))
    return answer


@pytest.mark.parametrize("dataset", EVERY.values(), ids=lambda dataset: dataset.name)
def test_a_prediction_by_keyboard_alone(url: str, page: Page, dataset: Dataset) -> None:
    to_try(page, url, dataset)
    visited: list[str] = []
    while "Predict" not in visited:
        page.press("Tab")
        visited.append(focused(page))
        assert len(visited) < 100, visited
    # First the links, then the fields in their order; a date has several parts.
    fields = [name for name in dict.fromkeys(visited) if name in dataset.feature_names]
    assert fields == list(dataset.feature_names)
    page.press("Enter")
    answer = predicted(page)
    expected = httpx.post(f"{url}/predict/{dataset.name}", json=dataset.example).raise_for_status().json()
    assert {**answer, "prediction_id": ""} == {**expected, "prediction_id": ""}
    shown = page.run("document.getElementById('result').innerText")
    if dataset.target.classes:
        assert expected["label"] in shown
        for name, share in expected["probabilities"].items():
            assert name in shown
            assert f"{100 * share:.1f} %" in shown
        wide = page.run("[...document.querySelectorAll('.bar span')].map(bar => bar.getBoundingClientRect().width)")
        assert len(wide) == len(dataset.target.classes)
        assert max(wide) > 20
    else:
        assert dataset.target.unit in shown


def test_enter_in_a_field_predicts_and_arrows_choose_a_language(url: str, page: Page) -> None:
    to_try(page, url, IRIS)
    page.run("document.getElementById('form').elements['petal_width'].focus()")
    page.press("Enter")
    predicted(page)
    page.run("document.querySelector('[name=language]').focus()")
    for name in ("httpx", "tritonclient"):
        page.press("ArrowRight")
        assert page.run("document.querySelector('[name=language]:checked').value") == name
        assert page.run(f"document.querySelector('pre.{name}').checkVisibility()")
        assert (
            page.run("[...document.querySelectorAll('.requests pre')].filter(one => one.checkVisibility()).length") == 1
        )


def test_what_the_api_refuses_is_told_at_its_field(url: str, page: Page) -> None:
    to_try(page, url, HOUSING)
    fill(page, "MedInc", "1000")
    fill(page, "Latitude", "")
    page.run("document.querySelector('.actions button').click()")
    page.wait_for("document.querySelector('#result .alert') !== null")
    told = page.run(
        "Object.fromEntries([...document.querySelectorAll('[aria-invalid=true]')]"
        ".map(field => [field.name, document.getElementById(field.id + '-error').innerText]))"
    )
    refused = httpx.post(f"{url}/predict/housing", json={**HOUSING.example, "MedInc": 1000, "Latitude": None}).json()
    assert {f"{name}: {message}" for name, message in told.items()} == {one["msg"] for one in refused["detail"]}
    assert focused(page) == "MedInc"
    fill(page, "MedInc", "3")
    assert page.run("document.querySelectorAll('[aria-invalid=true]').length") == 1
    page.run("document.querySelector('[type=reset]').click()")
    page.wait_for("document.querySelectorAll('[aria-invalid=true]').length == 0")
    page.run("document.querySelector('.actions button').click()")
    predicted(page)


def test_optional_values_may_be_left_empty_and_others_typed(url: str, page: Page) -> None:
    to_try(page, url, VOYAGE)
    optional = [each.name for each in VOYAGE.features if each.optional]
    for name in optional:
        fill(page, name, "")
    fill(page, "agency", 'O\'Neill & "Sons" \\ $HOME')
    page.run("document.getElementById('form').elements['insured'].click()")
    row = {**VOYAGE.example, **dict.fromkeys(optional), "agency": 'O\'Neill & "Sons" \\ $HOME', "insured": False}
    expected = httpx.post(f"{url}/predict/voyage", json=row).raise_for_status().json()
    page.run("document.querySelector('.actions button').click()")
    answer = predicted(page)
    assert answer["probabilities"] == expected["probabilities"]
    # The requests beside it are the same one.
    for name, printed in requests_of(page, VOYAGE, KEY).items():
        assert answers_alike(printed, expected), name


@pytest.mark.parametrize("dataset", EVERY.values(), ids=lambda dataset: dataset.name)
def test_the_requests_beside_the_form_work_as_they_stand(url: str, page: Page, dataset: Dataset) -> None:
    page.open(f"{url}/?model={dataset.name}")
    written = httpx.get(f"{url}/?model={dataset.name}").text
    page.wait_for("document.getElementById('copy') && !document.getElementById('copy').hidden")
    # What the server has written is what the script writes.
    page.run(f"window.before = new DOMParser().parseFromString({json.dumps(written)}, 'text/html')")
    for name in ("curl", "httpx", "tritonclient"):
        code = page.run(f"document.querySelector('pre.{name}').textContent").replace("127.0.0.1", "localhost")
        assert page.run(f"window.before.querySelector('pre.{name}').textContent") == code
    expected = httpx.post(f"{url}/predict/{dataset.name}", json=dataset.example).raise_for_status().json()
    for name, printed in requests_of(page, dataset, KEY).items():
        assert answers_alike(printed, expected), name


def test_a_request_is_copied(url: str, page: Page) -> None:
    to_try(page, url, IRIS)
    page.run("navigator.clipboard.writeText = async (text) => { window.copied = text; }")
    page.run("document.getElementById('copy').focus()")
    page.press("Enter")
    page.wait_for("document.getElementById('copy').textContent == 'Copied'")
    assert page.run("window.copied == document.querySelector('pre.curl').textContent")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", PATHS)
def test_a_page_can_be_read_on_a_phone_by_day_and_by_night(url: str, page: Page, path: str, scheme: str) -> None:
    page.prefer(scheme)
    page.resize(360, 800)
    page.open(f"{url}{path}")
    page.wait_for("document.readyState == 'complete' && document.body.innerText.length > 100")
    if path == "/docs":
        page.wait_for("document.querySelectorAll('.opblock').length > 20")
        page.run("document.querySelector('.opblock-summary-control').click()")
        page.wait_for("document.querySelector('.opblock textarea') !== null")
    elif path != "/logs":
        page.run("document.querySelector('.actions button').click()")
        predicted(page)
    assert page.fits()
    assert page.without_label() == []
    contrast, text = page.least_contrast()
    assert contrast >= READABLE, text
    light = page.run("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).every(part => part > 128)")
    assert light == (scheme == "light")


def test_the_operations_of_the_api_fit_a_phone(url: str, page: Page) -> None:
    page.resize(360, 800)
    page.open(f"{url}/docs")
    page.wait_for("document.querySelectorAll('.opblock').length > 20")
    # The longest path, most parameters, the largest schemas.
    for name in ("versions_model_version_infer", "logs_recent", "drift_detect", "models_info"):
        block = f"document.querySelector('.opblock[id$={name}]')"
        page.run(f"{block}.querySelector('.opblock-summary-control').click()")
        page.wait_for(f"{block}.querySelector('.responses-inner') !== null")
        assert page.fits(), name


def test_an_operation_by_keyboard_alone(url: str, page: Page) -> None:
    page.open(f"{url}/docs")
    page.wait_for("document.querySelectorAll('.opblock').length > 20")

    def tab_to(selector: str) -> None:
        for _ in range(60):
            page.press("Tab")
            if page.run(f"document.activeElement.matches({json.dumps(selector)})"):
                return
        pytest.fail(f"not reached by Tab: {selector}")

    tab_to("#operations-predictions-predict_iris .opblock-summary-control")
    page.press("Enter")
    page.wait_for("document.querySelector('button.execute') !== null")
    tab_to("button.execute")
    page.press("Enter")
    page.wait_for("document.querySelector('.live-responses-table .response-col_status') !== null")


def test_the_api_page_follows_the_model_that_is_chosen(url: str, page: Page) -> None:
    page.open(f"{url}/docs")
    page.wait_for("document.querySelectorAll('.opblock').length > 20")
    block = "document.querySelector('[id$=versions_model_version_infer]')"
    page.run(f"{block}.querySelector('.opblock-summary-control').click()")
    version = f"{block}.querySelector('[data-param-name=model_version] input').value"
    page.wait_for(f"{version} && {block}.querySelector('textarea').value.includes('input')")
    served = {one["name"]: one["version"] for one in httpx.post(f"{url}/v2/repository/index").json()}
    assert page.run(version) == served["housing"]
    choice = f"{block}.querySelector('[data-param-name=model_name] select')"
    for name in ("iris", "voyage"):
        # React looks at the setter of the element, and hears of the change by its event.
        page.run(f"{choice}.value = '{name}'; {choice}.dispatchEvent(new Event('change', {{bubbles: true}}))")
        page.wait_for(f"{version} == '{served[name]}'")
        first = EVERY[name].feature_names[0] if name == "voyage" else "input"
        page.wait_for(f"JSON.parse({block}.querySelector('textarea').value).inputs[0].name == '{first}'")
        # Of the answer too.
        page.wait_for(f"{block}.querySelector('.responses-inner pre.example').innerText.includes('\"{name}\"')")
    page.run(f"{block}.querySelector('button.execute').click()")
    page.wait_for(f"{block}.querySelector('.live-responses-table .response-col_status') !== null")
    assert page.run(f"{block}.querySelector('.live-responses-table tbody .response-col_status').innerText") == "200"


def test_a_key_is_asked_for_and_kept_while_the_page_is_open(loaded: dict[str, LoadedModel], page: Page) -> None:
    worker = LocalWorker(loaded, settings_with_keys(), datasets=EVERY.values())
    with worker.running():
        to_try(page, worker.url, IRIS)
        assert page.asked == [f"{worker.url}/?model=iris"]
        # The password that opened the page opens no predictions.
        page.run("document.querySelector('.actions button').click()")
        page.wait_for("!document.getElementById('key-error').hidden")
        assert focused(page) == "key"
        page.type(KEY)
        page.press("Enter")
        predicted(page)
        page.run("document.querySelector('.models a').click()")
        page.wait_for("document.getElementById('model').dataset.model == 'housing'")
        assert page.run("location.search") == "?model=housing"
        page.run("document.querySelector('.actions button').click()")
        assert predicted(page)["unit"] == HOUSING.target.unit
        page.run("history.back()")
        page.wait_for("document.getElementById('model').dataset.model == 'iris'")
        # It is nowhere but in the field.
        assert page.run(f"!document.documentElement.outerHTML.includes('{KEY}') && !document.cookie")
        assert page.run("localStorage.length + sessionStorage.length") == 0
        assert all(requests_of(page, IRIS, KEY).values())
        page.open(f"{worker.url}/?model=iris")
        page.wait_for("document.getElementById('key') && document.getElementById('key').value == ''")
