"""Tensors to rows of a dataset, a model's outputs to tensors, and their metadata; the same for both transports."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.dataset import MAXIMUM_BATCH_ROWS, Dataset, Task
from contract.errors import OTHER, InvalidInput, Reason, cut, shown
from contract.feature import Feature, Kind, Refusal, Value
from contract.table import FloatMatrix, first_violation, refused
from model.card import ONNX_INPUT
from serving.protocol.tensors import BOOL, BYTES, NUMBERS, InputTensor, OutputTensor, Place, flags, numbers, texts

PLATFORM = "onnxruntime_onnx"
"""The protocol's name for an ONNX model run by onnxruntime."""
EXTENSIONS = ["binary_tensor_data"]

PREDICT = "predict"
LABEL = "label"
PROBABILITIES = "probabilities"


@dataclass(frozen=True)
class TensorSpec:
    """A tensor as model metadata describes it; −1 in ``shape`` is the number of rows."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    parameters: dict[str, Any] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """As a JSON object."""
        document: dict[str, Any] = {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}
        return document | {"parameters": self.parameters} if self.parameters else document


class Codec:
    """Converts tensors to rows of one dataset, and its model's outputs to tensors.

    ``inputs`` describes the tensors that it takes: one that holds whole rows, whose parameters name the features in
    order, where all features are numbers; else one for each feature. ``outputs`` describes the outputs by name; a
    vector is a column ``[N, 1]``, as MLServer's runtimes answer.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self._position = {name: column for column, name in enumerate(dataset.feature_names)}
        self._labels: NDArray[Any] = np.array(dataset.target.classes, dtype=object)
        self.inputs = input_specs(dataset)
        if dataset.task is Task.REGRESSION:
            outputs = [TensorSpec(PREDICT, "FP64", (-1, 1), {"unit": dataset.target.unit})]
        else:
            classes = list(dataset.target.classes)
            outputs = [
                TensorSpec(PREDICT, "INT64", (-1, 1)),
                TensorSpec(LABEL, BYTES, (-1, 1)),
                TensorSpec(PROBABILITIES, "FP64", (-1, len(classes)), {"classes": classes}),
            ]
        self.outputs = {output.name: output for output in outputs}

    def rows(self, tensors: Sequence[InputTensor]) -> FloatMatrix:
        """The rows of a request, ``[N, F]``, checked against the contract.

        A request has one tensor ``[N]`` or ``[N, 1]`` for each feature, in any order; that of an optional feature may
        be left out. Where all features are numbers it may have one tensor ``[N, F]`` of any name.

        Raises:
            InvalidInput: names the tensor, or the feature and the row (counted from 0).
        """
        if not tensors:
            raise InvalidInput(f"There is no input tensor; {self._takes()}.")
        width = len(self._position)
        one = len(tensors) == 1 and self.dataset.all_numeric
        if one and len(tensors[0].shape) == 2 and tensors[0].shape[1] == width:
            matrix = self._from_matrix(tensors[0])
        else:
            matrix = self._from_columns(tensors)
        broken = first_violation(self.dataset, matrix)
        if broken is not None:
            violation, count = broken
            rest = f" (and {count - 1} more)" if count > 1 else ""
            raise InvalidInput(f"{violation.message}{rest}", refused=refused(self.dataset, matrix))
        return matrix

    def check_outputs(self, names: Sequence[str]) -> None:
        """Check, before the model runs, that it has these outputs.

        Raises:
            InvalidInput: names the output, and the outputs that exist.
        """
        for index, name in enumerate(names):
            if name not in self.outputs:
                known = ", ".join(self.outputs)
                raise InvalidInput(f"{self.dataset.name} has no output {cut(name)!r}; it has {known}.")
            if name in names[:index]:
                raise InvalidInput(f"The output {cut(name)!r} is asked for twice.")

    def tensors(self, values: FloatMatrix, names: Sequence[str]) -> list[OutputTensor]:
        """The model's outputs ``[N, K]`` as the tensors asked for; as all tensors if none is named."""
        return [
            OutputTensor(name, self.outputs[name].datatype, self._output(values, name))
            for name in (names or self.outputs)
        ]

    def _output(self, values: FloatMatrix, name: str) -> NDArray[Any]:
        if self.dataset.task is Task.REGRESSION or name == PROBABILITIES:
            return values
        best: NDArray[Any] = values.argmax(axis=1)[:, None]
        return self._labels[best] if name == LABEL else best

    def _from_matrix(self, tensor: InputTensor) -> FloatMatrix:
        _check_count(tensor.shape[0])
        names = self.dataset.feature_names
        optional = self.dataset.has_optional
        flat = numbers(tensor, lambda index: Place(names[index % len(names)], index // len(names)), optional=optional)
        return flat.reshape(tensor.shape)

    def _from_columns(self, tensors: Sequence[InputTensor]) -> FloatMatrix:
        self._check_names(tensors)
        first = tensors[0]
        count = first.shape[0]
        _check_count(count)
        matrix = np.full((count, len(self._position)), np.nan)
        for tensor in tensors:
            if tensor.shape not in {(count,), (count, 1)}:
                raise InvalidInput(
                    f"The input {cut(tensor.name)!r} has shape {shown(list(tensor.shape))}; a tensor of one feature "
                    f"is [N] or [N, 1], and {cut(first.name)!r} has {count} rows."
                )
            column = self._position[tensor.name]
            matrix[:, column] = _column(self.dataset.features[column], tensor)
        return matrix

    def _check_names(self, tensors: Sequence[InputTensor]) -> None:
        names = [tensor.name for tensor in tensors]
        unknown = next((tensor for tensor in tensors if tensor.name not in self._position), None)
        if unknown is not None:
            if len(tensors) > 1:
                raise InvalidInput(
                    f"The input {cut(unknown.name)!r} is no feature; {self._takes()}.",
                    refused={(OTHER, Reason.UNKNOWN_FIELD): 1},
                )
            shape = list(unknown.shape)
            hint = f" (one row is [1, {shape[0]}])" if shape == [len(self._position)] else ""
            raise InvalidInput(f"The input {cut(unknown.name)!r} has shape {shown(shape)}{hint}; {self._takes()}.")
        if len(set(names)) < len(names):
            repeated = next(name for index, name in enumerate(names) if name in names[:index])
            raise InvalidInput(f"{repeated}: there are two inputs of this name.")
        required = (feature.name for feature in self.dataset.features if not feature.optional)
        missing = next((name for name in required if name not in names), None)
        if missing is not None:
            raise InvalidInput(
                f"{missing}: the input is missing; {self._takes()}.", refused={(missing, Reason.MISSING): 1}
            )

    def _takes(self) -> str:
        whole = f"one tensor [N, {len(self._position)}], or " if self.dataset.all_numeric else ""
        return f"{self.dataset.name} takes {whole}one tensor [N] or [N, 1] for each of {', '.join(self._position)}"


def input_specs(dataset: Dataset) -> list[TensorSpec]:
    """The tensors that a model takes, in their best form."""
    if dataset.all_numeric:
        names = list(dataset.feature_names)
        return [TensorSpec(ONNX_INPUT, "FP64", (-1, len(names)), {"feature_names": names})]
    return [TensorSpec(feature.name, datatype(feature), (-1, 1), _described(feature)) for feature in dataset.features]


def datatype(feature: Feature) -> str:
    """The datatype of a feature's tensor, in its best form."""
    if feature.kind is Kind.BOOLEAN and not feature.optional:
        return BOOL
    if feature.kind is Kind.INTEGER and not feature.optional:
        return "INT64"
    # Datatypes without NaN use "" for a missing value.
    return "FP64" if feature.numeric else BYTES


def _described(feature: Feature) -> dict[str, Any]:
    described: dict[str, Any] = {"kind": feature.kind, "optional": feature.optional}
    if feature.unit:
        described["unit"] = feature.unit
    if feature.vocabulary:
        described |= {"categories": list(feature.vocabulary), "unknown": feature.unknown}
    return described


def example_tensors(dataset: Dataset, rows: int) -> list[dict[str, Any]]:
    """Tensors of JSON that work, with the example of the dataset in each row."""
    if dataset.all_numeric:
        (spec,) = input_specs(dataset)
        data: list[Any] = [list(dataset.example.values())] * rows
        return [{"name": spec.name, "datatype": spec.datatype, "shape": [rows, len(dataset.features)], "data": data}]
    return [
        {"name": spec.name, "datatype": spec.datatype, "shape": [rows, 1], "data": [_example(feature)] * rows}
        for spec, feature in zip(input_specs(dataset), dataset.features, strict=True)
    ]


def _example(feature: Feature) -> Value:
    is_text = feature.kind is Kind.BOOLEAN and datatype(feature) == BYTES
    return feature.show(float(feature.example)) if is_text else feature.example


_DATATYPES = {
    Kind.BOOLEAN: "BOOL, BYTES or a number",
    Kind.CATEGORY: BYTES,
    Kind.DATE: BYTES,
    Kind.DATETIME: BYTES,
}


def _column(feature: Feature, tensor: InputTensor) -> Any:
    """The elements of a feature's tensor, encoded, ``[N]``."""
    place = partial(Place, feature.name)
    if feature.numeric:
        return numbers(tensor, place, optional=feature.optional)
    if tensor.datatype == BYTES:
        return _encoded(feature, texts(tensor, place))
    if feature.kind is Kind.BOOLEAN and tensor.datatype == BOOL:
        return _encoded(feature, flags(tensor))
    if feature.kind is Kind.BOOLEAN and tensor.datatype in NUMBERS:
        return numbers(tensor, place, optional=feature.optional)
    raise InvalidInput(
        f"The input {cut(tensor.name)!r} is {cut(tensor.datatype)}; of a {feature.kind} it must be "
        f"{_DATATYPES[feature.kind]}.",
        refused={(feature.name, Reason.WRONG_TYPE): 1},
    )


def _encoded(feature: Feature, values: Sequence[Any]) -> list[float]:
    """Texts or flags, encoded."""
    encode = feature.read if feature.kind is Kind.BOOLEAN else feature.encode
    known: dict[str, float] = {}
    encoded = []
    for index, value in enumerate(values):
        try:
            if not isinstance(value, str):
                encoded.append(encode(value))
                continue
            if value not in known:
                known[value] = encode(value)
            encoded.append(known[value])
        except Refusal as refusal:
            told = "the value" if refusal.reason is Reason.MISSING else shown(value)
            raise Place(feature.name, index).refusal(refusal.reason, f"{told} {refusal}.") from None
    return encoded


def _check_count(count: int) -> None:
    if not count:
        raise InvalidInput("There are no rows: the first dimension of the shape is 0.")
    if count > MAXIMUM_BATCH_ROWS:
        raise InvalidInput(
            f"There are {shown(count)} rows, at most {MAXIMUM_BATCH_ROWS} are taken; send them in several requests."
        )
