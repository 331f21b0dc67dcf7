"""What we rely on of BentoML: its private names, its clients, its metric names."""

import asyncio
import gc
import json
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import bentoml
import httpx
import pytest

from contract import DATASETS
from contract.dataset import Dataset
from contract.datasets.housing import HOUSING
from local_service import PROJECT
from tests.serving.series import scrape

DATASET = pytest.mark.parametrize("dataset", DATASETS.values(), ids=lambda dataset: dataset.name)
HOST = (Path(__file__).parents[2] / "serving" / "host.py").read_text()
PRIVATE = {
    "_bentoml_impl.server.app.ContextMiddleware",
    "_bentoml_sdk.Service",
    "bentoml._internal.configuration.containers.BentoMLContainer",
    "bentoml._internal.server.http.traffic.TimeoutMiddleware",
    "bentoml._internal.utils.circus",
}
"""Every private name that serving/host.py uses."""


def test_the_private_names_we_use_are_these_and_exist() -> None:
    """After an upgrade of BentoML this test says what has moved; mend serving/host.py, and nothing else."""
    imports = re.findall(r"^from ((?:_bentoml|bentoml\._internal)[\w.]*) import (.+)$", HOST, re.MULTILINE)
    assert {f"{module}.{name}" for module, names in imports for name in names.split(", ")} == PRIVATE
    for name in PRIVATE:
        module, _, attribute = name.rpartition(".")
        found = getattr(__import__(module, fromlist=[attribute]), attribute, None)
        assert found is not None, f"BentoML {bentoml.__version__} has no {name} any more: adapt serving/host.py"


@pytest.mark.parametrize(
    "name", ["to_asgi", "__call__", "__attrs_post_init__", "openapi_spec", "apis", "models", "inner", "bento"]
)
def test_the_service_has_what_we_override_or_read(name: str) -> None:
    from _bentoml_sdk import Service

    fields = {field.name for field in attrs.fields(Service)}
    assert name in fields or hasattr(Service, name), f"BentoML's Service has no {name} any more: adapt serving/host.py"


@pytest.fixture
def collected() -> Iterator[None]:
    """BentoML's clients leave their temporary directory to the garbage collector, which then warns of it."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


CLIENT = pytest.mark.usefixtures("collected")


def body(client: Any, dataset: Dataset, *, batch: bool) -> Any:
    method = getattr(client, f"predict_{dataset.name}_batch" if batch else f"predict_{dataset.name}")
    return method({"rows": [dataset.example] * 3} if batch else dataset.example)


@CLIENT
@DATASET
def test_bentomls_client_predicts(client: httpx.Client, stored: dict[str, str], dataset: Dataset) -> None:
    with bentoml.SyncHTTPClient(str(client.base_url), server_ready_timeout=30) as theirs:
        assert theirs.is_ready()
        one = body(theirs, dataset, batch=False)
        many = body(theirs, dataset, batch=True)
    assert one["model"] == many["model"] == {"name": dataset.name, "version": stored[dataset.name]}
    assert [answer["prediction"] for answer in many["predictions"]] == [one["prediction"]] * 3


@CLIENT
@DATASET
def test_bentomls_asynchronous_client_predicts(client: httpx.Client, dataset: Dataset) -> None:
    async def ask() -> Any:
        async with bentoml.AsyncHTTPClient(str(client.base_url), server_ready_timeout=30) as theirs:
            return await body(theirs, dataset, batch=False)

    assert asyncio.run(ask())["model"]["name"] == dataset.name


@CLIENT
def test_bentomls_client_is_told_what_is_wrong(client: httpx.Client) -> None:
    with (
        bentoml.SyncHTTPClient(str(client.base_url), server_ready_timeout=30) as theirs,
        pytest.raises(bentoml.exceptions.BentoMLException, match="MedInc"),
    ):
        theirs.predict_housing({**HOUSING.example, "MedInc": -1})  # type: ignore[attr-defined]  # made from the schema


@CLIENT
def test_bentomls_client_refuses_keywords_itself(client: httpx.Client) -> None:
    """Where it takes them, ``docs/how-to/clients.md`` may say so."""
    with (
        bentoml.SyncHTTPClient(str(client.base_url), server_ready_timeout=30) as theirs,
        pytest.raises(TypeError, match="Expected one positional argument for root input"),
    ):
        theirs.predict_housing(**HOUSING.example)  # type: ignore[attr-defined]  # made from the schema


def test_the_example_of_bentomls_client_runs(client: httpx.Client) -> None:
    ended = subprocess.run(
        [sys.executable, "examples/python_bentoml.py"],
        cwd=PROJECT,
        env={**os.environ, "API_URL": str(client.base_url)},
        capture_output=True,
        text=True,
        check=True,
    )
    one, batch = map(json.loads, ended.stdout.splitlines())
    assert one == batch[0] != batch[1]


def test_bentomls_series_have_their_names_and_labels(client: httpx.Client) -> None:
    client.post("/predict/housing", json=HOUSING.example).raise_for_status()
    now = scrape(client)
    labels = {"endpoint", "service_name", "service_version", "runner_name"}
    expected = {
        "bentoml_service_request_total": labels | {"http_response_code"},
        "bentoml_service_request_duration_seconds_count": labels | {"http_response_code"},
        "bentoml_service_request_in_progress": labels,
        "bentoml_service_last_request_timestamp_seconds": labels - {"endpoint"} | {"pid"},
    }
    for name, wanted in expected.items():
        found = [{label for label, _ in pairs} for sample, pairs in now.samples if sample == name]
        assert found
        assert all(one == wanted for one in found)


def test_a_prediction_route_counts_from_zero(client: httpx.Client) -> None:
    """A rate over a series that begins at 1 would miss the first error."""
    now = scrape(client)
    for dataset in DATASETS.values():
        for path in (f"/predict/{dataset.name}", f"/predict/{dataset.name}/batch"):
            codes = now.of("bentoml_service_request_total", "http_response_code", endpoint=path)
            assert {"200", "500"} <= set(codes)
