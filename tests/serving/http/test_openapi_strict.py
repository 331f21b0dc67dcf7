"""What the OpenAPI document takes, the server takes, and the other way round."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contract.datasets.iris import IRIS
from tests.serving.worker import LocalWorker

numbers = st.one_of(st.floats(0, 9), st.integers(0, 9), st.floats(allow_nan=False, allow_infinity=False), st.integers())
values = st.one_of(numbers, st.none(), st.booleans(), st.text(max_size=3), st.lists(numbers, max_size=2))


@st.composite
def rows(draw: st.DrawFn) -> Any:
    """A row, good half of the time."""
    row: dict[str, Any] = dict(IRIS.example)
    if draw(st.booleans()):
        row[draw(st.sampled_from([*IRIS.feature_names, "x"]))] = draw(values)
        for name in draw(st.lists(st.sampled_from(IRIS.feature_names), max_size=1)):
            row.pop(name, None)
    return row


def changed(body: dict[str, Any], others: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """A body with one field less, more or different, or as it is."""
    return st.one_of(
        st.just(body),
        st.sampled_from([*body]).map(lambda name: {key: one for key, one in body.items() if key != name}),
        st.tuples(st.sampled_from([*body, "x"]), others).map(lambda one: {**body, one[0]: one[1]}),
        others,
    )


@pytest.fixture(scope="module")
def connection(worker: LocalWorker) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=worker.url) as client:
        yield client


BODIES = {
    "/predict/iris": st.one_of(rows(), values),
    "/predict/iris/batch": st.one_of(
        changed({"rows": [IRIS.example]}, values), st.fixed_dictionaries({"rows": st.lists(rows(), max_size=3)})
    ),
    "/drift/detect": changed(
        {"model": "iris", "rows": [IRIS.example]}, st.one_of(values, st.lists(rows(), max_size=2))
    ),
}


@pytest.mark.parametrize("path", BODIES)
def test_the_schema_is_as_strict_as_the_server(worker: LocalWorker, connection: httpx.Client, path: str) -> None:
    document = worker.document
    content = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    validator = jsonschema.Draft202012Validator({**content["schema"], "components": document["components"]})

    @settings(max_examples=150, deadline=None, database=None, suppress_health_check=[*HealthCheck])
    @given(BODIES[path])
    def agree(body: Any) -> None:
        answer = connection.post(path, content=json.dumps(body), headers={"Content-Type": "application/json"})
        # Without a ledger, a window of predictions on record is 404: the body was taken.
        assert answer.status_code in {200, 400, 404}
        assert validator.is_valid(body) == (answer.status_code != 400), answer.text

    agree()


def tensor(**more: Any) -> dict[str, Any]:
    return {"name": "x", "datatype": "FP64", "shape": [1, 4], "data": [5.1, 3.5, 1.4, 0.2], **more}


INFER = "/v2/models/{model_name}/infer"
tensors = changed(
    tensor(),
    st.one_of(values, st.lists(st.integers(-1, 4), max_size=3), st.sampled_from(["FP32", "BYTES", "INT64", "BOOL"])),
)
requests = st.one_of(
    st.fixed_dictionaries({"inputs": st.lists(tensors, max_size=2)}),
    changed({"inputs": [tensor()], "id": "1", "outputs": [{"name": "label"}], "parameters": {}}, values),
)


def test_the_protocols_schema_takes_all_that_the_server_takes(worker: LocalWorker, connection: httpx.Client) -> None:
    # Whether the data fit the shape, and what a model has, is more than a schema can say.
    document = worker.document
    schema = document["paths"][INFER]["post"]["requestBody"]["content"]["application/json"]["schema"]
    validator = jsonschema.Draft202012Validator({**schema, "components": document["components"]})

    @settings(max_examples=300, deadline=None, database=None, suppress_health_check=[*HealthCheck])
    @given(requests)
    def agree(body: Any) -> None:
        answer = connection.post("/v2/models/iris/infer", content=json.dumps(body))
        assert answer.status_code in {200, 400}
        if answer.status_code == 200:
            assert validator.is_valid(body), [error.message for error in validator.iter_errors(body)]

    agree()
