"""ONNX conversion of ``training/features.py``: the same operations in the same order, so the same bits."""

from typing import Any

from onnx import TensorProto
from skl2onnx import update_registered_converter
from skl2onnx.common.data_types import DoubleTensorType

from training.features import RoundingTable, RowFeatures, SinglePrecision
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


def _shape(operator: Any) -> None:
    columns = len(operator.raw_operator.get_feature_names_out())
    operator.outputs[0].type = DoubleTensorType([operator.inputs[0].get_first_dimension(), columns])


def register() -> None:
    """Register these converters with skl2onnx. Calling it again has no effect."""
    update_registered_converter(RowFeatures, "RowFeatures", _shape, _row_features)
    update_registered_converter(SinglePrecision, "SinglePrecision", _shape, _single_precision)
