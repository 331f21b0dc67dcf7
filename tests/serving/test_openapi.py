import copy
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from contract import DATASETS
from contract.dataset import Dataset


@pytest.fixture(scope="module")
def document(client: httpx.Client) -> dict[str, Any]:
    content: dict[str, Any] = client.get("/docs.json").raise_for_status().json()
    return content


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(path, verb, operation) for path, item in document["paths"].items() for verb, operation in item.items()]


def check(document: dict[str, Any], schema: dict[str, Any], content: object) -> None:
    """Content against a schema of the document, which refers to the document's components."""
    whole = {**copy.deepcopy(schema), "components": document["components"]}
    Draft202012Validator(whole).validate(content)


def test_the_document_is_valid_openapi(document: dict[str, Any]) -> None:
    validate(document)
    assert document["openapi"] == "3.1.0"


def test_every_route_is_there(document: dict[str, Any]) -> None:
    predictions = {f"/predict/{name}{end}" for name in DATASETS for end in ("", "/batch")}
    operational = {"/livez", "/readyz", "/health", "/models/info", "/metrics", "/metrics/prometheus"}
    assert set(document["paths"]) == predictions | operational


def test_the_examples_work_and_the_answers_hold_their_schema(client: httpx.Client, document: dict[str, Any]) -> None:
    tried = 0
    for path, verb, operation in operations(document):
        body = operation["requestBody"]["content"]["application/json"] if verb == "post" else {}
        answer = client.request(verb, path, json=body.get("example"))
        assert answer.status_code == 200, path
        declared = operation["responses"]["200"]["content"]
        assert answer.headers["content-type"].partition(";")[0] in declared
        if "application/json" in declared:
            check(document, declared["application/json"]["schema"], answer.json())
            tried += 1
        if body:
            check(document, body["schema"], body["example"])
    assert tried == 6


@pytest.mark.parametrize("dataset", DATASETS.values(), ids=lambda dataset: dataset.name)
def test_every_field_has_description_unit_range_and_example(document: dict[str, Any], dataset: Dataset) -> None:
    schema = document["components"]["schemas"][dataset.row.__name__]
    assert schema["additionalProperties"] is False
    assert set(schema["required"]) == set(dataset.feature_names)
    for feature in dataset.features:
        field = schema["properties"][feature.name]
        assert (field["minimum"], field["maximum"], field["unit"]) == (feature.minimum, feature.maximum, feature.unit)
        assert feature.unit in field["description"]
        assert field["examples"] == [feature.example]


def test_every_error_is_described_with_an_example(client: httpx.Client, document: dict[str, Any]) -> None:
    for path, verb, operation in operations(document):
        if verb != "post":
            continue
        assert {"400", "413", "415", "429", "503", "504"} <= set(operation["responses"])
        for status, response in operation["responses"].items():
            if status != "200":
                content = response["content"]["application/json"]
                check(document, content["schema"], content["example"])
        refused = client.post(path, json={"surprise": True})
        check(document, operation["responses"]["400"]["content"]["application/json"]["schema"], refused.json())


def test_names_of_the_framework_do_not_leak(document: dict[str, Any]) -> None:
    assert not [name for name in document["components"]["schemas"] if "IODescriptor" in name]
