"""Every kind over every protocol: the same rows give the same answers, and what is refused names the field."""

import copy
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from open_inference.grpc import protocol as pb
from open_inference.grpc.service import GRPCInferenceServiceStub
from openapi_spec_validator import validate

from contract.dataset import Dataset, Task
from contract.feature import Feature, Kind, Refusal
from contract.table import FloatMatrix
from serving.models import LoadedModel
from serving.protocol.codec import input_specs
from tests.contract.test_kinds import ANY, VALUES
from tests.kinds import models
from tests.kinds.datasets import KINDS, PARCEL, VOYAGE
from tests.serving.worker import LocalWorker

EVERY = pytest.mark.parametrize("dataset", KINDS.values(), ids=lambda dataset: dataset.name)
Rows = list[dict[str, Any]]
NUMPY = {"FP64": "<f8", "INT64": "<i8", "BOOL": "?"}
CONTENTS = {"FP64": "fp64_contents", "INT64": "int64_contents", "BOOL": "bool_contents", "BYTES": "bytes_contents"}


def outputs(dataset: Dataset, document: dict[str, Any]) -> FloatMatrix:
    """The outputs ``[N, K]`` of an answer in flat JSON."""
    answers = document.get("predictions", [document])
    if dataset.task is Task.REGRESSION:
        return np.array([[one["prediction"]] for one in answers])
    return np.array([list(one["probabilities"].values()) for one in answers])


def one_by_one(worker: LocalWorker, dataset: Dataset, rows: Rows) -> FloatMatrix:
    answers = [httpx.post(f"{worker.url}/predict/{dataset.name}", json=row).raise_for_status() for row in rows]
    return np.concatenate([outputs(dataset, answer.json()) for answer in answers])


def batch(worker: LocalWorker, dataset: Dataset, rows: Rows) -> FloatMatrix:
    answer = httpx.post(f"{worker.url}/predict/{dataset.name}/batch", json={"rows": rows})
    return outputs(dataset, answer.raise_for_status().json())


def in_bytes(feature: Feature, value: Any) -> bytes:
    return b"" if value is None else feature.show(float(value)).encode() if isinstance(value, bool) else value.encode()


def tensors(dataset: Dataset, rows: Rows) -> list[dict[str, Any]]:
    """One tensor a feature, in the datatype of the metadata, with Python's values."""
    specs = (
        [(feature.name, "FP64") for feature in dataset.features]
        if dataset.all_numeric
        else [(spec.name, spec.datatype) for spec in input_specs(dataset)]
    )
    found = []
    for (name, datatype), feature in zip(specs, dataset.features, strict=True):
        data = [row[name] for row in rows]
        if datatype == "BYTES":
            data = [in_bytes(feature, value) for value in data]
        elif datatype == "FP64":
            data = [float("nan") if value is None else float(value) for value in data]
        found.append({"name": name, "datatype": datatype, "shape": [len(rows), 1], "data": data})
    return found


def in_json(document: dict[str, Any], missing: Any) -> dict[str, Any]:
    data = [each.decode() if isinstance(each, bytes) else each for each in document["data"]]
    return {**document, "data": [missing if each == "" or each != each else each for each in data]}


def v2_outputs(dataset: Dataset, answer: httpx.Response) -> FloatMatrix:
    found = {one["name"]: one for one in answer.raise_for_status().json()["outputs"]}
    one = found["predict" if dataset.task is Task.REGRESSION else "probabilities"]
    return np.array(one["data"]).reshape(one["shape"])


def v2_json(worker: LocalWorker, dataset: Dataset, rows: Rows) -> FloatMatrix:
    body = {"inputs": [in_json(each, None) for each in tensors(dataset, rows)]}
    return v2_outputs(dataset, httpx.post(f"{worker.url}/v2/models/{dataset.name}/infer", json=body))


def mlserver_pandas(worker: LocalWorker, dataset: Dataset, rows: Rows) -> FloatMatrix:
    """What MLServer 1.7's pandas codec writes: a content type, numbers with null, and "" where text is missing."""
    columns = [in_json(each, "" if each["datatype"] == "BYTES" else None) for each in tensors(dataset, rows)]
    for each in columns:
        if each["datatype"] == "BYTES":
            each["parameters"] = {"content_type": "str"}
    body = {"parameters": {"content_type": "pd"}, "inputs": columns}
    return v2_outputs(dataset, httpx.post(f"{worker.url}/v2/models/{dataset.name}/infer", json=body))


