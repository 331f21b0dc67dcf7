import json
import math
import pickle
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, FormatChecker
from pydantic import ValidationError

from contract import DATASETS, buckets
from contract.dataset import Dataset, Target
from contract.errors import DataError, Reason
from contract.feature import Feature, Kind, Refusal, Unknown
from contract.row import Row, category, feature
from contract.table import check_features, check_matrix, check_table, good_rows, refused
from contract.violation import Rule
from tests.kinds.datasets import KINDS, PARCEL, VOYAGE

FEATURES = {feature.name: feature for feature in VOYAGE.features}
EVERY = pytest.mark.parametrize("name", FEATURES)
ENCODED = [7.25, 22.5, 1, 2, 1, 0, 2, 1, 0, 7, -29161, -22587, -21154.604166666668, -21154]


def with_value(name: str, value: object) -> str:
    return json.dumps({**VOYAGE.example, name: value})


def refusal_of(body: str) -> list[tuple[Any, str]]:
    try:
        VOYAGE.row.model_validate_json(body)
    except ValidationError as error:
        return [(problem["loc"], problem["type"]) for problem in error.errors()]
    return []


def test_datasets_of_numbers_keep_their_contract_version() -> None:
    # Models in use were trained under these.
    assert {name: DATASETS[name].contract_version for name in ("housing", "iris")} == {
        "housing": "c382722b0cfd",
        "iris": "674eed8f7292",
    }


def test_a_row_is_encoded_and_decoded() -> None:
    row = VOYAGE.row.model_validate_json(json.dumps(VOYAGE.example))
    matrix = VOYAGE.matrix([row, row])
    assert matrix.tolist() == [ENCODED] * 2
    assert VOYAGE.decode(matrix[0].tolist()) == VOYAGE.example
    assert VOYAGE.encode(VOYAGE.example) == ENCODED
    assert (getattr(row, "port"), getattr(row, "born")) == ("Southampton", date(1890, 2, 28))  # noqa: B009


def test_a_dataset_that_was_used_can_be_sent_to_another_process() -> None:
    row = VOYAGE.row.model_validate_json(json.dumps(VOYAGE.example))
    VOYAGE.matrix([row])
    again = pickle.loads(pickle.dumps(VOYAGE))  # noqa: S301 - ours
    assert again == VOYAGE
    assert again.matrix([row]).tolist() == [ENCODED]


def test_a_missing_value_is_null_or_left_out() -> None:
    given = {name: value for name, value in VOYAGE.example.items() if not FEATURES[name].optional}
    null = {name: None for name in VOYAGE.example if name not in given}
    matrix = VOYAGE.matrix([VOYAGE.row.model_validate_json(json.dumps(body)) for body in (given, given | null)])
    missing = [name for name, value in zip(VOYAGE.feature_names, matrix[0], strict=True) if np.isnan(value)]
    assert missing == list(null)
    assert np.array_equal(matrix[0], matrix[1], equal_nan=True)
    assert good_rows(VOYAGE, matrix).all()
    assert VOYAGE.decode(matrix[0].tolist()) == {**VOYAGE.example, **null}


@EVERY
def test_a_required_feature_is_not_missing(name: str) -> None:
    wrong = [] if FEATURES[name].optional else [((name,),)]
    body = {key: value for key, value in VOYAGE.example.items() if key != name}
    assert [problem[:1] for problem in refusal_of(json.dumps(body))] == wrong
    assert [problem[:1] for problem in refusal_of(with_value(name, None))] == wrong


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("age", "22", "float_type"),
        ("age", 121, "less_than_equal"),
        ("siblings", 1.5, "int_type"),
        ("siblings", True, "int_type"),
        ("siblings", "1", "int_type"),
        ("siblings", 21, "less_than_equal"),
        ("siblings", 1e300, "int_type"),
        ("insured", 1, "bool_type"),
        ("insured", "true", "bool_type"),
        ("port", "Hamburg", "unknown_category"),
        ("port", "", "unknown_category"),
        ("port", 2, "unknown_category"),
        ("agency", "", "string_too_short"),
        ("agency", 0, "string_type"),
        ("Home district (1912)", ["x"], "string_type"),
        ("born", "1890-02-30", "not_a_time"),
        ("born", "18900228", "not_a_time"),
        ("born", "-2522707200", "not_a_time"),
        ("born", 19, "not_a_time"),
        ("born", "1819-12-31", "greater_than_equal"),
        ("booked", "1912-01-31 25:00", "not_a_time"),
        ("booked", "0001-01-01T00:00:00+23:59", "greater_than_equal"),
        ("booked", "1912-04-10T12:00:01Z", "less_than_equal"),
    ],
)
def test_a_value_that_is_refused_is_named(name: str, value: object, kind: str) -> None:
    assert refusal_of(with_value(name, value)) == [((name,), kind)]
    with pytest.raises(Refusal):
        FEATURES[name].encode(value)


