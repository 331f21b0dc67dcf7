"""Rows as tensors of the Open Inference Protocol."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from contract.dataset import Dataset
from contract.feature import Feature
from contract.table import FloatMatrix
from model.card import ONNX_INPUT


class Tensor(NamedTuple):
    """A tensor with its elements in JSON, and as raw bytes."""

    name: str
    datatype: str
    shape: list[int]
    data: list[Any]
    raw: bytes


def tensors(dataset: Dataset, rows: FloatMatrix) -> list[Tensor]:
    """Encoded rows ``[N, F]``: one tensor where all features are numbers, else one for each."""
    if dataset.all_numeric:
        return [Tensor(ONNX_INPUT, "FP64", list(rows.shape), rows.tolist(), rows.astype("<f8").tobytes())]
    return [_of_feature(feature, column) for feature, column in zip(dataset.features, rows.T, strict=True)]


def _of_feature(feature: Feature, column: NDArray[np.float64]) -> Tensor:
    if feature.numeric:
        raw = column.astype("<f8").tobytes()
        return Tensor(feature.name, "FP64", [len(column), 1], [*map(feature.decode, column.tolist())], raw)
    texts = ["" if np.isnan(value) else feature.show(value) for value in column.tolist()]
    encoded = [text.encode() for text in texts]
    raw = b"".join(len(text).to_bytes(4, "little") + text for text in encoded)
    return Tensor(feature.name, "BYTES", [len(column), 1], texts, raw)
