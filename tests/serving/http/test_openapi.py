import copy
import json
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from contract import DATASETS
from contract.dataset import Dataset
from serving.protocol.documents import EXAMPLE, PROTOCOL_ROUTES
from tests.serving.http.conftest import Recorded
from tests.serving.worker import LocalWorker

JOB = "/retrain/status/{id}"
WITHOUT_JSON = ("/livez", "/healthz", "/readyz", "/schema.json", "/logs", "/metrics", "/metrics/prometheus")
"""Routes whose answers are text or pages, or BentoML's own."""


@pytest.fixture(scope="module")
def document(client: httpx.Client) -> dict[str, Any]:
    content: dict[str, Any] = client.get("/docs.json").raise_for_status().json()
    return content


def operations(document: dict[str, Any], *, admin: bool = False) -> list[tuple[str, str, dict[str, Any]]]:
    """All but those for admins, which ``test_reload.py`` and ``test_retrain.py`` ask; or those."""
    found = [(path, verb, operation) for path, item in document["paths"].items() for verb, operation in item.items()]
    return [one for one in found if ("admin" in one[2]["tags"]) == admin]


@pytest.fixture(scope="module")
def model(client: httpx.Client) -> dict[str, str]:
    """What stands for the parameters of a path: the model of the examples."""
    name = EXAMPLE.name
    (version,) = client.get(f"/v2/models/{name}").raise_for_status().json()["versions"]
    return {"model_name": name, "model_version": version}


def check(document: dict[str, Any], schema: dict[str, Any], content: object) -> None:
    """Content against a schema of the document, which refers to the document's components."""
    whole = {**copy.deepcopy(schema), "components": document["components"]}
    Draft202012Validator(whole).validate(content)


def shown(content: dict[str, Any]) -> Any:
    """The example of a body; where there is one for each model, that of the first."""
    return content["example"] if "example" in content else content["examples"][EXAMPLE.name]["value"]


def test_the_document_is_valid_openapi(document: dict[str, Any]) -> None:
    validate(document)
    assert document["openapi"] == "3.1.0"


def test_every_route_is_there(document: dict[str, Any]) -> None:
    predictions = {f"/predict/{name}{end}" for name in DATASETS for end in ("", "/batch")}
    probes = {"/livez", "/healthz", "/readyz", "/health"}
    ledger = {"/drift/detect", "/feedback", "/logs", "/logs/recent", "/logs/stats"}
    ledger |= {"/retrain/jobs", JOB}
    operational = {"/models/info", "/schema.json", "/metrics", "/metrics/prometheus"}
    admin = {"/models/reload", "/models/rollback", "/retrain", "/retrain/alert"}
    assert set(document["paths"]) == predictions | probes | ledger | operational | admin | set(PROTOCOL_ROUTES)


def test_every_route_of_the_protocol_is_served(
    client: httpx.Client, document: dict[str, Any], model: dict[str, str]
) -> None:
    for path in PROTOCOL_ROUTES:
        (verb,) = document["paths"][path]
        other = {"get": "POST", "post": "GET"}[verb]
        refused = client.request(other, path.format(**model))
        assert (refused.status_code, refused.headers["allow"]) == (405, verb.upper())


def test_the_examples_work_and_the_answers_hold_their_schema(
    client: httpx.Client, document: dict[str, Any], model: dict[str, str], recorded: Recorded
) -> None:
    tried = 0
    for path, verb, operation in operations(document):
        if path == JOB:
            continue
        body = operation["requestBody"]["content"]["application/json"] if verb == "post" else {}
        asked = recorded.client if "ledger" in operation["tags"] else client
        answer = asked.request(verb, path.format(**model), json=shown(body) if body else None)
        assert answer.status_code == 200, path
        declared = operation["responses"]["200"]["content"]
        assert answer.headers["content-type"].partition(";")[0] in declared
        if "application/json" in declared:
            schema = declared["application/json"]["schema"]
            check(document, schema, answer.json())
            component = document["components"]["schemas"].get(schema.get("$ref", "").rpartition("/")[2], {})
            if "properties" in component:
                assert set(answer.json()) <= set(component["properties"]), path
            tried += 1
        if body:
            check(document, body["schema"], shown(body))
    assert tried == 8 + 2 * len(DATASETS) + len(PROTOCOL_ROUTES)