@pytest.mark.parametrize(
    ("name", "value", "number"),
    [
        ("siblings", 3.0, 3),
        ("agency", "Thomas", 2),
        ("Home district (1912)", "abroad", 60),
        ("booked", "1912-01-31T09:30:00+01:00", -21154.645833333332),
        ("booked", "1912-01-31t09:30:00.000z", ENCODED[12]),
        ("booked", "1912-01-31 09:30", ENCODED[12]),
        ("booked", "1912-01-31", -21155),
    ],
)
def test_other_ways_to_write_a_value(name: str, value: object, number: float) -> None:
    row = VOYAGE.row.model_validate_json(with_value(name, value))
    assert VOYAGE.matrix([row])[0, VOYAGE.feature_names.index(name)] == number
    assert FEATURES[name].encode(value) == number


def test_an_error_does_not_list_a_large_vocabulary() -> None:
    class Long(Row):
        word: str = category(*(f"word {number}" for number in range(5000)), description="Word.", example="word 1")

    with pytest.raises(ValidationError, match="word 9 and 4990 more") as error:
        Long.model_validate({"word": "none"})
    assert len(str(error.value)) < 500


def test_the_schema_has_enums_formats_and_examples() -> None:
    schema = VOYAGE.row.model_json_schema()
    fields = schema["properties"]
    assert schema["required"] == [feature.name for feature in VOYAGE.features if not feature.optional]
    assert fields["port"]["enum"] == ["Cherbourg", "Queenstown", "Southampton"]
    assert fields["deck"]["anyOf"] == [{"enum": ["A", "B", "C"], "type": "string"}, {"type": "null"}]
    assert {key: fields["agency"][key] for key in ("type", "minLength")} == {"type": "string", "minLength": 1}
    assert (fields["born"]["format"], fields["booked"]["format"]) == ("date", "date-time")
    assert (fields["born"]["formatMinimum"], fields["born"]["formatMaximum"]) == ("1820-01-01", "1912-04-10")
    assert fields["siblings"]["type"] == "integer"
    for each in VOYAGE.features:
        assert fields[each.name]["examples"] == [each.example]
    assert schema == VOYAGE.row.model_json_schema(mode="serialization")


def times(first: int, last: int) -> st.SearchStrategy[datetime]:
    return st.datetimes(datetime(first, 1, 1), datetime(last, 1, 1))  # noqa: DTZ001 - as hypothesis wants them


VALUES = {
    "number": st.floats(-10, 700) | st.integers(-(10**25), 10**25),
    "integer": st.integers(-5, 30) | st.floats(-5, 30).map(lambda value: round(value, 1)),
    "boolean": st.booleans() | st.sampled_from(["true", 0, 1]),
    "category": st.text(max_size=3) | st.sampled_from(["Cherbourg", "A", "C", "Cook", "district 9", "Z"]),
    "date": st.dates().map(date.isoformat) | st.dates(date(1810, 1, 1), date(1920, 1, 1)).map(date.isoformat),
    "datetime": (st.datetimes() | times(1910, 1914)).map(lambda value: value.replace(tzinfo=UTC).isoformat()),
}
ANY = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
SCHEMA = VOYAGE.row.model_json_schema()["properties"]


@pytest.mark.parametrize("kind", Kind)
@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_row_feature_table_and_schema_judge_alike(kind: Kind, data: st.DataObject) -> None:
    features = [each for each in VOYAGE.features if each.kind is kind]
    # 2,000 values together: to draw is slow, and to draw a list is hardly slower.
    values = data.draw(st.lists(VALUES[kind] | ANY, min_size=40, max_size=40))
    for each, value in zip(features * 20, values, strict=False):
        name = each.name
        schema = Draft202012Validator(SCHEMA[name], format_checker=FormatChecker(["date", "date-time"]))
        body, valid = with_value(name, value), schema.is_valid(value)
        problems = refusal_of(body)
        if problems:
            assert [loc for loc, _ in problems] == [(name,)]
            with pytest.raises(Refusal):
                each.encode(value)
            # What a schema cannot say: the range of a time.
            assert not valid or each.kind in (Kind.DATE, Kind.DATETIME)
            continue
        number = each.encode(value)
        matrix = VOYAGE.matrix([VOYAGE.row.model_validate_json(body)])
        assert np.array_equal(matrix[0, VOYAGE.feature_names.index(name)], number, equal_nan=True)
        assert check_matrix(VOYAGE, matrix) == []
        # What it is decoded to stands for the same value, in JSON and in the cell of a table.
        decoded = each.decode(number)
        for again in (each.encode(decoded), each.read(decoded), each.read("" if decoded is None else str(decoded))):
            assert np.array_equal(again, number, equal_nan=True)
        assert valid or each.kind is Kind.DATETIME


