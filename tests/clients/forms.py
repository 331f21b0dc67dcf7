"""Every form in which the rows of a request may come, and what ``/predict/{model}/batch`` answers to the same rows."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import requests
from numpy.typing import NDArray

from contract import DATASETS
from contract.dataset import Dataset, Task

Array = NDArray[Any]
Outputs = dict[str, Array]
"""Arrays by output: ``[N, 1]``, or ``[N, C]`` of probabilities; labels are ``str`` objects."""

RAW = Path(__file__).parents[2] / "data" / "raw"
NAMES = {
    "float64": "FP64",
    "float32": "FP32",
    "int64": "INT64",
    "int32": "INT32",
    "int16": "INT16",
    "int8": "INT8",
    "uint64": "UINT64",
    "uint32": "UINT32",
    "uint16": "UINT16",
    "uint8": "UINT8",
}
"""The protocol's name of a numpy dtype."""


class Tensor(NamedTuple):
    name: str
    values: Array

    @property
    def datatype(self) -> str:
        return NAMES[str(self.values.dtype)]

    @property
    def shape(self) -> list[int]:
        return list(self.values.shape)


@dataclass(frozen=True)
class Form:
    """A way to send rows ``[N, F]`` to a model."""

    model: str
    name: str
    count: int
    dtype: str
    split: Callable[[Dataset, Array], list[Tensor]]

    @property
    def dataset(self) -> Dataset:
        return DATASETS[self.model]

    @property
    def rows(self) -> Array:
        """The rows, of values that ``dtype`` holds exactly."""
        rows = table(self.dataset)[np.arange(self.count) % len(table(self.dataset))]
        return np.ceil(rows).astype(self.dtype) if np.dtype(self.dtype).kind in "iu" else rows.astype(self.dtype)

    @property
    def tensors(self) -> list[Tensor]:
        return self.split(self.dataset, self.rows)

    def __str__(self) -> str:
        return f"{self.model}-{self.name}-{self.count}-{self.dtype}"


@cache
def table(dataset: Dataset) -> Array:
    """Some rows of the raw data; no column of them is in the order of its values."""
    with (RAW / f"{dataset.name}.csv").open() as file:
        header = file.readline().strip().split(",")
        columns = [header.index(name) for name in dataset.feature_names]
        return np.loadtxt(file, delimiter=",", usecols=columns)[::7][:20]


def matrix(_: Dataset, rows: Array) -> list[Tensor]:
    return [Tensor("input", rows)]


def matrix_of_any_name(_: Dataset, rows: Array) -> list[Tensor]:
    return [Tensor("dense_1", rows)]


def vectors(dataset: Dataset, rows: Array) -> list[Tensor]:
    return [Tensor(name, rows[:, column].copy()) for column, name in enumerate(dataset.feature_names)]


def columns(dataset: Dataset, rows: Array) -> list[Tensor]:
    return [Tensor(tensor.name, tensor.values[:, None]) for tensor in vectors(dataset, rows)]


def backwards(dataset: Dataset, rows: Array) -> list[Tensor]:
    return vectors(dataset, rows)[::-1]


def of_several_datatypes(dataset: Dataset, rows: Array) -> list[Tensor]:
    """Columns whose values are whole as INT32, every other one ``[N, 1]``."""
    tensors = []
    for index, (name, values) in enumerate(vectors(dataset, rows)):
        whole = values.astype(np.int32) if (values == values.round()).all() else values
        tensors.append(Tensor(name, whole[:, None] if index % 2 else whole))
    return tensors


INTEGERS = {"housing": ["int64", "int32", "int16"], "iris": [name for name in NAMES if not name.startswith("float")]}
"""The integer dtypes that hold rows of a model; Housing's longitudes are negative, its populations large."""
FORMS = [
    Form(model, split.__name__, count, dtype, split)
    for model in INTEGERS
    for split, count, dtype in [
        *((matrix, count, "float64") for count in (1, 2, 7, 600)),  # 600 are more than one batch of the model
        *((matrix, 7, dtype) for dtype in ["float32", *INTEGERS[model]]),
        (matrix_of_any_name, 7, "float64"),
        *((split, count, "float64") for split in (vectors, columns, backwards) for count in (1, 7)),
        (vectors, 7, "float32"),
        (columns, 7, "int64"),
        (of_several_datatypes, 7, "float64"),
    ]
]


def expected(session: requests.Session, url: str, form: Form) -> Outputs:
    """What ``/predict/{model}/batch`` answers, in the shapes of the protocol."""
    rows = [dict(zip(form.dataset.feature_names, row, strict=True)) for row in form.rows.astype(float).tolist()]
    answer = session.post(f"{url}/predict/{form.model}/batch", json={"rows": rows}, timeout=30)
    answer.raise_for_status()
    values = answer.json()["predictions"]
    if form.dataset.task is Task.REGRESSION:
        return {"predict": np.array([[value["prediction"]] for value in values])}
    return {
        "predict": np.array([[value["prediction"]] for value in values]),
        "label": np.array([[value["label"]] for value in values], dtype=object),
        "probabilities": np.array([list(value["probabilities"].values()) for value in values]),
    }


def check(got: Outputs, wanted: Outputs) -> None:
    """The same outputs, to the bit."""
    assert got.keys() == wanted.keys()
    for name, values in wanted.items():
        assert got[name].dtype == values.dtype, name
        assert got[name].shape == values.shape, name
        assert (got[name] == values).all(), name


def decoded(values: Array) -> Array:
    """BYTES as text; anything else as it is."""
    if values.dtype != object:
        return values
    texts = [element.decode() if isinstance(element, bytes) else element for element in values.ravel().tolist()]
    return np.array(texts, dtype=object).reshape(values.shape)
