"""What columns hold: kinds, ranges, vocabularies, and what tells nothing."""

import string
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle, islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.dataset import Task
from contract.feature import Feature, Kind, Unknown
from local_service import PROJECT
from training.errors import PipelineError
from training.new_dataset import contract_module
from training.new_dataset.inference import Column, Found, infer
from training.new_dataset.table import RawTable

ROWS = 60
TARGET = [f"{number / 7:.3f}" for number in range(ROWS)]


def repeated(*cells: str) -> list[str]:
    return list(islice(cycle(cells), ROWS))


def found(target: Sequence[str] = TARGET, task: Any = None, **columns: Any) -> Found:
    given = {"x": repeated("1", "2", "3"), **columns}
    return infer(RawTable({name: list(cells) for name, cells in given.items()} | {"y": list(target)}), "y", task)


def column(cells: Sequence[str], name: str = "c") -> Column:
    result = found(**{name: cells})
    assert name not in result.left_out, result.left_out[name]
    return next(each for each in result.columns if each.feature.name == name)


def feature(*cells: str, name: str = "c") -> Feature:
    return column(repeated(*cells), name).feature


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["1.5", "2", "-3e2"], Kind.NUMBER),
        (["1,234.5", "12"], Kind.NUMBER),
        (["1", "2", "-3"], Kind.INTEGER),
        (["1.0", "2.0"], Kind.INTEGER),
        (["1,234", "12"], Kind.INTEGER),
        (["0", "1"], Kind.INTEGER),
        (["true", "false"], Kind.BOOLEAN),
        (["Yes", "No"], Kind.BOOLEAN),
        (["T", "F"], Kind.BOOLEAN),
        (["M", "F"], Kind.CATEGORY),
        (["F", "N"], Kind.CATEGORY),
        (["red", "green", "1"], Kind.CATEGORY),
        (["01234", "04567"], Kind.CATEGORY),
        (["2024-05-31", "2023-01-01"], Kind.DATE),
        (["31.12.2024", "1.5.2023"], Kind.DATE),
        (["12/31/2024", "05/31/2024"], Kind.DATE),
        (["31/12/2024", "05/06/2024"], Kind.DATE),
        (["2024/12/31", "2024/5/6"], Kind.DATE),
        (["31-Dec-2024", "1-Jan-2023"], Kind.DATE),
        (["2024-05-31T12:00:00Z", "2024-05-31 13:00"], Kind.DATETIME),
    ],
)
def test_kinds(cells: list[str], kind: Kind) -> None:
    one = column(repeated(*cells))
    assert (one.feature.kind, one.feature.optional) == (kind, False)
    # What is copied is what the contract reads.
    assert len({one.feature.read(cell) for cell in one.cells}) == len(cells)
    missing = column(["", *repeated(*cells)[1:]])
    assert (missing.feature.kind, missing.feature.optional) == (kind, True)


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["18", "70"], (0, 96)),
        (["-5", "5"], (-10, 10)),
        (["0", "1"], (0, 1)),
        (["0.2", "1"], (0, 1)),
        (["0.13", "0.58"], (0, 0.81)),
        (["-20", "-10"], (-25, -5)),
        (["1990", "2000"], (1980, 2010)),
        (["39.1", "59.6"], (28, 70)),
        (["100000", "2500000"], (0, 3_700_000)),
    ],
)
def test_ranges_have_room_in_round_numbers(cells: list[str], expected: tuple[float, float]) -> None:
    one = feature(*cells)
    assert (one.minimum, one.maximum) == expected


def test_a_range_that_has_no_room_is_that_of_the_table() -> None:
    result = found(repeated("5e-324", "1.5e-323"), task=Task.REGRESSION).target
    assert (result.minimum, result.maximum) == (5e-324, 1.5e-323)


@pytest.mark.parametrize("large", ["1.7e308", "-1.7e308", "1e999"])
def test_numbers_whose_squares_are_no_doubles_are_refused(large: str) -> None:
    with pytest.raises(PipelineError, match=r"y has numbers beyond 1e\+100"):
        found(repeated("0.5", large), task=Task.REGRESSION)


def test_the_last_second_of_time_is_in_the_range() -> None:
    one = feature("2024-05-31 12:00:00", "9999-12-31 23:59:59", "0001-01-01 00:00:00")
    assert one.range == "0001-01-01T00:00:00Z to 9999-12-31T23:59:59Z"


def test_coordinates_stay_on_the_globe() -> None:
    assert feature("-80.5", "80.25", name="Latitude").maximum == 90
    assert feature("-170.5", "175.25", name="lon").minimum == -180


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("Length (mm)", "mm"),
        ("Price [EUR]", "EUR"),
        ("body_mass_g", "g"),
        ("duration.min", "min"),
        ("share_pct", "percent"),
        ("m", "units"),
        ("age", "units"),
    ],
)
def test_units_are_read_from_names(name: str, unit: str) -> None:
    assert feature("1.5", "2", name=name).unit == unit