def columns(**changes: list[object]) -> dict[str, list[object]]:
    cells: dict[str, list[object]] = {name: [str(value)] * 2 for name, value in VOYAGE.example.items()}
    return {**cells, "survived": ["lost", "saved"], **changes}


def test_a_table_is_read_as_text() -> None:
    table = check_table(VOYAGE, columns(age=["NA", "7"], insured=["True", "no"], deck=["", "C"]), maximum_duplicates=9)
    assert table.features[1].tolist() == [*ENCODED[:1], 7, 1, 2, 0, 0, 2, 2, *ENCODED[8:]]
    assert np.isnan(table.features[0][[1, 7]]).all()


@pytest.mark.parametrize(
    ("name", "cell", "rule", "sentence"),
    [
        ("siblings", "1.5", Rule.TYPE, "siblings, row 1: '1.5' is not a whole number."),
        ("siblings", "", Rule.TYPE, "siblings, row 1: the value is missing."),
        ("siblings", "NA", Rule.TYPE, "siblings, row 1: 'NA' is not a number."),
        ("age", "1_0", Rule.TYPE, "age, row 1: '1_0' is not a number."),
        ("age", "130", Rule.RANGE, "age, row 1: '130' is outside the plausible range 0 to 120 years."),
        ("insured", "perhaps", Rule.TYPE, "insured, row 1: 'perhaps' is neither true nor false."),
        ("port", "NA", Rule.CATEGORY, "port, row 1: 'NA' is not one of Cherbourg, Queenstown, Southampton."),
        ("born", "May", Rule.TYPE, "born, row 1: 'May' is not a date such as 2024-05-31."),
        ("born", date(1800, 1, 1), Rule.RANGE, "is outside the plausible range 1820-01-01 to 1912-04-10."),
        ("booked", "noon", Rule.TYPE, "booked, row 1: 'noon' is not a time such as 2024-05-31T12:00:00Z."),
    ],
)
def test_a_cell_that_is_refused_is_named(name: str, cell: object, rule: Rule, sentence: str) -> None:
    with pytest.raises(DataError) as error:
        check_table(VOYAGE, columns(**{name: [VOYAGE.example[name], cell]}), maximum_duplicates=9)
    (violation,) = error.value.violations
    assert (violation.rule, violation.column, violation.row) == (rule, name, 1)
    assert sentence in violation.message


def test_a_category_may_be_named_like_a_missing_value() -> None:
    class Country(Row):
        code: str | None = category("NA", "DE", description="Country.", example="NA")

    dataset = Dataset("country", "A country.", Country, Target("y", "m", "Height."))
    matrix, violations = check_features(dataset, {"code": ["NA", "", "None", "DE"]})
    assert np.array_equal(matrix[:, 0], np.array([0, np.nan, np.nan, 1]), equal_nan=True)
    assert violations == []


def test_a_matrix_of_codes_is_checked() -> None:
    good = np.array([ENCODED] * 4)
    broken = good.copy()
    broken[0, 6] = 3  # no port
    broken[1, 4] = 0.5  # no flag
    broken[2, 2] = np.nan  # not optional
    broken[3, 1] = np.inf
    assert good_rows(VOYAGE, good).all()
    assert not good_rows(VOYAGE, broken).any()
    assert [(one.column, one.rule) for one in check_matrix(VOYAGE, broken)] == [
        ("port", Rule.RANGE),
        ("insured", Rule.TYPE),
        ("siblings", Rule.TYPE),
        ("age", Rule.INFINITE),
    ]
    assert refused(VOYAGE, broken) == {
        ("port", Reason.OUT_OF_RANGE): 1,
        ("insured", Reason.WRONG_TYPE): 1,
        ("siblings", Reason.NOT_A_NUMBER): 1,
        ("age", Reason.NOT_A_NUMBER): 1,
    }


