import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from contract import DATASETS
from contract.dataset import MAXIMUM_BATCH_ROWS, Dataset
from contract.datasets.housing import HOUSING
from contract.datasets.iris import IRIS
from ledger import database
from ledger.record import Record
from ledger.store import Store
from ledger.times import now_us
from ledger.values import pack
from local_service import free_port
from serving.http import drift
from serving.models import LoadedModel
from serving.settings import Settings
from tests.ledger.records import a_record
from tests.serving import tiny_models
from tests.serving.worker import LocalWorker

MINUTE = 60_000_000


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="module")
def http(loaded: dict[str, LoadedModel], state: Path) -> Iterator[httpx.Client]:
    """A worker whose ledger has predictions of the last hours."""
    settings = Settings(API_HOST="127.0.0.1", API_PORT=free_port(), GRPC_PORT=free_port(), STATE_DIR=state)
    engine = database.connect(settings.database_url)
    database.migrate(engine)
    Store(engine).insert("segment", 1, list(recorded(loaded[HOUSING.name])), [])
    worker = LocalWorker(loaded, settings)
    with worker.running(), httpx.Client(base_url=worker.url, timeout=30) as client:
        yield client


def recorded(model: LoadedModel) -> Iterator[Record]:
    """Ten hours of traffic, 40 rows each; incomes rise in the last two."""
    now = now_us()
    for hour in range(10):
        for call in range(8):
            rows = drawn(HOUSING, 5, seed=8 * hour + call)
            if hour >= 8:
                rows[:, 0] += 3
            record = a_record(
                now - (10 - hour) * 60 * MINUTE + call * MINUTE + 30 * MINUTE,
                outputs=model.artifact.outputs(rows),
                version=model.version,
            )
            record.feature_bytes = pack(rows)
            yield record


def drawn(dataset: Dataset, count: int, seed: int = 0) -> Any:
    table = tiny_models.table(dataset).features
    return table[np.random.default_rng(seed).integers(0, len(table), count)].copy()


def body(dataset: Dataset, rows: Any, **others: Any) -> dict[str, Any]:
    return {
        "model": dataset.name,
        "rows": [dataset.decode(row) for row in rows.tolist()],
        **others,
    }


def detect(client: httpx.Client, content: Any) -> dict[str, Any]:
    answer: dict[str, Any] = client.post(drift.PATH, json=content).raise_for_status().json()
    return answer


@pytest.mark.parametrize("dataset", DATASETS.values(), ids=lambda dataset: dataset.name)
def test_rows_as_in_training_have_not_drifted(http: httpx.Client, dataset: Dataset) -> None:
    found = detect(http, body(dataset, drawn(dataset, 300)))
    assert found["verdict"] == "no drift"
    assert (found["model"], found["rows"]) == (dataset.name, 300)
    names = {*dataset.feature_names, "prediction"}
    assert {change["name"] for change in found["changes"]} == names
    assert not [change for change in found["changes"] if change["drift"]]
    assert found["since"] is None


@pytest.mark.parametrize("dataset", [HOUSING, IRIS], ids=lambda dataset: dataset.name)
def test_a_shifted_feature_is_named_first(http: httpx.Client, dataset: Dataset) -> None:
    rows = drawn(dataset, 500)
    rows[:, 1] += rows[:, 1].std()
    worst = detect(http, body(dataset, rows))["changes"][0]
    assert (worst["name"], worst["drift"]) == (dataset.feature_names[1], True)
    assert worst["shift"] == pytest.approx(1, abs=0.15)
    assert worst["psi"] > 0.2
    assert worst["adjusted_p_value"] < 1e-6


def test_a_batch_of_10_000_rows_is_compared(http: httpx.Client) -> None:
    assert detect(http, body(IRIS, drawn(IRIS, MAXIMUM_BATCH_ROWS)))["rows"] == MAXIMUM_BATCH_ROWS


def test_of_few_rows_nothing_is_said(http: httpx.Client) -> None:
    found = detect(http, body(IRIS, drawn(IRIS, 99)))
    assert (found["verdict"], found["changes"], found["minimum_rows"]) == ("too few rows", [], 100)


