"""Tiny models over codes for the datasets of the tests' own: a product with weights, missing values counting as -1."""

import hashlib
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from contract import buckets, deciles
from contract.dataset import Dataset, Task
from contract.feature import Kind, Unknown
from contract.table import FloatMatrix
from model.card import CARD_FILE, ONNX_FILE, REFERENCE_FILE, FeatureCard, GoldenRow, ModelCard, OnnxCard, TrainingRun
from model.reference import Reference
from model.session import Artifact, open_session, output_name, run_session
from serving.models import LoadedModel


def rows(dataset: Dataset, count: int, *, seed: int = 0) -> list[dict[str, Any]]:
    """Random rows that hold the contract, as JSON has them; a third of the optional values is missing."""
    random = Random(seed)

    def value(name: int) -> Any:
        feature = dataset.features[name]
        if feature.optional and random.random() < 1 / 3:
            return None
        if feature.kind is Kind.CATEGORY:
            return random.choice([*feature.vocabulary, *(["unheard"] if feature.unknown is Unknown.OTHER else [])])
        if feature.whole:
            return feature.decode(random.randint(int(feature.minimum), int(feature.maximum)))
        return feature.decode(random.uniform(feature.minimum, feature.maximum))

    return [{feature.name: value(column) for column, feature in enumerate(dataset.features)} for _ in range(count)]


def matrix(dataset: Dataset, given: list[dict[str, Any]]) -> FloatMatrix:
    """Rows as JSON has them, encoded, ``[N, F]``."""
    return np.array([[each.encode(row[each.name]) for each in dataset.features] for row in given], dtype=np.float64)


@cache
def content(dataset: Dataset) -> bytes:
    """The ONNX model."""
    low, high = dataset.bounds
    outputs = max(len(dataset.target.classes), 1)
    weights = np.random.default_rng(0).normal(size=(len(low), outputs)) / np.maximum(np.abs(low), np.abs(high))[:, None]
    nodes = [
        helper.make_node("IsNaN", ["input"], ["missing"]),
        helper.make_node("Where", ["missing", "instead", "input"], ["whole"]),
        helper.make_node("MatMul", ["whole", "weights"], ["product"]),
        helper.make_node("Softmax" if dataset.target.classes else "Identity", ["product"], [output_name(dataset.task)]),
    ]
    graph = helper.make_graph(
        nodes,
        dataset.name,
        [helper.make_tensor_value_info("input", TensorProto.DOUBLE, [None, len(low)])],
        [helper.make_tensor_value_info(output_name(dataset.task), TensorProto.DOUBLE, [None, outputs])],
        [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(np.array([-1.0]), "instead")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    serialised: bytes = model.SerializeToString()
    return serialised


def write(directory: Path, dataset: Dataset) -> None:
    """Write an artifact."""
    onnx_content, given = content(dataset), rows(dataset, 300)
    features = matrix(dataset, given)
    outputs = run_session(open_session(onnx_content), output_name(dataset.task), features)
    regression = dataset.task is Task.REGRESSION
    target = outputs[:, 0] if regression else outputs.argmax(axis=1).astype(np.float64)
    reference, described = Reference(features, outputs, target).encode()
    edges = deciles.edges(outputs[:, 0]) if regression else []
    card = ModelCard(
        name=dataset.name,
        task=dataset.task,
        contract_version=dataset.contract_version,
        target=dataset.target.name,
        unit=dataset.target.unit,
        classes=list(dataset.target.classes),
        features=[feature_card(dataset, column, features[:, column]) for column in range(features.shape[1])],
        prediction_deciles=edges,
        prediction_decile_shares=deciles.shares(edges, outputs[:, 0]) if regression else [],
        class_shares=dict(zip(dataset.target.classes, outputs.mean(axis=0).tolist(), strict=not regression)),
        algorithm="weights",
        parameters={},
        metrics={},
        cross_validation={},
        onnx=OnnxCard(sha256=_sha256(onnx_content), opset=18, max_difference=0, tolerance=1e-9),
        reference=described,
        golden=[
            GoldenRow(row=dataset.decode(row), output=output)
            for row, output in zip(features[:8].tolist(), outputs[:8].tolist(), strict=True)
        ],
        training_rows=len(given),
        data_sha256="0" * 64,
        libraries={},
    )
    directory.mkdir(parents=True, exist_ok=True)
    (directory / ONNX_FILE).write_bytes(onnx_content)
    (directory / REFERENCE_FILE).write_bytes(reference)
    (directory / CARD_FILE).write_text(card.model_dump_json())


def load(directory: Path, dataset: Dataset) -> LoadedModel:
    """Write a model, and read and verify it as a worker does."""
    write(directory, dataset)
    run = TrainingRun(run_id="0" * 32)
    return LoadedModel(dataset, Artifact.verified(directory, dataset), "v1", datetime.now(UTC), run)


def feature_card(dataset: Dataset, column: int, values: NDArray[np.float64]) -> FeatureCard:
    """A feature as a card has it."""
    feature = dataset.features[column]
    edges = buckets.edges(feature, values)
    return FeatureCard(
        name=feature.name,
        unit=feature.unit,
        description=feature.description,
        minimum=float(np.nanmin(values)),
        maximum=float(np.nanmax(values)),
        deciles=edges,
        decile_shares=buckets.shares(feature, edges, values),
        mean=float(np.nanmean(values)) if edges else None,
        std=float(np.nanstd(values)) if edges else None,
    )


def _sha256(of: bytes) -> str:
    return hashlib.sha256(of).hexdigest()
