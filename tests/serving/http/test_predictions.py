"""The real service, in its own processes, over HTTP."""

import json
import math
import random
import socket
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest

from contract import DATASETS
from contract.dataset import Dataset
from contract.datasets.housing import HOUSING
from contract.datasets.iris import IRIS
from contract.table import FloatMatrix
from tests.serving import tiny_models

JSON = {"Content-Type": "application/json"}


def rows_of(dataset: Dataset, count: int) -> tuple[list[dict[str, float]], FloatMatrix]:
    """Rows as bodies, and the outputs the model gives them."""
    matrix = np.resize(tiny_models.table(dataset).features, (count, len(dataset.features)))
    bodies = [dict(zip(dataset.feature_names, row, strict=True)) for row in matrix.tolist()]
    return bodies, tiny_models.expected(dataset, matrix)


def test_housing_answers_a_number_with_its_unit_and_origin(client: httpx.Client, stored: dict[str, str]) -> None:
    (body,), outputs = rows_of(HOUSING, 1)
    answer = client.post("/predict/housing", json=body)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    content = answer.json()
    assert uuid.UUID(content.pop("prediction_id")).version == 7
    assert content == {
        "prediction": outputs[0, 0],
        "unit": "100k USD",
        "model": {"name": "housing", "version": stored["housing"]},
    }


def test_iris_answers_a_class_with_its_probabilities(client: httpx.Client, stored: dict[str, str]) -> None:
    (body,), outputs = rows_of(IRIS, 1)
    content = client.post("/predict/iris", json=body).raise_for_status().json()
    best = int(outputs[0].argmax())
    assert content.pop("prediction_id")
    assert content == {
        "prediction": best,
        "label": IRIS.target.classes[best],
        "confidence": outputs[0, best],
        "probabilities": {name: outputs[0, i] for i, name in enumerate(IRIS.target.classes)},
        "unit": "class",
        "model": {"name": "iris", "version": stored["iris"]},
    }


@pytest.mark.parametrize("count", [1, 2, 1000, 10_000])
def test_a_housing_batch_is_answered_in_order(client: httpx.Client, count: int) -> None:
    bodies, outputs = rows_of(HOUSING, count)
    # The body limit of this service is 2 MB: short numbers.
    bodies = [{name: round(value, 4) for name, value in body.items()} for body in bodies]
    matrix = np.array([list(body.values()) for body in bodies])
    outputs = tiny_models.expected(HOUSING, matrix)
    content = client.post("/predict/housing/batch", json={"rows": bodies}).raise_for_status().json()
    assert [answer["prediction"] for answer in content["predictions"]] == outputs[:, 0].tolist()
    assert content["unit"] == "100k USD"


def test_an_iris_batch_is_answered_in_order(client: httpx.Client) -> None:
    bodies, outputs = rows_of(IRIS, 300)
    content = client.post("/predict/iris/batch", json={"rows": bodies}).raise_for_status().json()
    assert [answer["prediction"] for answer in content["predictions"]] == outputs.argmax(axis=1).tolist()
    assert {"prediction", "label", "confidence", "probabilities"} == set(content["predictions"][0])


def test_whole_numbers_are_numbers(client: httpx.Client) -> None:
    whole = {"MedInc": 8, "HouseAge": 41, "AveRooms": 7, "AveBedrms": 1, "Population": 322, "AveOccup": 3}
    body = {**whole, "Latitude": 38, "Longitude": -122}
    expected = tiny_models.expected(HOUSING, np.array([list(body.values())], dtype=float))
    assert client.post("/predict/housing", json=body).json()["prediction"] == expected[0, 0]


def test_every_concurrent_caller_gets_its_own_answer(client: httpx.Client) -> None:
    bodies, outputs = rows_of(HOUSING, 400)
    draw = random.Random(3)
    calls = [draw.randrange(400) for _ in range(2000)]

    def call(index: int) -> tuple[int, dict[str, Any]]:
        if index % 50 == 0:
            answer = client.post("/predict/housing", json={**bodies[index], "MedInc": -1})
        else:
            answer = client.post("/predict/housing", json=bodies[index])
        return answer.status_code, answer.json()

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(call, calls))
    for index, (status, content) in zip(calls, answers, strict=True):
        if index % 50 == 0:
            assert status == 400
        else:
            assert (status, content["prediction"]) == (200, outputs[index, 0])
    identifiers = [content["prediction_id"] for status, content in answers if status == 200]
    assert len(set(identifiers)) == len(identifiers)