def test_a_vocabulary_is_closed_unless_texts_came_once() -> None:
    closed = feature("b", "a")
    assert (closed.vocabulary, closed.unknown) == (("a", "b"), Unknown.REFUSE)
    opened = column([*repeated("b", "a")[1:], "c"]).feature
    assert (opened.vocabulary, opened.unknown) == (("a", "b", "c"), Unknown.OTHER)


def test_of_many_texts_the_commonest_are_categories() -> None:
    random = np.random.default_rng(0)
    cells = [f"city {number}" for number in random.zipf(1.5, 3000) % 400]
    table = RawTable({"city": cells, "y": [str(number) for number in range(3000)]})
    one = infer(table, "y").columns[0].feature
    assert (len(one.vocabulary), one.unknown, one.vocabulary[0]) == (100, Unknown.OTHER, "city 1")


@pytest.mark.parametrize("reserved", ["(missing)", "(other)", "(rest)"])
def test_texts_that_mean_something_else_are_no_categories(reserved: str) -> None:
    one = feature("a", "b", reserved)
    assert (one.vocabulary, one.unknown) == (("a", "b"), Unknown.OTHER)


@pytest.mark.parametrize(
    ("name", "cells", "reason"),
    [
        ("c", repeated(""), "it is empty"),
        ("c", repeated("same"), "it has the same value in all rows, 'same'"),
        ("c", repeated("7"), "it has the same value in all rows, '7'"),
        ("c", [str(number) for number in range(1, ROWS + 1)], "it numbers the rows"),
        ("c", [str(number) for number in range(1, 2 * ROWS, 2)], "it numbers the rows"),
        ("user id", [str(7919 * number % 10007) for number in range(ROWS)], "it looks like an identifier"),
        ("c", [f"N{number}" for number in range(ROWS)], "an identifier or free text"),
        ("c", [f"N{number * 2 // 3}" for number in range(ROWS)], "an identifier or free text"),
        (
            "c",
            repeated(*("a sentence of more than sixty characters, which nobody counts " + x for x in "ab")),
            "free text",
        ),
        ("c", [">50", *(str(number % 50) for number in range(ROWS - 1))], "mixes numbers with text such as '>50'"),
        ("c", repeated("1/2/2024", "3/4/2024"), "day and month of its dates may be either"),
        ("c", repeated("1e999", "2"), "it has numbers beyond 1e+100"),
        ("c", repeated("-1e200", "2.5"), "it has numbers beyond 1e+100"),
        ("c", repeated("0001-01-01T00:00:00+05:00", "2024-05-31T12:00:00Z"), "not all in the years 1 to 9999"),
        ("c", repeated("9999-12-31T23:59:59.999999", "2024-05-31T12:00:00Z"), "not all in the years 1 to 9999"),
        ("c", [str(2**60 + 99 * (number % 7)) for number in range(ROWS)], "too large for a double"),
        ("c" * 81, repeated("1", "2"), "its name is longer than 60 characters"),
        ("sample weight", repeated("1", "2"), "the pipeline has a column of that name"),
    ],
)
def test_what_tells_nothing_is_left_out_and_said(name: str, cells: list[str], reason: str) -> None:
    result = found(**{name: cells})
    assert [each.feature.name for each in result.columns] == ["x"]
    assert reason in result.left_out[name]


def test_a_single_value_beside_missing_ones_tells_something() -> None:
    assert column(repeated("yes", "")).feature.kind is Kind.BOOLEAN
    assert column(repeated("7", "")).feature.optional


@pytest.mark.parametrize(
    ("cells", "task", "classes"),
    [
        (["b", "a"], Task.CLASSIFICATION, ("a", "b")),
        (["0", "1"], Task.CLASSIFICATION, ("0", "1")),
        (["10", "9", "8"], Task.CLASSIFICATION, ("8", "9", "10")),
        (["true", "false"], Task.CLASSIFICATION, ("false", "true")),
        (["1.5", "2", "3"], Task.REGRESSION, ()),
        ([str(number) for number in range(11)], Task.REGRESSION, ()),
    ],
)
def test_the_task_follows_from_the_target(cells: list[str], task: Task, classes: tuple[str, ...]) -> None:
    rows = 120
    table = RawTable({"x": [str(number % 3) for number in range(rows)], "y": list(islice(cycle(cells), rows))})
    result = infer(table, "y")
    assert (result.task, result.target.classes) == (task, classes)


def test_the_task_may_be_given() -> None:
    assert found(repeated("1", "2", "3"), Task.REGRESSION).target.classes == ()
    assert found(repeated("1.5", "2.5", "3.5"), Task.CLASSIFICATION).target.classes == ("1.5", "2.5", "3.5")


def test_rows_without_a_target_are_left_out_and_said() -> None:
    result = found(["", "", *TARGET[2:]])
    assert len(result.target_cells) == len(result.columns[0].cells) == ROWS - 2
    assert "2 rows without y are left out." in result.notes