def raw(document: dict[str, Any]) -> bytes:
    if document["datatype"] != "BYTES":
        return np.array(document["data"]).astype(NUMPY[document["datatype"]]).tobytes()
    return b"".join(len(each).to_bytes(4, "little") + each for each in document["data"])


def v2_raw(worker: LocalWorker, dataset: Dataset, rows: Rows) -> FloatMatrix:
    sent = tensors(dataset, rows)
    contents = [raw(each) for each in sent]
    inputs = [
        {key: each[key] for key in ("name", "datatype", "shape")} | {"parameters": {"binary_data_size": len(content)}}
        for each, content in zip(sent, contents, strict=True)
    ]
    head = json.dumps({"inputs": inputs}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}
    url = f"{worker.url}/v2/models/{dataset.name}/infer"
    return v2_outputs(dataset, httpx.post(url, content=b"".join([head, *contents]), headers=headers))


def over_grpc(worker: LocalWorker, dataset: Dataset, rows: Rows, *, as_raw: bool) -> FloatMatrix:
    request = pb.ModelInferRequest(model_name=dataset.name)
    for each in tensors(dataset, rows):
        written = request.inputs.add(name=each["name"], datatype=each["datatype"], shape=each["shape"])
        if as_raw:
            request.raw_input_contents.append(raw(each))
        else:
            getattr(written.contents, CONTENTS[each["datatype"]]).extend(each["data"])
    with grpc.insecure_channel(worker.target) as channel:
        answer = GRPCInferenceServiceStub(channel).ModelInfer(request)
    wanted = "predict" if dataset.task is Task.REGRESSION else "probabilities"
    index, shape = next((index, list(one.shape)) for index, one in enumerate(answer.outputs) if one.name == wanted)
    if as_raw:
        return np.frombuffer(answer.raw_output_contents[index], "<f8").reshape(shape)
    return np.array(answer.outputs[index].contents.fp64_contents).reshape(shape)


PROTOCOLS: dict[str, Callable[[LocalWorker, Dataset, Rows], FloatMatrix]] = {
    "flat": one_by_one,
    "batch": batch,
    "v2": v2_json,
    "pandas": mlserver_pandas,
    "raw": v2_raw,
    "grpc": partial(over_grpc, as_raw=False),
    "grpc raw": partial(over_grpc, as_raw=True),
}


@EVERY
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_same_rows_have_the_same_answers(
    worker: LocalWorker, loaded: dict[str, LoadedModel], dataset: Dataset, protocol: str
) -> None:
    rows = models.rows(dataset, 40, seed=7)
    expected = loaded[dataset.name].artifact.outputs(models.matrix(dataset, rows))
    np.testing.assert_array_equal(PROTOCOLS[protocol](worker, dataset, rows), expected)


def test_numbers_alone_are_one_tensor_too(worker: LocalWorker, loaded: dict[str, LoadedModel]) -> None:
    rows = models.rows(PARCEL, 20)
    data = [list(row.values()) for row in rows]
    body = {"inputs": [{"name": "x", "datatype": "FP64", "shape": [20, 2], "data": data}]}
    answer = httpx.post(f"{worker.url}/v2/models/parcel/infer", json=body)
    expected = loaded["parcel"].artifact.outputs(models.matrix(PARCEL, rows))
    np.testing.assert_array_equal(v2_outputs(PARCEL, answer), expected)


def test_a_dataset_with_text_is_not_one_tensor(worker: LocalWorker) -> None:
    body = {"inputs": [{"name": "input", "datatype": "FP64", "shape": [1, 14], "data": [0] * 14}]}
    answer = httpx.post(f"{worker.url}/v2/models/voyage/infer", json=body)
    assert answer.status_code == 400
    assert "voyage takes one tensor [N] or [N, 1] for each of fare, age" in answer.json()["error"]


