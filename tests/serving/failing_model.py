"""A model of Iris that is fine until it is given more rows than it has places for: then onnxruntime raises."""

import hashlib

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from contract.datasets.iris import IRIS
from model.card import ONNX_INPUT, PROBABILITIES_OUTPUT, GoldenRow, ModelCard
from tests.serving import tiny_models

PLACES = 1000
"""The most rows of a batch that it answers."""


def artifact() -> tuple[bytes, ModelCard]:
    """Equal probabilities for every row, and the card that belongs to it."""
    constants = {
        "zero": np.zeros((len(IRIS.features), 3)),
        "places": np.zeros(PLACES),
        "start": np.array(0, dtype=np.int64),
        "step": np.array(1, dtype=np.int64),
        "axis": np.array([1], dtype=np.int64),
    }
    nodes = [
        helper.make_node("MatMul", [ONNX_INPUT, "zero"], ["logits"]),
        helper.make_node("Shape", [ONNX_INPUT], ["shape"]),
        helper.make_node("Gather", ["shape", "start"], ["rows"]),
        helper.make_node("Range", ["start", "rows", "step"], ["index"]),
        helper.make_node("Gather", ["places", "index"], ["placed"]),
        helper.make_node("Unsqueeze", ["placed", "axis"], ["column"]),
        helper.make_node("Add", ["logits", "column"], ["sum"]),
        helper.make_node("Softmax", ["sum"], [PROBABILITIES_OUTPUT], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "failing",
        [helper.make_tensor_value_info(ONNX_INPUT, TensorProto.DOUBLE, ["N", len(IRIS.features)])],
        [helper.make_tensor_value_info(PROBABILITIES_OUTPUT, TensorProto.DOUBLE, ["N", 3])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10).SerializeToString()
    card = tiny_models.artifact(IRIS)[1]
    return content, card.model_copy(
        update={
            "onnx": card.onnx.model_copy(update={"sha256": hashlib.sha256(content).hexdigest()}),
            "golden": [GoldenRow(row=one.row, output=[1 / 3] * 3) for one in card.golden],
        }
    )
