"""Tiny datasets, and models of them that are real: a matrix product in ONNX, with the card that belongs to it."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from contract.dataset import Dataset, Target, Task
from contract.row import Row, feature
from contract.table import FloatMatrix
from model.card import (
    CARD_FILE,
    ONNX_FILE,
    ONNX_INPUT,
    PROBABILITIES_OUTPUT,
    REGRESSION_OUTPUT,
    FeatureCard,
    GoldenRow,
    ModelCard,
    OnnxCard,
    ReferenceCard,
)
from training.splits import Split, Splits


class PlotRow(Row):
    size: float = feature(unit="ha", minimum=0, maximum=100, description="Size.", example=1)
    latitude: float = feature(unit="degrees north", minimum=-90, maximum=90, description="Latitude.", example=1)
    longitude: float = feature(unit="degrees east", minimum=-180, maximum=180, description="Longitude.", example=1)


class PebbleRow(Row):
    length: float = feature(unit="mm", minimum=0, maximum=100, description="Length.", example=1)
    width: float = feature(unit="mm", minimum=0, maximum=100, description="Width.", example=1)


PLOTS = Dataset("plots", "Price of a plot of land.", PlotRow, Target("price", "kEUR", "Price of the plot."))
PEBBLES = Dataset(
    "pebbles", "Kind of a pebble.", PebbleRow, Target("kind", "class", "Kind.", classes=("flint", "quartz", "slate"))
)

PLOTS_WEIGHTS = np.array([[2.0], [0.0], [0.0]])
PEBBLES_WEIGHTS = np.array([[-2.0, 0.0, 2.0], [0.0, 0.0, 0.0]])


def splits(dataset: Dataset, rows: int = 120) -> Splits:
    """Price is twice the size plus noise; the kind of a pebble is told by its length alone, almost."""
    random = np.random.default_rng(7)
    if dataset.task is Task.REGRESSION:
        features = np.column_stack(
            [random.uniform(0, 50, rows), random.uniform(50, 55, rows), random.uniform(6, 15, rows)]
        )
        target = 2 * features[:, 0] + random.normal(0, 3, rows)
    else:
        target = np.arange(rows, dtype=np.float64) % 3
        features = np.column_stack([target - 1 + random.normal(0, 0.4, rows), random.uniform(0, 1, rows)])
    cut = rows * 4 // 5
    return Splits(Split(features[:cut], target[:cut]), Split(features[cut:], target[cut:]))


def write_model(
    directory: Path,
    dataset: Dataset,
    weights: FloatMatrix,
    *,
    contract_version: str | None = None,
    data_sha256: str = "d" * 64,
) -> Path:
    """``model.onnx`` and ``card.json`` of a linear model: features times ``weights`` of shape ``[F, outputs]``."""
    directory.mkdir(parents=True, exist_ok=True)
    content = _linear(weights, softmax=dataset.task is Task.CLASSIFICATION)
    (directory / ONNX_FILE).write_bytes(content)
    made = card(
        dataset,
        onnx_sha256=hashlib.sha256(content).hexdigest(),
        contract_version=contract_version or dataset.contract_version,
        data_sha256=data_sha256,
    )
    (directory / CARD_FILE).write_text(made.model_dump_json(), encoding="utf-8")
    return directory


def card(
    dataset: Dataset,
    *,
    onnx_sha256: str = "0" * 64,
    contract_version: str = "c0ffee",
    data_sha256: str = "d" * 64,
    algorithm: str = "linear",
    golden: Sequence[GoldenRow] = (),
) -> ModelCard:
    regression = dataset.task is Task.REGRESSION
    metric = "rmse" if regression else "accuracy"
    return ModelCard(
        name=dataset.name,
        task=dataset.task,
        contract_version=contract_version,
        target=dataset.target.name,
        unit=dataset.target.unit,
        classes=list(dataset.target.classes),
        # As if the training rows were spread over the plausible ranges.
        features=[
            FeatureCard(
                name=one.name,
                unit=one.unit,
                description=one.description,
                minimum=one.minimum,
                maximum=one.maximum,
                deciles=np.linspace(one.minimum, one.maximum, 11).tolist(),
                decile_shares=[0.1] * 10,
                mean=1,
                std=1,
            )
            for one in dataset.features
        ],
        prediction_deciles=[float(edge) for edge in range(11)] if regression else [],
        prediction_decile_shares=[0.1] * 10 if regression else [],
        class_shares=dict.fromkeys(dataset.target.classes, 0.25),
        algorithm=algorithm,
        parameters={"alpha": 1.0},
        metrics={},
        cross_validation={metric: (0.75, 0.125)},
        onnx=OnnxCard(sha256=onnx_sha256, opset=21, max_difference=1e-9, tolerance=1e-6),
        reference=ReferenceCard(rows=96, sha256="1" * 64),
        golden=list(golden),
        training_rows=96,
        data_sha256=data_sha256,
        libraries={},
    )


def _linear(weights: FloatMatrix, *, softmax: bool) -> bytes:
    inputs, outputs = weights.shape
    nodes = [helper.make_node("MatMul", [ONNX_INPUT, "weights"], ["product" if softmax else REGRESSION_OUTPUT])]
    kind, name = TensorProto.DOUBLE, REGRESSION_OUTPUT
    if softmax:
        # In single precision, as the classifiers of skl2onnx answer: rows add up to 1 only nearly.
        kind, name = TensorProto.FLOAT, PROBABILITIES_OUTPUT
        nodes.append(helper.make_node("Cast", ["product"], ["single"], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("Softmax", ["single"], [PROBABILITIES_OUTPUT], axis=1))
    shape: Sequence[str | int] = ["N", inputs]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info(ONNX_INPUT, TensorProto.DOUBLE, shape)],
        [helper.make_tensor_value_info(name, kind, ["N", outputs])],
        [numpy_helper.from_array(weights.astype(np.float64), "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    return bytes(model.SerializeToString())
