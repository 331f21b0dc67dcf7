import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from contract import DATASETS
from contract.dataset import Dataset, Task
from contract.datasets.housing import HOUSING
from contract.datasets.iris import IRIS
from contract.row import Row, feature
from contract.table import check_matrix

of_numbers = pytest.mark.parametrize("dataset", [HOUSING, IRIS], ids=lambda dataset: dataset.name)
every_dataset = pytest.mark.parametrize("dataset", DATASETS.values(), ids=lambda dataset: dataset.name)


@every_dataset
def test_the_example_of_a_dataset_works(dataset: Dataset) -> None:
    row = dataset.row.model_validate(dataset.example)
    assert dataset.matrix([row]).tolist() == [dataset.encode(dataset.example)]


@every_dataset
def test_every_feature_has_unit_range_and_description(dataset: Dataset) -> None:
    for each in dataset.features:
        assert each.minimum <= each.encode(each.example) <= each.maximum
        assert each.description
        assert bool(each.unit) is each.numeric
        assert not each.unit or each.description.endswith(f"Unit: {each.unit}.")


def test_features_are_scikit_learns_in_its_order() -> None:
    assert HOUSING.feature_names == (
        "MedInc",
        "HouseAge",
        "AveRooms",
        "AveBedrms",
        "Population",
        "AveOccup",
        "Latitude",
        "Longitude",
    )
    assert HOUSING.task is Task.REGRESSION
    assert IRIS.feature_names == ("sepal_length", "sepal_width", "petal_length", "petal_width")
    assert IRIS.task is Task.CLASSIFICATION
    assert IRIS.target.classes == ("setosa", "versicolor", "virginica")


@of_numbers
@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (float("nan"), "finite_number"),
        (float("inf"), "finite_number"),
        (float("-inf"), "finite_number"),
        (True, "float_type"),
        ("1.5", "float_type"),
        (None, "float_type"),
        ([1.5], "float_type"),
        (1e300, "less_than_equal"),
        (-1e300, "greater_than_equal"),
    ],
)
def test_a_value_the_contract_refuses_is_named(dataset: Dataset, value: object, kind: str) -> None:
    for name in dataset.feature_names:
        with pytest.raises(ValidationError) as refusal:
            dataset.row.model_validate({**dataset.example, name: value})
        assert [(error["loc"], error["type"]) for error in refusal.value.errors()] == [((name,), kind)]


@every_dataset
def test_missing_and_unknown_fields_are_refused(dataset: Dataset) -> None:
    for each in dataset.features:
        if not each.optional:
            with pytest.raises(ValidationError, match="Field required"):
                dataset.row.model_validate(
                    {name: value for name, value in dataset.example.items() if name != each.name}
                )
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        dataset.row.model_validate({**dataset.example, "surprise": 1.0})


@of_numbers
@given(data=st.data())
def test_a_row_and_a_matrix_are_judged_alike(dataset: Dataset, data: st.DataObject) -> None:
    values = [
        data.draw(
            st.floats(each.minimum, each.maximum)
            | st.sampled_from([each.minimum, each.maximum, np.nextafter(each.minimum, -np.inf)])
            | st.floats()
        )
        for each in dataset.features
    ]
    broken = {violation.column for violation in check_matrix(dataset, np.array([values], dtype=np.float64))}
    try:
        dataset.row.model_validate(dict(zip(dataset.feature_names, values, strict=True)))
        refused = set()
    except ValidationError as error:
        refused = {problem["loc"][0] for problem in error.errors()}
    assert broken == refused


def test_the_contract_version_follows_what_a_model_depends_on() -> None:
    class Wider(Row):
        petal_width: float = feature(unit="cm", minimum=0, maximum=99, description="Width.", example=1)

    class Renamed(Row):
        petal_breadth: float = feature(unit="cm", minimum=0, maximum=8, description="Width.", example=1)

    class Inches(Row):
        petal_width: float = feature(unit="in", minimum=0, maximum=8, description="Width.", example=1)

    class Base(Row):
        petal_width: float = feature(unit="cm", minimum=0, maximum=8, description="Width of it.", example=1)

    def version(row: type[Row], **target: object) -> str:
        return dataclasses.replace(
            IRIS,
            row=row,
            target=dataclasses.replace(IRIS.target, **target),  # type: ignore[arg-type]  # by name
        ).contract_version

    assert version(Base) == version(Wider)
    changed = {version(Renamed), version(Inches), version(Base, classes=("virginica", "setosa", "versicolor"))}
    assert len(changed | {version(Base)}) == 4