BAD_VALUES = [
    (math.nan, "finite number"),
    (math.inf, "finite number"),
    (-math.inf, "finite number"),
    (True, "valid number"),
    ("1.5", "valid number"),
    (None, "the value is missing (null)"),
    ([1.5], "valid number"),
    ({"value": 1.5}, "valid number"),
    (1e308, "less than or equal to"),
    (-1e308, "greater than or equal to"),
]


@pytest.mark.parametrize("dataset", [HOUSING, IRIS], ids=lambda dataset: dataset.name)
@pytest.mark.parametrize(("value", "reason"), BAD_VALUES)
def test_a_refused_value_is_named(client: httpx.Client, dataset: Dataset, value: object, reason: str) -> None:
    last = dataset.feature_names[-1]
    answer = client.post(f"/predict/{dataset.name}", content=json.dumps({**dataset.example, last: value}), headers=JSON)
    assert answer.status_code == 400
    content = answer.json()
    assert content["error"].startswith(f"{last}: ")
    assert reason in content["error"]
    assert [detail["loc"] for detail in content["detail"]] == [[last]]
    assert set(content["detail"][0]) == {"loc", "msg", "type"}


@pytest.mark.parametrize("dataset", [HOUSING, IRIS], ids=lambda dataset: dataset.name)
def test_a_refused_value_in_a_batch_is_named_with_its_row(client: httpx.Client, dataset: Dataset) -> None:
    first = dataset.feature_names[0]
    rows = [dict(dataset.example) for _ in range(5)]
    rows[3][first] = -1e9
    del rows[4][first]
    content = client.post(f"/predict/{dataset.name}/batch", json={"rows": rows}).json()
    assert content["error"].startswith(f"rows[3].{first}: ")
    assert content["error"].endswith("(and 1 more)")
    assert [detail["loc"] for detail in content["detail"]] == [["rows", 3, first], ["rows", 4, first]]


@pytest.mark.parametrize(
    ("path", "body", "sentence"),
    [
        ("/predict/housing", b"", "MedInc: the field is missing"),
        ("/predict/housing", b"{}", "MedInc: the field is missing"),
        ("/predict/housing", b"null", "body: input should be an object"),
        ("/predict/housing", b"[]", "body: input should be an object"),
        ("/predict/housing", b"12", "body: input should be an object"),
        ("/predict/housing", b'{"MedInc": 1,}', "body: invalid JSON"),
        ("/predict/housing", b'{"MedInc": 1', "body: invalid JSON"),
        ("/predict/housing", b"\xff\xfe", "body: invalid JSON"),
        ("/predict/housing", b"[" * 60_000, "body: invalid JSON"),
        ("/predict/housing/batch", b'{"rows": []}', "rows: list should have at least 1 item"),
        ("/predict/housing/batch", b'{"rows": 3}', "rows: input should be a valid array"),
        ("/predict/housing/batch", b"[{}]", 'with a list of rows, {"rows": […]}, not the list alone'),
        ("/predict/housing/batch", b"3", 'body: input should be an object with a list of rows, {"rows": […]}'),
        ("/predict/housing/batch", b'{"rows": [3]}', "rows[0]: input should be an object"),
        ("/predict/housing/batch", b"{}", "rows: the field is missing"),
        ("/predict/housing/batch", b'{"rows": [{}], "extra": 1}', "rows[0].MedInc: the field is missing"),
        ("/predict/iris/batch", json.dumps({"rows": [IRIS.example] * 10_001}).encode(), "at most 10000 items"),
    ],
)
def test_a_malformed_body_is_told_in_one_sentence(client: httpx.Client, path: str, body: bytes, sentence: str) -> None:
    answer = client.post(path, content=body, headers=JSON)
    assert answer.status_code == 400
    assert sentence in answer.json()["error"]
    assert answer.json()["detail"]


def test_an_unknown_field_is_refused(client: httpx.Client) -> None:
    answer = client.post("/predict/iris", json={**IRIS.example, "colour": 3})
    assert (answer.status_code, answer.json()["error"]) == (400, "colour: unknown field")