def test_an_answer_is_shown_for_each_route_and_holds_its_schema(document: dict[str, Any]) -> None:
    found = 0
    for path, item in document["paths"].items():
        for operation in item.values():
            status = "202" if "202" in operation["responses"] else "200"
            content = operation["responses"][status]["content"].get("application/json")
            if content is None or path == "/schema.json":
                continue
            check(document, content["schema"], shown(content))
            found += 1
    assert found == len(document["paths"]) - len(WITHOUT_JSON)


def test_the_answers_that_are_shown_are_those_of_the_models(client: httpx.Client, document: dict[str, Any]) -> None:
    for path in (f"/predict/{name}{end}" for name in DATASETS for end in ("", "/batch")):
        operation = document["paths"][path]["post"]
        given = client.post(path, json=shown(operation["requestBody"]["content"]["application/json"])).json()
        told = shown(operation["responses"]["200"]["content"]["application/json"])
        assert {**told, "prediction_id": given["prediction_id"]} == given
    for path in (one for one in PROTOCOL_ROUTES if "{model_version}" in one):
        ((verb, operation),) = document["paths"][path].items()
        for name in DATASETS:
            bodies = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("examples")
            (version,) = client.get(f"/v2/models/{name}").json()["versions"]
            address = path.format(model_name=name, model_version=version)
            given = client.request(verb, address, json=bodies[name]["value"] if bodies else None).json()
            told = operation["responses"]["200"]["content"]["application/json"]["examples"][name]["value"]
            if "parameters" in told:
                told = {**told, "parameters": given["parameters"]}
            assert told == given


def test_what_is_served_is_filled_in(document: dict[str, Any], model: dict[str, str]) -> None:
    for path in (one for one in PROTOCOL_ROUTES if "{model_name}" in one):
        (operation,) = document["paths"][path].values()
        by_name = {one["name"]: one for one in operation["parameters"]}
        assert by_name["model_name"]["schema"]["enum"] == list(DATASETS)
        assert by_name["model_name"]["example"] == EXAMPLE.name
        if "model_version" in by_name:
            version = by_name["model_version"]
            assert version["example"] == version["x-versions"][EXAMPLE.name] == model["model_version"]


def test_the_document_has_the_usual_name_too(client: httpx.Client) -> None:
    # `/health` has an uptime, so each worker has a document of its own: ask one of them.
    assert client.get("/openapi.json").json()["paths"].keys() == client.get("/docs.json").json()["paths"].keys()


@pytest.mark.parametrize("dataset", DATASETS.values(), ids=lambda dataset: dataset.name)
def test_every_field_has_description_unit_range_and_example(document: dict[str, Any], dataset: Dataset) -> None:
    schema = document["components"]["schemas"][dataset.row.__name__]
    assert schema["additionalProperties"] is False
    assert set(schema.get("required", [])) == {each.name for each in dataset.features if not each.optional}
    for feature in dataset.features:
        field = schema["properties"][feature.name]
        assert field["description"]
        assert field["examples"] == [feature.example]
        if feature.numeric:
            (number,) = [each for each in field.get("anyOf", [field]) if each.get("type") != "null"]
            assert (number["minimum"], number["maximum"]) == (feature.minimum, feature.maximum)
            assert field["unit"] == feature.unit
            assert feature.unit in field["description"]