def test_a_class_that_reads_like_a_missing_value_is_told() -> None:
    cells = [*repeated("low", "high"), "", ""]
    table = RawTable({"x": [*repeated("1", "2", "3"), "1", "2"], "y": cells}, marks={"y": Counter({"None": 2})})
    result = infer(table, "y")
    assert result.target.classes == ("high", "low")
    assert "Rows whose y is 'None' are left out. If that is a class" in result.warnings[0]


@pytest.mark.parametrize(
    ("target", "task", "reason"),
    [
        (repeated("same"), None, "y has the same value in all rows"),
        (["", *[""] * (ROWS - 20), *TARGET[:19]], None, "19 rows with a value of y: at least 50 are needed"),
        ([*repeated("a", "b")[9:], *["rare"] * 9], None, r"at least 10 rows of each class.*rare \(9\)"),
        ([f"text {number}" for number in range(ROWS)], None, "60 different values; up to 50 can be classes"),
        (TARGET, Task.CLASSIFICATION, "TASK=regression takes it for a number"),
        (repeated("1", "2", "three"), Task.REGRESSION, "'three' is none"),
        (repeated("a" * 81, "b"), None, "a class has at most 80 characters"),
    ],
)
def test_a_target_that_cannot_be_learned_is_refused(target: list[str], task: Task | None, reason: str) -> None:
    with pytest.raises(PipelineError, match=reason):
        found(target, task)


def test_a_column_that_is_not_there() -> None:
    table = RawTable({"Price": TARGET, "x": TARGET})
    with pytest.raises(PipelineError, match=r"no column 'price'; did you mean 'Price'\? there is Price, x"):
        infer(table, "price")


def test_a_table_with_nothing_to_learn_from() -> None:
    table = RawTable({"c": repeated("same"), "y": TARGET})
    with pytest.raises(PipelineError, match="No column tells y: c: it has the same value"):
        infer(table, "y")


def test_a_feature_that_tells_the_target_by_itself_is_said() -> None:
    target = repeated("a", "b")
    assert ["c tells y" in each for each in found(target, c=repeated("1", "2")).warnings] == [True]


def test_what_a_person_wrote_is_kept() -> None:
    first = found(size=repeated("1.5", "2.5"), kind=repeated("a", "b"))
    edited = contract_module.load(
        "mine", contract_module.source("mine", first, "mine.csv").replace('unit="units"', 'unit="ha"')
    )
    wider = RawTable(
        {
            "x": repeated("1", "2", "99"),
            "size": repeated("1.5", "2.25", ""),
            "kind": repeated("c", "b", "a"),
            "y": TARGET,
        }
    )
    again = infer(wider, "y", present=edited)
    x, size, kind = (each.feature for each in again.columns)
    assert (x.unit, size.unit, again.target.unit) == ("ha", "ha", "ha")
    assert x.maximum > 99
    assert size == replace(edited.features[1], optional=True)
    assert kind.vocabulary == ("a", "b", "c")
    same = infer(
        RawTable({each.feature.name: each.cells for each in first.columns} | {"y": TARGET}), "y", present=edited
    )
    assert (tuple(each.feature for each in same.columns), same.target) == (edited.features, edited.target)


@pytest.mark.parametrize("file", ["WA_Fn-UseC_-Telco-Customer-Churn.csv", f"{'long' * 50}.csv", 'a "b".csv'])
def test_a_contract_is_in_the_style_of_the_project(file: str) -> None:
    quotes = repeated("it's", 'say "hi"', "it's \"'\\'", "\\")
    result = found(repeated("1e18", "2e19", "3"), task=Task.REGRESSION, quotes=quotes)
    name = "wa_fn_usec_telco_customer_churn"
    text = contract_module.source(name, result, file)
    assert contract_module.load(name, text).features == tuple(each.feature for each in result.columns)
    for words in (["check"], ["format", "--check"]):
        ruff = ["ruff", *words, "--stdin-filename", f"contract/datasets/{name}.py", "-"]
        checked = subprocess.run([sys.executable, "-m", *ruff], cwd=PROJECT, input=text, capture_output=True, text=True)
        assert checked.returncode == 0, checked.stdout


HEADERS = st.text(string.printable + "äß€ﬁ中", min_size=1, max_size=30).map(lambda text: " ".join(text.split()))


@given(names=st.lists(HEADERS.filter(bool), min_size=1, max_size=8, unique=True), data=st.data())
def test_any_header_and_any_text_make_a_contract_that_takes_the_table(names: list[str], data: st.DataObject) -> None:
    texts = st.lists(HEADERS.filter(lambda text: bool(text.strip())), min_size=2, max_size=4, unique=True)
    columns: dict[str, Any] = {name: repeated(*data.draw(texts)) for name in names if name != "y"}
    result = infer(RawTable({"x": repeated("1", "2", "3"), **columns, "y": TARGET}), "y")
    dataset = contract_module.load("mine", contract_module.source("mine", result, "mine.csv"))
    assert dataset.features == tuple(each.feature for each in result.columns)
    dataset.row.model_validate(dataset.example)