def test_a_body_with_many_errors_lists_the_first_hundred(client: httpx.Client) -> None:
    content = client.post("/predict/iris/batch", json={"rows": [{}] * 1000}).json()
    assert len(content["detail"]) == 100
    assert content["error"].endswith("(and 99 more; 975 of 1000 rows were not checked)")


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/nowhere", {}, 404),
        ("POST", "/predict/tulips", JSON, 404),
        ("GET", "/predict/housing", {}, 405),
        ("DELETE", "/predict/housing/batch", {}, 405),
        ("POST", "/models/info", JSON, 405),
        ("POST", "/predict/housing", {"Content-Type": "text/plain"}, 415),
        ("POST", "/predict/housing", {"Content-Type": "application/vnd.bentoml+pickle"}, 415),
        ("POST", "/predict/housing", {"Content-Type": "multipart/form-data; boundary=x"}, 415),
    ],
)
def test_refusals_have_one_form(
    client: httpx.Client, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    answer = client.request(method, path, headers=headers, content=b"{}" if method == "POST" else None)
    assert answer.status_code == status
    assert set(answer.json()) == {"error", "detail"}
    assert isinstance(answer.json()["error"], str)


def test_a_body_over_the_limit_is_refused_by_its_length(client: httpx.Client) -> None:
    answer = client.post("/predict/iris/batch", content=b" " * 2_000_001, headers=JSON)
    assert (answer.status_code, "2000000 bytes" in answer.json()["error"]) == (413, True)


def test_a_body_over_the_limit_without_a_length_is_refused_too(client: httpx.Client) -> None:
    answer = client.post("/predict/iris/batch", content=(b" " * 100_000 for _ in range(21)), headers=JSON)
    assert answer.status_code == 413


def test_a_single_row_has_a_smaller_limit(client: httpx.Client) -> None:
    answer = client.post("/predict/iris", content=b" " * 65_537, headers=JSON)
    assert (answer.status_code, "65536 bytes" in answer.json()["error"]) == (413, True)


def test_a_long_field_name_is_not_sent_back_whole(client: httpx.Client) -> None:
    answer = client.post("/predict/iris", json={**IRIS.example, "x" * 10_000: 1})
    assert (answer.status_code, len(answer.content) < 500) == (400, True)


def test_a_slash_too_many_is_an_unknown_path(client: httpx.Client) -> None:
    answer = client.post("/predict/iris/", json=IRIS.example)
    assert (answer.status_code, answer.json()["detail"]) == (404, [])


def test_a_client_that_leaves_in_mid_body_harms_nobody(client: httpx.Client) -> None:
    for _ in range(5):
        with socket.create_connection((client.base_url.host, client.base_url.port or 80)) as leaver:
            leaver.sendall(b"POST /predict/iris HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
    assert client.post("/predict/iris", json=IRIS.example).status_code == 200


def test_a_chunked_body_within_the_limit_is_taken(client: httpx.Client) -> None:
    parts = (json.dumps(IRIS.example)[start : start + 7].encode() for start in range(0, 100, 7))
    assert client.post("/predict/iris", content=parts, headers=JSON).status_code == 200


def test_probes_answer(client: httpx.Client, stored: dict[str, str]) -> None:
    assert client.get("/livez").status_code == 200
    assert client.get("/readyz").status_code == 200
    health = client.get("/health").raise_for_status().json()
    assert health["status"] == "ok"
    assert health["models"] == stored
    assert health["uptime_seconds"] >= 0


@pytest.mark.parametrize("dataset", DATASETS.values(), ids=lambda dataset: dataset.name)
def test_models_info_tells_what_is_loaded(client: httpx.Client, stored: dict[str, str], dataset: Dataset) -> None:
    info = client.get("/models/info").raise_for_status().json()["models"][dataset.name]
    assert (info["name"], info["version"]) == (dataset.name, stored[dataset.name])
    assert {"metrics", "loaded_at", "algorithm"} <= set(info)
    assert tiny_models.RUN.model_dump(mode="json").items() <= info.items()
    assert [(one["name"], one["unit"], one["minimum"], one["maximum"]) for one in info["features"]] == [
        (one.name, one.unit, one.decode(one.minimum), one.decode(one.maximum)) for one in dataset.features
    ]
    assert "golden" not in info


@pytest.mark.parametrize("path", ["/metrics", "/metrics/prometheus"])
def test_metrics_count_the_requests(client: httpx.Client, path: str) -> None:
    client.post("/predict/iris", json=IRIS.example).raise_for_status()
    text = client.get(path).raise_for_status().text
    assert any(
        line.startswith("bentoml_service_request_total{")
        and 'endpoint="/predict/iris"' in line
        and 'http_response_code="200"' in line
        for line in text.splitlines()
    )