def test_every_error_is_described_with_an_example(
    client: httpx.Client, document: dict[str, Any], model: dict[str, str], recorded: Recorded
) -> None:
    for path, verb, operation in operations(document):
        if verb != "post":
            continue
        expected = {"400", "413", "415"} | (set() if path.endswith("/index") else {"503", "504"})
        if path not in ("/feedback", "/v2/repository/index"):
            expected |= {"429"}
        assert expected <= set(operation["responses"])
        for status, response in operation["responses"].items():
            if status != "200":
                content = response["content"]["application/json"]
                check(document, content["schema"], content["example"])
        asked = recorded.client if "ledger" in operation["tags"] else client
        refused = asked.post(path.format(**model), json={"surprise": True, "ready": "surely"})
        assert refused.status_code == 400
        check(document, operation["responses"]["400"]["content"]["application/json"]["schema"], refused.json())


def test_admin_routes_always_ask_for_a_key(document: dict[str, Any]) -> None:
    for _, _, operation in operations(document, admin=True):
        assert operation["security"] == [{"key": []}]
        for status, response in operation["responses"].items():
            if status not in ("200", "202"):
                content = response["content"]["application/json"]
                check(document, content["schema"], content["example"])


def test_an_answer_of_raw_bytes_holds_the_schema_before_them(
    client: httpx.Client, document: dict[str, Any], model: dict[str, str]
) -> None:
    operation = document["paths"]["/v2/models/{model_name}/infer"]["post"]
    example = shown(operation["requestBody"]["content"]["application/json"])
    asked = example | {"id": "call-7", "parameters": {"binary_data_output": True}}
    answer = client.post(f"/v2/models/{model['model_name']}/infer", json=asked)
    assert answer.headers["content-type"] in operation["responses"]["200"]["content"]
    length = int(answer.headers[operation["parameters"][-1]["name"]])
    content = json.loads(answer.content[:length])
    check(document, operation["responses"]["200"]["content"]["application/json"]["schema"], content)
    assert content["id"] == "call-7"
    sizes = [output["parameters"]["binary_data_size"] for output in content["outputs"]]
    assert len(answer.content) == length + sum(sizes)


def test_every_parameter_of_a_query_is_described(recorded: Recorded, document: dict[str, Any]) -> None:
    asked = 0
    for path, verb, operation in operations(document):
        for parameter in operation.get("parameters", []):
            if parameter["in"] != "query":
                continue
            assert parameter["description"]
            shape = parameter["schema"]
            value = shape.get("default", shape.get("examples", ["0" * 32])[0])
            answer = recorded.client.request(verb, path, params={parameter["name"]: value})
            # That it needs another one, or does not hold, is told by its name.
            assert answer.status_code == 200 or parameter["name"] in answer.text
            assert "unknown field" not in answer.text
            asked += 1
    assert asked > 20


def test_names_of_the_framework_do_not_leak(document: dict[str, Any]) -> None:
    assert not [name for name in document["components"]["schemas"] if "IODescriptor" in name]


def test_the_page_can_ask_for_a_key(document: dict[str, Any]) -> None:
    (name,) = document["components"]["securitySchemes"]
    assert document["components"]["securitySchemes"][name].items() >= {"type": "http", "scheme": "bearer"}.items()
    # With a key or, where the service has none, without.
    assert document["security"] == [{name: []}, {}]


def test_a_route_is_public_or_says_how_it_refuses(locked: LocalWorker) -> None:
    with httpx.Client(base_url=locked.url) as client:
        for path, verb, operation in operations(locked.document):
            answer = client.request(verb, path.format(model_name="iris", model_version="1", id="1"))
            if operation.get("security") == []:
                assert answer.status_code != 401
                continue
            assert answer.status_code == 401, path
            declared = operation["responses"]["401"]
            assert set(declared["headers"]) == {"WWW-Authenticate"}
            for status in ("401", "403"):
                content = operation["responses"][status]["content"]["application/json"]
                check(locked.document, content["schema"], content["example"])
            check(locked.document, declared["content"]["application/json"]["schema"], answer.json())
