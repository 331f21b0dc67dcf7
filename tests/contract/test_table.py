import time
from collections.abc import Callable

import numpy as np
import pytest

from contract.datasets.housing import HOUSING
from contract.datasets.iris import IRIS
from contract.errors import DataError
from contract.table import check_features, check_matrix, check_table, first_violation, good_rows
from contract.violation import Rule

Columns = dict[str, list[object]]


def iris_columns() -> Columns:
    """Four flowers, as text, as a CSV file has them."""
    return {
        "species": ["setosa", "versicolor", "virginica", "setosa"],
        "petal_width": ["0.2", "1.3", "2.1", "0.4"],
        "sepal_length": ["5.1", "6.2", "6.9", "4.8"],
        "sepal_width": ["3.5", "2.9", "3.1", "3.0"],
        "petal_length": ["1.4", "4.3", "5.4", "1.6"],
    }


def housing_columns() -> Columns:
    columns: Columns = {name: [value, value] for name, value in HOUSING.example.items()}
    columns["HouseAge"] = [41, 42]
    columns["MedHouseVal"] = [4.5, 3.2]
    return columns


def cell(column: str, row: int, value: object) -> Callable[[Columns], None]:
    def change(columns: Columns) -> None:
        columns[column][row] = value

    return change


def test_text_becomes_numbers_and_class_indices_in_the_order_of_the_contract() -> None:
    table = check_table(IRIS, iris_columns())
    assert table.features[0].tolist() == [5.1, 3.5, 1.4, 0.2]
    assert table.target.tolist() == [0, 1, 2, 0]


@pytest.mark.parametrize(
    ("change", "rule", "column", "row", "value"),
    [
        (cell("sepal_width", 2, "wide"), Rule.TYPE, "sepal_width", 2, "wide"),
        (cell("sepal_width", 2, ""), Rule.TYPE, "sepal_width", 2, ""),
        (cell("sepal_width", 2, "1_0"), Rule.TYPE, "sepal_width", 2, "1_0"),
        (cell("sepal_width", 2, "٣"), Rule.TYPE, "sepal_width", 2, "٣"),
        (cell("sepal_width", 0, "nan"), Rule.NAN, "sepal_width", 0, "nan"),
        (cell("sepal_width", 1, "inf"), Rule.INFINITE, "sepal_width", 1, "inf"),
        (cell("sepal_width", 1, "-inf"), Rule.INFINITE, "sepal_width", 1, "-inf"),
        (cell("sepal_width", 1, "99.5"), Rule.RANGE, "sepal_width", 1, "99.5"),
        (cell("species", 3, "tulip"), Rule.CLASS, "species", 3, "tulip"),
        (cell("species", 3, ""), Rule.CLASS, "species", 3, ""),
        (lambda columns: columns.pop("petal_width"), Rule.MISSING_COLUMN, "petal_width", None, None),
        (lambda columns: columns.pop("species"), Rule.MISSING_COLUMN, "species", None, None),
        (lambda columns: columns.update(colour=["red"] * 4), Rule.UNKNOWN_COLUMN, "colour", None, None),
        (lambda columns: columns["petal_width"].pop(), Rule.LENGTH, None, None, None),
    ],
)
def test_a_broken_rule_names_column_row_and_value(
    change: Callable[[Columns], None], rule: Rule, column: str | None, row: int | None, value: str | None
) -> None:
    columns = iris_columns()
    change(columns)
    with pytest.raises(DataError) as refusal:
        check_table(IRIS, columns)
    (violation,) = refusal.value.violations
    assert (violation.rule, violation.column, violation.row, violation.value) == (rule, column, row, value)
    for part in (column, f"row {row}" if row is not None else None):
        assert part is None or part in str(refusal.value)


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        (float("nan"), Rule.NAN),
        (float("inf"), Rule.INFINITE),
        (-1.0, Rule.RANGE),
        (21.0, Rule.RANGE),
        ("cheap", Rule.TYPE),
    ],
)
def test_a_regression_target_is_checked_too(value: object, rule: Rule) -> None:
    columns = housing_columns()
    columns["MedHouseVal"][1] = value
    with pytest.raises(DataError) as refusal:
        check_table(HOUSING, columns)
    assert [(v.rule, v.column, v.row) for v in refusal.value.violations] == [(rule, "MedHouseVal", 1)]


def test_every_broken_rule_is_listed() -> None:
    columns = housing_columns()
    columns["MedInc"] = ["nan", "-4"]
    columns["Latitude"][1] = "north"
    columns["MedHouseVal"][0] = 1e9
    with pytest.raises(DataError, match=r"and 3 more") as refusal:
        check_table(HOUSING, columns)
    assert {(v.rule, v.column, v.row) for v in refusal.value.violations} == {
        (Rule.NAN, "MedInc", 0),
        (Rule.RANGE, "MedInc", 1),
        (Rule.TYPE, "Latitude", 1),
        (Rule.RANGE, "MedHouseVal", 0),
    }


def test_duplicates_and_too_few_rows_are_limits_of_the_caller() -> None:
    columns = {name: [*values, values[0]] for name, values in iris_columns().items()}
    assert len(check_table(IRIS, columns, maximum_duplicates=1).target) == 5
    with pytest.raises(DataError) as refusal:
        check_table(IRIS, columns, minimum_rows=6)
    assert [(v.rule, v.row, v.value) for v in refusal.value.violations] == [
        (Rule.TOO_FEW_ROWS, None, "5"),
        (Rule.DUPLICATE, 4, None),
    ]


def test_an_empty_table_has_too_few_rows() -> None:
    with pytest.raises(DataError) as refusal:
        check_table(IRIS, {name: [] for name in iris_columns()})
    assert [violation.rule for violation in refusal.value.violations] == [Rule.TOO_FEW_ROWS]


def test_a_whole_table_is_checked_in_seconds() -> None:
    rows = 20_640
    columns: dict[str, list[object]] = {
        name: [repr(value + row * 1e-6) for row in range(rows)] for name, value in HOUSING.example.items()
    }
    columns["MedHouseVal"] = ["2.5"] * rows
    started = time.process_time()
    assert len(check_table(HOUSING, columns).target) == rows
    # It takes a third of a second; what took a time for each pair of rows would take minutes.
    assert time.process_time() - started < 5


def test_a_good_matrix_has_no_violations() -> None:
    low, high = HOUSING.bounds
    assert check_matrix(HOUSING, np.array([low, high])) == []


def test_the_first_violation_of_a_matrix_comes_with_their_number() -> None:
    low, high = HOUSING.bounds
    broken = np.array([low, high + 1, low - 1])
    assert first_violation(HOUSING, np.array([low, high])) is None
    assert first_violation(HOUSING, broken) == (check_matrix(HOUSING, broken)[0], 2 * len(low))


def test_some_rows_of_a_table_keep_their_numbers() -> None:
    columns = {name: values[1:3] for name, values in iris_columns().items()}
    columns["sepal_width"] = ["wide", "99"]
    features, violations = check_features(IRIS, columns, [41, 7])
    assert features[:, 0].tolist() == [6.2, 6.9]
    assert np.isnan(features[0, 1])
    assert [(v.rule, v.row) for v in violations] == [(Rule.TYPE, 41), (Rule.RANGE, 7)]
    assert "row 41" in violations[0].message
    assert "row 7" in violations[1].message


def test_good_rows_are_those_without_a_violation() -> None:
    low, high = HOUSING.bounds
    matrix = np.array([low, high + 1, high, np.where(np.arange(len(low)) == 2, np.nan, low)])
    assert good_rows(HOUSING, matrix).tolist() == [True, False, True, False]
