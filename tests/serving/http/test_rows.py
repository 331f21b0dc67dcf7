"""The rows of a batch are taken in columns where pydantic would take them, and refused as it would, but sooner."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from pydantic_core import from_json

from contract.datasets.housing import HOUSING
from contract.datasets.iris import IRIS
from contract.errors import InvalidInput
from serving.http.body import most_tokens, parse_json
from serving.http.rows import SLICE_ROWS, batch_rows, finished

values = st.one_of(
    st.floats(0.1, 8),
    st.integers(-2, 20),
    st.floats(),
    st.integers(),
    st.booleans(),
    st.none(),
    st.text(max_size=3),
    st.lists(st.integers(), max_size=2),
)
rows = st.one_of(
    st.fixed_dictionaries(dict.fromkeys(IRIS.feature_names, st.floats(1, 8))),
    st.dictionaries(st.sampled_from([*IRIS.feature_names, "x"]), values),
    values,
)
bodies = st.one_of(
    st.fixed_dictionaries({"rows": st.lists(rows, max_size=4)}),
    st.dictionaries(st.sampled_from(["rows", "x"]), st.lists(rows, max_size=2)),
    values,
)


@given(bodies)
def test_columns_take_what_pydantic_takes(body: Any) -> None:
    text = json.dumps(body)
    try:
        expected = IRIS.matrix(IRIS.rows.model_validate_json(text).rows).tolist()
    except ValidationError:
        expected = None
    try:
        found = finished(batch_rows(IRIS, from_json(text))).tolist()
    except InvalidInput:
        found = None
    assert found == expected


@pytest.mark.parametrize("index", [0, SLICE_ROWS - 1, SLICE_ROWS, 2 * SLICE_ROWS + 5])
def test_a_bad_row_is_found_in_any_slice(index: int) -> None:
    body: dict[str, Any] = {"rows": [dict(HOUSING.example) for _ in range(3 * SLICE_ROWS)]}
    body["rows"][index]["MedInc"] = -1
    with pytest.raises(InvalidInput) as raised:
        finished(batch_rows(HOUSING, body))
    assert [one.loc for one in raised.value.detail] == [("rows", index, "MedInc")]


def test_a_large_batch_is_checked_in_slices() -> None:
    body = {"rows": [HOUSING.example] * (3 * SLICE_ROWS)}
    assert sum(1 for _ in batch_rows(HOUSING, body)) == 2


def test_the_reasons_end_at_a_hundred() -> None:
    with pytest.raises(InvalidInput, match=r"\(and 103 more; 9987 of 10000 rows were not checked\)$") as raised:
        finished(batch_rows(HOUSING, {"rows": [{}] * 10_000}))
    assert len(raised.value.detail) == 100


def test_unknown_fields_are_counted() -> None:
    row = {**HOUSING.example, **{f"x{number}": 1 for number in range(50_000)}}
    with pytest.raises(InvalidInput) as raised:
        finished(batch_rows(HOUSING, {"rows": [row]}))
    assert [one.msg for one in raised.value.detail] == [
        "rows[0].x0: unknown field",
        "rows[0].x1: unknown field",
        "rows[0].x2: unknown field",
        "rows[0]: 49997 more unknown fields",
    ]


@pytest.mark.parametrize(
    "text",
    [
        b'{"rows":[{' + b",".join(b'"%x":1' % number for number in range(426_000)) + b"}]}",
        b"[" + b",".join([b"[]"] * 1_000_000) + b"]",
        b"[" + b",".join([b"{}"] * 1_000_000) + b"]",
        b"[" * 4_000_000,
    ],
    ids=["unknown fields", "lists", "objects", "nested"],
)
def test_more_values_than_any_batch_has_are_not_parsed(text: bytes) -> None:
    with pytest.raises(InvalidInput, match="too many values or fields"):
        parse_json(text, most_tokens(len(HOUSING.features)))


def test_the_largest_batch_is_parsed() -> None:
    text = json.dumps({"rows": [HOUSING.example] * 10_000}).encode()
    assert len(parse_json(text, most_tokens(len(HOUSING.features)))["rows"]) == 10_000