def test_metadata_describe_each_feature(client: httpx.Client, worker: LocalWorker) -> None:
    inputs = {one["name"]: one for one in client.get("/v2/models/voyage").json()["inputs"]}
    assert {name: one["datatype"] for name, one in inputs.items()} == {
        "fare": "FP64",
        "age": "FP64",
        "siblings": "INT64",
        "cabins": "FP64",
        "insured": "BOOL",
        "returned": "BYTES",
        **dict.fromkeys(list(inputs)[6:], "BYTES"),
    }
    assert inputs["port"]["parameters"] == {
        "kind": "category",
        "optional": False,
        "categories": ["Cherbourg", "Queenstown", "Southampton"],
        "unknown": "refuse",
    }
    assert inputs["age"]["parameters"] == {"kind": "number", "optional": True, "unit": "years"}
    (whole,) = client.get("/v2/models/parcel").json()["inputs"]
    assert (whole["shape"], whole["parameters"]) == ([-1, 2], {"feature_names": ["weight", "pieces"]})
    with grpc.insecure_channel(worker.target) as channel:
        metadata = GRPCInferenceServiceStub(channel).ModelMetadata(pb.ModelMetadataRequest(name="voyage"))
    assert [(one.name, one.datatype) for one in metadata.inputs] == [
        (name, one["datatype"]) for name, one in inputs.items()
    ]


REFUSED = [
    ("siblings", 1.5, "siblings: input should be a valid integer, not 1.5"),
    ("insured", "yes", "insured: input should be a valid boolean, not 'yes'"),
    *(
        (name, None, f"{name}: the value is missing (null)")
        for name in ("siblings", "insured", "port", "born", "agency")
    ),
    ("port", "Hamburg", "port: input should be one of Cherbourg, Queenstown, Southampton, not 'Hamburg'"),
    ("port", "x" * 500, f"not '{'x' * 59}…'"),
    ("deck", True, "deck: input should be one of A, B, C, not true"),
    ("agency", "", "agency: string should have at least 1 character, not ''"),
    ("born", "1.5.1890", "born: input should be a date such as 2024-05-31, not '1.5.1890'"),
    ("born", "1800-01-01", "born: input should be greater than or equal to 1820-01-01, not '1800-01-01'"),
    ("booked", "soon", "booked: input should be a time such as 2024-05-31T12:00:00Z, not 'soon'"),
    ("Home district (1912)", 3, "Home district (1912): input should be a valid string, not 3"),
]


@pytest.mark.parametrize(("name", "value", "sentence"), REFUSED)
def test_an_error_names_the_field_and_the_value(client: httpx.Client, name: str, value: object, sentence: str) -> None:
    row = {**VOYAGE.example, name: value}
    answer = client.post("/predict/voyage", json=row)
    assert answer.status_code == 400
    assert sentence in answer.json()["error"]
    many = client.post("/predict/voyage/batch", json={"rows": [VOYAGE.example, row]})
    assert (many.status_code, many.json()["detail"][0]["loc"]) == (400, ["rows", 1, name])
    assert sentence.partition(": ")[2] in many.json()["error"]


@pytest.mark.parametrize(
    ("name", "change", "sentence"),
    [
        ("siblings", {"data": [1, 1.5], "datatype": "FP64"}, "siblings, row 1: 1.5 is not a whole number."),
        ("siblings", {"data": [None, 1]}, "siblings, row 0: the value is missing (null)."),
        ("insured", {"data": [True, 2]}, "insured, row 1: 2 is neither true nor false."),
        ("insured", {"data": [0, 2], "datatype": "INT8"}, "insured, row 1: 2.0 is no boolean."),
        ("returned", {"data": ["", "maybe"]}, "returned, row 1: 'maybe' is neither true nor false."),
        ("port", {"data": ["Cherbourg", ""]}, "port, row 1: the value is missing."),
        ("port", {"data": ["Cherbourg", "Kiel"]}, "port, row 1: 'Kiel' is not one of Cherbourg, Queenstown"),
        ("port", {"data": ["Cherbourg", 3]}, "port, row 1: 3 is not text."),
        ("port", {"data": [0, 1], "datatype": "INT64"}, "'port' is INT64; of a category it must be BYTES."),
        ("born", {"data": ["1890-02-30", "x"]}, "born, row 0: '1890-02-30' is not a date such as 2024-05-31."),
        ("booked", {"data": ["1912-02-03", "1800-01-01T10:00:00"]}, "booked, row 1:"),
        ("deck", {"shape": [3]}, "'deck' has shape [3]; a tensor of one feature is [N] or [N, 1]"),
    ],
)
def test_a_tensor_that_is_refused_names_feature_and_row(
    client: httpx.Client, name: str, change: dict[str, Any], sentence: str
) -> None:
    inputs = [in_json(each, None) for each in tensors(VOYAGE, [VOYAGE.example] * 2)]
    inputs = [{**each, **change} if each["name"] == name else each for each in inputs]
    answer = client.post("/v2/models/voyage/infer", json={"inputs": inputs})
    assert answer.status_code == 400
    assert sentence in answer.json()["error"]


