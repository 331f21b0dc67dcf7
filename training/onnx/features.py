"""ONNX conversion of ``training/features.py``: the same operations in the same order, so the same bits."""

from typing import Any

import numpy as np
from onnx import TensorProto
from skl2onnx import update_registered_converter
from skl2onnx.common.data_types import DoubleTensorType

from training.features import (
    BoostingRows,
    KindEncoder,
    OptionalRowFeatures,
    RoundingTable,
    RowFeatures,
    SinglePrecision,
)
from training.onnx.graph import Graph


def _row_features(scope: Any, operator: Any, container: Any) -> None:
    graph = Graph(scope, operator, container)
    estimator: RowFeatures = graph.estimator
    rows = _rounded(graph, graph.input, estimator.column_rounding())

    def columns(indices: Any) -> str:
        return graph.node("Gather", [rows, graph.constant(indices)], axis=1)

    derived = []
    rotations, ratios = estimator.rotation_table(), estimator.ratio_table()
    if len(rotations.first):
        along = graph.node("Mul", [columns(rotations.first), graph.constant(rotations.cos)])
        across = graph.node("Mul", [columns(rotations.second), graph.constant(rotations.sin)])
        derived.append(graph.node("Add", [along, across]))
    if len(ratios):
        derived.append(graph.node("Div", [columns(ratios[:, 0]), columns(ratios[:, 1])]))
    if not derived:
        graph.node("Identity", [rows], graph.outputs[0])
        return
    rounded = _rounded(graph, graph.node("Concat", derived, axis=1), estimator.derived_rounding())
    graph.node("Concat", [rows, rounded], graph.outputs[0], axis=1)


def _rounded(graph: Graph, values: str, table: RoundingTable) -> str:
    if not table.rounded.any():
        return values
    scale = graph.constant(table.scale)
    # `Round` takes halves to the even neighbour, as `np.rint` does.
    rounded = graph.node("Div", [graph.node("Round", [graph.node("Mul", [values, scale])]), scale])
    return rounded if table.rounded.all() else graph.node("Where", [graph.constant(table.rounded), rounded, values])


def _single_precision(scope: Any, operator: Any, container: Any) -> None:
    graph = Graph(scope, operator, container)
    single = graph.node("Cast", [graph.input], to=TensorProto.FLOAT)
    graph.node("Cast", [single], graph.outputs[0], to=TensorProto.DOUBLE)


def _boosting_rows(scope: Any, operator: Any, container: Any) -> None:
    graph = Graph(scope, operator, container)
    # Nothing to do: the trees behind this step treat categories that they never saw as missing, as it does, and split
    # nothing by a column that was all zeros.
    graph.node("Identity", [graph.input], graph.outputs[0])


def _kinds(scope: Any, operator: Any, container: Any) -> None:
    graph = Graph(scope, operator, container)
    estimator: KindEncoder = graph.estimator
    missing = graph.node("IsNaN", [graph.input])
    filled = graph.node("Where", [missing, graph.constant(estimator.instead_), graph.input])

    def columns(rows: str, indices: Any) -> str:
        return graph.node("Gather", [rows, graph.constant(np.asarray(indices, dtype=np.int64))], axis=1)

    parts = []
    if len(kept := estimator.kept_columns()):
        parts.append(columns(filled, kept))
    if len(estimator.optional):
        parts.append(graph.node("Cast", [columns(missing, estimator.optional)], to=TensorProto.DOUBLE))
    if len(estimator.code_):
        is_code = graph.node("Equal", [columns(filled, estimator.code_column_), graph.constant(estimator.code_)])
        parts.append(graph.node("Cast", [is_code], to=TensorProto.DOUBLE))
    graph.node("Concat", parts, graph.outputs[0], axis=1)


def _shape(operator: Any) -> None:
    columns = len(operator.raw_operator.get_feature_names_out())
    operator.outputs[0].type = DoubleTensorType([operator.inputs[0].get_first_dimension(), columns])


def register() -> None:
    """Register these converters with skl2onnx. Calling it again has no effect."""
    for transformer, convert in (
        (RowFeatures, _row_features),
        (OptionalRowFeatures, _row_features),
        (BoostingRows, _boosting_rows),
        (KindEncoder, _kinds),
        (SinglePrecision, _single_precision),
    ):
        update_registered_converter(transformer, transformer.__name__, _shape, convert)