def test_the_recent_window_tells_what_has_drifted_and_since_when(http: httpx.Client) -> None:
    found = detect(http, {"model": "housing"})
    assert (found["verdict"], found["rows"]) == ("drift", 400)
    worst = found["changes"][0]
    assert worst["name"] in {"MedInc", "prediction"}
    income = next(change for change in found["changes"] if change["name"] == "MedInc")
    # The third of four parts of 100 rows is the first with more than a few of the new ones.
    assert income["since"] in {part["since"] for part in found["parts"][2:]}
    assert len(found["parts"]) == 4
    assert "refused" in {change["name"] for change in found["changes"]}


def test_the_newest_rows_and_the_last_hours(http: httpx.Client) -> None:
    assert detect(http, {"model": "housing", "newest_rows": 120})["rows"] == 120
    # The last two hours begin at full speed.
    assert detect(http, {"model": "housing", "hours": 5})["rows"] == 200
    assert detect(http, {"model": "iris", "hours": 5})["verdict"] == "too few rows"


@pytest.mark.parametrize(
    ("content", "field", "said"),
    [
        ({}, "model", "the field is missing"),
        ({"model": "wine"}, "model", "'iris'"),
        ({"model": "iris", "rows": []}, "rows", "at least 1 item"),
        ({"model": "iris", "rows": [IRIS.example] * (MAXIMUM_BATCH_ROWS + 1)}, "rows", "at most 10000 items"),
        ({"model": "iris", "rows": [IRIS.example, {}]}, "rows[1].sepal_length", "missing"),
        ({"model": "iris", "rows": [IRIS.example | {"petal_width": 99}]}, "rows[0].petal_width", "less than or equal"),
        ({"model": "iris", "hours": 0}, "hours", "greater than 0"),
        ({"model": "iris", "newest_rows": 10**9}, "newest_rows", "less than or equal to 20000"),
        ({"model": "iris", "hours": 1, "newest_rows": 5}, "body", "one of hours and newest_rows"),
        ({"model": "iris", "rows": [IRIS.example], "hours": 1}, "body", "one of rows and hours"),
        ({"model": "iris", "days": 1}, "days", "unknown field"),
    ],
)
def test_a_wrong_body_is_refused_by_field(http: httpx.Client, content: Any, field: str, said: str) -> None:
    refused = http.post(drift.PATH, json=content)
    assert refused.status_code == 400
    assert refused.json()["error"].startswith(f"{field}: ")
    assert said in refused.json()["error"]


def test_what_is_no_json_is_refused(http: httpx.Client) -> None:
    assert http.post(drift.PATH, content=b"{", headers={"content-type": "application/json"}).status_code == 400
    assert http.post(drift.PATH, content=b"{}", headers={"content-type": "text/plain"}).status_code == 415
    assert http.get(drift.PATH).status_code == 405


def test_rows_that_are_compared_are_not_recorded_as_predictions(http: httpx.Client) -> None:
    def predicted() -> list[str]:
        lines: list[str] = http.get("/metrics").text.splitlines()
        return [line for line in lines if line.startswith('ml_predictions_total{model="iris"')]

    before = predicted()
    detect(http, body(IRIS, drawn(IRIS, 200)))
    assert predicted() == before


def test_it_takes_an_api_key(locked: LocalWorker) -> None:
    answer = httpx.post(f"{locked.url}{drift.PATH}", json={"model": "iris"})
    assert answer.status_code == 401


def test_without_a_ledger_rows_are_compared_all_the_same(loaded: dict[str, LoadedModel]) -> None:
    settings = Settings(API_HOST="127.0.0.1", API_PORT=free_port(), GRPC_PORT=free_port(), LEDGER="off")
    worker = LocalWorker(loaded, settings)
    with worker.running(), httpx.Client(base_url=worker.url) as client:
        assert detect(client, body(IRIS, drawn(IRIS, 200)))["verdict"] == "no drift"
        refused = client.post(drift.PATH, json={"model": "iris"})
    assert refused.status_code == 404
    assert "LEDGER=off" in refused.json()["error"]


def test_the_document_describes_it(http: httpx.Client) -> None:
    from jsonschema import Draft202012Validator

    document = http.get("/docs.json").json()
    operation = document["paths"][drift.PATH]["post"]
    schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
    asked = operation["requestBody"]["content"]["application/json"]
    for content, of in (
        (detect(http, body(HOUSING, drawn(HOUSING, 200))), schema),
        (detect(http, {"model": "housing"}), schema),
        *((example["value"], asked["schema"]) for example in asked["examples"].values()),
        ({"model": "iris", "hours": 3}, asked["schema"]),
    ):
        Draft202012Validator({**of, "components": document["components"]}).validate(json.loads(json.dumps(content)))