def test_raw_bytes_that_do_not_fit_are_refused(client: httpx.Client) -> None:
    inputs = tensors(VOYAGE, [VOYAGE.example])
    contents = [raw(each) for each in inputs]
    for broken in (b"\x09\0\0\0ab", b"\x02\0", b"\x01\0\0\0a\x01\0\0\0b", b"\x01\0\0\0\xff"):
        sent = [broken if each["name"] == "port" else content for each, content in zip(inputs, contents, strict=True)]
        head = json.dumps(
            {
                "inputs": [
                    {**{key: each[key] for key in ("name", "datatype", "shape")}, "parameters": {"binary_data_size": n}}
                    for each, n in zip(inputs, map(len, sent), strict=True)
                ]
            }
        ).encode()
        headers = {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}
        answer = client.post("/v2/models/voyage/infer", content=b"".join([head, *sent]), headers=headers)
        assert answer.status_code == 400
        assert "port" in answer.json()["error"]


def test_the_document_describes_kinds(client: httpx.Client) -> None:
    # As it is served: with what the models answer.
    document = client.get("/openapi.json").json()
    validate(document)
    for name in KINDS:
        for path in (f"/predict/{name}", f"/predict/{name}/batch"):
            content = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
            whole = {**copy.deepcopy(content["schema"]), "components": document["components"]}
            Draft202012Validator(whole).validate(content["example"])
            assert client.post(path, json=content["example"]).status_code == 200
    fields = document["components"]["schemas"]["VoyageRow"]["properties"]
    assert fields["port"]["enum"] == ["Cherbourg", "Queenstown", "Southampton"]
    assert fields["Home district (1912)"]["examples"] == ["district 7"]


@pytest.mark.parametrize("kind", Kind)
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_what_the_contract_accepts_is_predicted_and_what_it_refuses_is_named(
    client: httpx.Client, loaded: dict[str, LoadedModel], kind: Kind, data: st.DataObject
) -> None:
    features = [each for each in VOYAGE.features if each.kind is kind]
    values = data.draw(st.lists(VALUES[kind] | ANY, min_size=40, max_size=40))
    rows = [{**VOYAGE.example, each.name: value} for each, value in zip(features * 20, values, strict=False)]
    bad = []
    for index, (each, value) in enumerate(zip(features * 20, values, strict=False)):
        try:
            each.encode(value)
        except Refusal:
            bad.append(["rows", index, each.name])
    answer = client.post("/predict/voyage/batch", json={"rows": rows})
    assert [one["loc"] for one in answer.json().get("detail", [])] == bad
    good = [row for index, row in enumerate(rows) if ["rows", index] not in [loc[:2] for loc in bad]]
    if good:
        answer = client.post("/predict/voyage/batch", json={"rows": good}).raise_for_status()
        expected = loaded["voyage"].artifact.outputs(models.matrix(VOYAGE, good))
        np.testing.assert_array_equal(outputs(VOYAGE, answer.json()), expected)


def test_models_info_tells_kinds_and_ranges_for_people(client: httpx.Client) -> None:
    features = {one["name"]: one for one in client.get("/models/info").json()["models"]["voyage"]["features"]}
    assert (features["born"]["minimum"], features["born"]["kind"]) == ("1820-01-01", "date")
    assert len(features["born"]["deciles"][0]) == len("1820-01-01")
    assert (features["deck"]["categories"], features["deck"]["optional"]) == (["A", "B", "C"], True)
    assert "kind" not in features["fare"]
