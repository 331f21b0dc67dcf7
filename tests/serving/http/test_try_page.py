"""The page to try the models, as the server makes it; ``tests/integration/test_pages.py`` uses it in a browser."""

import asyncio
import json
import shlex
from html import escape
from typing import Any

import httpx
import pytest

from contract import DATASETS
from contract.dataset import Dataset, Target
from contract.datasets.iris import IRIS
from contract.row import Row, category, feature
from local_service import free_port
from serving.access import Gate
from serving.bundle import Bundle
from serving.errors import NotFound
from serving.http.app import HttpRequest
from serving.http.docs import DocsApp
from serving.http.openapi import document
from serving.http.snippets import snippets
from serving.http.try_page import TryPage
from serving.keys import Ring
from serving.models import LoadedModel
from serving.protocol.inference import Inference
from serving.settings import Settings
from tests.kinds import models
from tests.kinds.datasets import KINDS
from tests.serving.http.elements import Element, read_page
from tests.serving.locked import KEYS, headers
from tests.serving.worker import LocalWorker


class HostileRow(Row):
    """Names and categories that mean something to HTML, shells and Python."""

    width: float = feature(
        unit="<b>", minimum=0, maximum=9, description='"><script>', example=1.5, alias='it\'s <i>"wide"</i> $HOME `id`'
    )
    tiny: float = feature(unit="m", minimum=1e-9, maximum=3e-9, description="Tiny.", example=2e-9)
    kind: str = category("a'; rm -rf / #", '"\\', description="</textarea>", example="a'; rm -rf / #")


HOSTILE = Dataset(
    name="hostile",
    description="<script>alert(1)</script>",
    row=HostileRow,
    target=Target(name="price", unit="</small>", description="&amp;", minimum=0, maximum=9),
)


EVERY = pytest.mark.parametrize(
    "dataset", [*DATASETS.values(), *KINDS.values(), HOSTILE], ids=lambda dataset: dataset.name
)


@pytest.fixture(scope="module")
def served(loaded: dict[str, LoadedModel], tmp_path_factory: pytest.TempPathFactory) -> dict[str, LoadedModel]:
    """A model of each dataset."""
    folder = tmp_path_factory.mktemp("try")
    kinds = [*KINDS.values(), HOSTILE]
    return {**loaded, **{one.name: models.load(folder / one.name, one) for one in kinds}}


def page_of(bundle: Bundle, settings: Settings | None = None) -> TryPage:
    settings = settings or Settings(API_PORT=free_port(), LEDGER="off")
    return TryPage(bundle, settings, Gate(settings.keys()))


def ask(page: TryPage, query: str = "") -> bytes:
    scope: dict[str, Any] = {"query_string": query.encode(), "headers": []}
    return asyncio.run(page.answer(HttpRequest(scope, None, None))).content  # type: ignore[arg-type]  # all it reads


@pytest.fixture(scope="module")
def page(served: dict[str, LoadedModel]) -> TryPage:
    return page_of(Bundle(served, Settings(LEDGER="off")))


def tree(page: TryPage, dataset: Dataset) -> Element:
    return read_page(ask(page, f"model={dataset.name}").decode())


@EVERY
def test_each_feature_has_a_field_with_a_label_and_its_example(page: TryPage, dataset: Dataset) -> None:
    found = tree(page, dataset)
    labels = {one.get("for"): one.text for one in found.all("label") if one.get("for")}
    fields = {one.get("name"): one for tag in ("input", "select") for one in found.all(tag) if one.get("data-kind")}
    assert set(fields) == set(dataset.feature_names)
    for each in dataset.features:
        field = fields[each.name]
        assert labels[field.get("id")] == each.name
        assert field.get("data-kind") == each.kind
        chosen = [one.get("value") for one in field.all("option") if "selected" in one.attributes]
        value = chosen[0] if chosen else field.get("value")
        if field.get("type") == "checkbox":
            assert ("checked" in field.attributes) == each.example
        else:
            shown = str(each.example).lower() if isinstance(each.example, bool) else str(each.example)
            assert value == shown.removesuffix("Z")
            assert each.optional != ("required" in field.attributes)
        if each.numeric:
            assert float(field.get("min") or "x") == each.minimum
            assert float(field.get("max") or "x") == each.maximum
            # Arrows go from the minimum on.
            step = field.get("step") or ""
            if step == "any":
                assert each.name == "tiny"
            else:
                assert each.minimum / float(step) == pytest.approx(round(each.minimum / float(step)))
        described = [found.all("p", id=name)[0].text for name in (field.get("aria-describedby") or "").split()]
        assert described[0].startswith(each.description.removesuffix(f" Unit: {each.unit}."))