@pytest.mark.parametrize(
    ("number", "value", "shown"),
    [
        (("port", 1), "Queenstown", "Queenstown"),
        (("port", 7), 7, "7"),
        (("agency", 2), "(other)", "(other)"),
        (("deck", math.nan), None, "(missing)"),
        (("insured", 1), True, "true"),
        (("siblings", 3), 3, "3"),
        (("born", -29161), "1890-02-28", "1890-02-28"),
        (("born", 1e12), 1e12, "1e+12"),
        (("booked", 1e12), 1e12, "1e+12"),
        (("booked", ENCODED[12]), "1912-01-31T09:30:00Z", "1912-01-31T09:30:00Z"),
        (("age", 22.5), 22.5, "22.5"),
    ],
)
def test_people_are_shown_values(number: tuple[str, float], value: object, shown: str) -> None:
    each = FEATURES[number[0]]
    assert each.decode(number[1]) == value
    assert each.show(number[1]) == shown


@given(times(1900, 2059))
def test_times_are_kept_to_the_microsecond(value: datetime) -> None:
    each = Feature("x", "", -1e9, 1e9, "", None, Kind.DATETIME)
    text = each.decode(each.encode(value))
    assert isinstance(text, str)
    assert datetime.fromisoformat(text) == value.replace(tzinfo=UTC)


def test_the_contract_version_follows_kind_optional_and_vocabulary() -> None:
    class Number(Row):
        x: float = feature(unit="m", minimum=0, maximum=9, description="X.", example=1)

    class Optional(Row):
        x: float | None = feature(unit="m", minimum=0, maximum=9, description="X.", example=1)

    class Whole(Row):
        x: int = feature(unit="m", minimum=0, maximum=9, description="X.", example=1)

    class Words(Row):
        x: str = category("a", "b", description="X.", example="a")

    class Swapped(Row):
        x: str = category("b", "a", description="X.", example="a")

    class Open(Row):
        x: str = category("b", "a", description="X.", example="a", unknown=Unknown.OTHER)

    rows = (Number, Optional, Whole, Words, Swapped, Open)
    versions = {Dataset("x", "X.", row, Target("y", "m", "Y.")).contract_version for row in rows}
    assert len(versions) == len(rows)


def test_a_field_of_the_wrong_type_is_refused_where_it_is_declared() -> None:
    with pytest.raises(TypeError, match="the type must be str, not <class 'int'>"):

        class Wrong(Row):
            x: int = category("a", description="X.", example="a")

    with pytest.raises(TypeError, match="2\\*\\*53"):

        class Wide(Row):
            x: int = feature(unit="m", minimum=0, maximum=2**60, description="X.", example=1)


@pytest.mark.parametrize("names", [(), ("a", "a"), ("a", ""), ("(missing)",)])
def test_a_vocabulary_is_checked(names: tuple[str, ...]) -> None:
    with pytest.raises(TypeError, match="categories"):
        category(*names, description="X.", example="a")


def test_what_datasets_say_of_themselves() -> None:
    assert [(dataset.plain, dataset.all_numeric) for dataset in (*KINDS.values(), *DATASETS.values())][:2] == [
        (False, False),
        (False, True),
    ]
    assert PARCEL.matrix([PARCEL.row.model_validate_json('{"pieces": 2}')]).shape == (1, 2)


def test_a_row_of_one_feature_is_a_matrix() -> None:
    class One(Row):
        x: float = feature(unit="m", minimum=0, maximum=9, description="X.", example=1)

    dataset = Dataset("one", "One.", One, Target("y", "m", "Y."))
    assert dataset.matrix([One.model_validate({"x": 1}), One.model_validate({"x": 2.5})]).tolist() == [[1], [2.5]]


def test_values_are_counted_in_few_buckets() -> None:
    def counted(name: str, values: list[float]) -> dict[str, int]:
        each = FEATURES[name]
        edges = buckets.edges(each, np.array(values))
        counts = buckets.count(each, edges, np.array(values)).tolist()
        named = dict(zip(buckets.labels(each), counts, strict=True))
        assert sum(buckets.shares(each, edges, np.array(values))) == pytest.approx(1)
        return {label: count for label, count in named.items() if count}

    assert counted("port", [0, 2, 2]) == {"Cherbourg": 1, "Southampton": 2}
    assert counted("agency", [0, 2]) == {"Cook": 1, "(other)": 1}
    assert counted("Home district (1912)", [0, 49, 50, 59, 60, np.nan]) == {
        "district 0": 1,
        "district 49": 1,
        "(rest)": 3,
        "(missing)": 1,
    }
    assert counted("returned", [0, 1, 1, np.nan]) == {"false": 1, "true": 2, "(missing)": 1}
    assert counted("age", [*range(10), np.nan]) == {**{str(decile): 1 for decile in range(10)}, "(missing)": 1}
    assert counted("deck", [np.nan]) == counted("age", [np.nan]) == {"(missing)": 1}
    assert max(len(buckets.labels(each)) for each in VOYAGE.features) == 52