@EVERY
def test_a_choice_has_the_whole_vocabulary(page: TryPage, dataset: Dataset) -> None:
    found = tree(page, dataset)
    for each in (one for one in dataset.features if one.vocabulary):
        choice = found.all("select", name=each.name)
        if not choice:
            (field,) = found.all("input", name=each.name)
            choice = found.all("datalist", id=field.get("list") or "")
        assert [one.get("value") for one in choice[0].all("option") if one.get("value")] == list(each.vocabulary)


@EVERY
def test_the_card_says_what_the_model_is(page: TryPage, served: dict[str, LoadedModel], dataset: Dataset) -> None:
    model = served[dataset.name]
    (card,) = tree(page, dataset).all("section", "model")
    for told in (model.version, model.card.data_sha256, f"{model.card.training_rows:,}", *dataset.feature_names):
        assert told in card.text
    for name, value in model.card.metrics.items():
        assert name.replace("_", " ") in card.text
        assert f"{value:.4g}" in card.text


def test_every_model_can_be_reached(page: TryPage, served: dict[str, LoadedModel]) -> None:
    first = read_page(ask(page).decode())
    (choice,) = first.all("nav", "models")
    assert [one.text for one in choice.all("a")] == list(served)
    assert [one.text for one in choice.all("a") if one.get("aria-current")] == [next(iter(served))]
    with pytest.raises(NotFound, match="There is no model 'wine'; there are "):
        ask(page, "model=wine")


def test_one_model_needs_no_choice(loaded: dict[str, LoadedModel]) -> None:
    alone = page_of(Bundle({"iris": loaded["iris"]}, Settings(LEDGER="off")))
    assert not read_page(ask(alone).decode()).all("nav", "models")


def test_what_a_contract_says_is_text_and_nothing_else(page: TryPage) -> None:
    found = tree(page, HOSTILE)
    assert [one.get("src") for one in found.all("script")] == ["./static_content/try.js"]
    assert HOSTILE.description in found.text
    assert {one.get("name") for one in [*found.all("input"), *found.all("select")]} >= set(HOSTILE.feature_names)


@pytest.mark.parametrize("dataset", [IRIS, *KINDS.values(), HOSTILE], ids=lambda dataset: dataset.name)
@pytest.mark.parametrize("key", [False, True])
def test_the_requests_send_the_example(dataset: Dataset, key: bool) -> None:
    shown = {one.name: read_page(one.code).text for one in snippets(dataset, "http://localhost:8000", key=key)}
    words = shlex.split(shown["curl"])
    assert words[:2] == ["curl", f"http://localhost:8000/predict/{dataset.name}"]
    assert json.loads(words[words.index("-d") + 1]) == dataset.example
    assert ("Authorization: Bearer $API_KEY" in words) == key
    for name in ("httpx", "tritonclient"):
        compile(shown[name], name, "exec")
        assert ("API_KEY" in shown[name]) == key
    sent: list[dict[str, Any]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(json.loads(request.content))
        return httpx.Response(200, json={})

    with httpx.Client(transport=httpx.MockTransport(answer)) as client:
        code = shown["httpx"].replace("httpx.post", "client.post").replace("os.environ['API_KEY']", "'key'")
        exec(code, {"client": client})  # noqa: S102 - that it runs is what is tested
    assert sent == [dataset.example]


def test_a_page_is_built_once_for_each_version(loaded: dict[str, LoadedModel]) -> None:
    async def look() -> None:
        bundle = Bundle(loaded, Settings(LEDGER="off"))
        page = page_of(bundle)
        docs = DocsApp(lambda: document("", "", ""), Inference(bundle, "", ""))

        async def ask_both() -> tuple[bytes, bytes]:
            request = HttpRequest({"query_string": b"model=iris", "headers": []}, None, None)  # type: ignore[arg-type]
            return (await page.answer(request)).content, (await docs.document(request)).content

        first, again = await ask_both(), await ask_both()
        assert all(one is other for one, other in zip(first, again, strict=True))
        model = loaded["iris"]
        await bundle["iris"].replace(LoadedModel(IRIS, model.artifact, "another", model.loaded_at, model.run))
        for before, after in zip(first, await ask_both(), strict=True):
            assert model.version.encode() in before
            assert model.version.encode() not in after
            assert b"another" in after
        await bundle.close()

    asyncio.run(look())


def test_only_where_there_are_keys_the_page_asks_for_one(worker: LocalWorker, locked: LocalWorker) -> None:
    assert not read_page(httpx.get(worker.url).text).all("input", id="key")
    answer = httpx.get(locked.url, headers=headers(KEYS[Ring.API]))
    assert read_page(answer.text).all("input", id="key")
    assert KEYS[Ring.API] not in answer.text
    refused = httpx.get(locked.url)
    assert refused.status_code == 401
    # An outsider learns nothing of the models.
    assert escape(IRIS.description) not in refused.text
