"""Tiny real models, fitted on rows of the raw data, converted and stored as the pipeline stores its own."""

import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path

import bentoml
import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.linear_model import LogisticRegression, Ridge

from contract.dataset import Dataset, Task
from contract.table import FloatMatrix, Table, check_table
from model.card import (
    CARD_FILE,
    ONNX_FILE,
    REFERENCE_FILE,
    TRAINING_RUN,
    GoldenRow,
    ModelCard,
    OnnxCard,
    TrainingRun,
)
from model.deployed import DEPLOYED_FILE
from model.reference import Reference
from model.session import open_session, output_name, run_session
from serving.models import ARTIFACT_FOLDER
from tests.kinds import models as weights
from training.onnx import export
from training.train import describe_answers

RAW = Path(__file__).parents[2] / "data" / "raw"
ROWS = 400
RUN = TrainingRun(run_id="0" * 32, trained_at=datetime(2026, 1, 1, tzinfo=UTC), git_revision="abc")


@cache
def table(dataset: Dataset) -> Table:
    """Some rows of the raw data."""
    frame = pd.read_csv(RAW / f"{dataset.name}.csv", dtype=str, keep_default_na=False)
    frame = frame.sample(frac=1, random_state=0).head(ROWS)
    return check_table(dataset, {str(name): frame[name].tolist() for name in frame}, maximum_duplicates=ROWS)


@cache
def artifact(dataset: Dataset, estimator: BaseEstimator | None = None) -> tuple[bytes, ModelCard]:
    """A fitted, converted model and its card; a linear one, if no estimator is given.

    Of features that are more than numbers it is the product of ``tests/kinds/models.py``.
    """
    data = table(dataset)
    predict: Callable[[FloatMatrix], FloatMatrix]
    if not dataset.plain:
        onnx = weights.content(dataset)
        predict = partial(run_session, open_session(onnx), output_name(dataset.task))
        card = OnnxCard(sha256=hashlib.sha256(onnx).hexdigest(), opset=18, max_difference=0, tolerance=1e-9)
        algorithm, score = "weights", 0.0
    else:
        if dataset.task is Task.REGRESSION:
            estimator = (estimator or Ridge()).fit(data.features, data.target)
        else:
            estimator = (estimator or LogisticRegression(max_iter=1000)).fit(data.features, data.target.astype(int))
        onnx = export.convert(dataset, estimator)
        predict = export.predictor(dataset, estimator)
        card = export.compare(dataset, onnx, predict, data.features, tolerance=1e-5)
        algorithm, score = type(estimator).__name__, float(estimator.score(data.features, data.target))
    return onnx, ModelCard(
        name=dataset.name,
        task=dataset.task,
        contract_version=dataset.contract_version,
        target=dataset.target.name,
        unit=dataset.target.unit,
        classes=list(dataset.target.classes),
        features=[
            weights.feature_card(dataset, column, data.features[:, column]) for column in range(len(dataset.features))
        ],
        **describe_answers(dataset, predict(data.features)),
        algorithm=algorithm,
        parameters={},
        metrics={"score": score},
        cross_validation={},
        onnx=card,
        reference=reference(dataset, onnx).encode()[1],
        golden=[
            GoldenRow(
                row=dataset.decode(row.tolist()),
                output=predict(row[None])[0].tolist(),
            )
            for row in data.features[:8]
        ],
        training_rows=len(data.target),
        data_sha256="0" * 64,
        libraries={},
    )


def reference(dataset: Dataset, onnx: bytes) -> Reference:
    """The rows that a model was fitted on, with its answers."""
    data = table(dataset)
    outputs = run_session(open_session(onnx), output_name(dataset.task), data.features)
    return Reference(data.features, outputs, data.target)


def expected(dataset: Dataset, rows: FloatMatrix) -> FloatMatrix:
    """What the stored model answers to rows, by onnxruntime itself."""
    import onnxruntime

    session = onnxruntime.InferenceSession(artifact(dataset)[0], providers=["CPUExecutionProvider"])
    # In a multiple of 8 rows, where its kernels give a row the same bits wherever it stands.
    whole = np.resize(rows, (len(rows) + -len(rows) % 8, rows.shape[1]))
    return np.asarray(session.run(None, {"input": whole})[0], dtype=np.float64).reshape(len(whole), -1)[: len(rows)]


def store(
    dataset: Dataset,
    *,
    onnx: bytes | None = None,
    card: ModelCard | None = None,
    estimator: BaseEstimator | None = None,
    run: TrainingRun = RUN,
) -> bentoml.Model:
    """Put a model into the BentoML store of the tests, as its latest version."""
    metadata = {TRAINING_RUN: run.model_dump(mode="json", exclude_none=True)}
    good_onnx, good_card = artifact(dataset, estimator)
    with bentoml.models.create(dataset.name, metadata=metadata) as model:
        folder = Path(model.path_of(ARTIFACT_FOLDER))
        folder.mkdir(parents=True)
        (folder / ONNX_FILE).write_bytes(good_onnx if onnx is None else onnx)
        (folder / CARD_FILE).write_text((card or good_card).model_dump_json())
        (folder / REFERENCE_FILE).write_bytes(reference(dataset, good_onnx).encode()[0])
    return bentoml.models.get(model.tag)


def pin(directory: Path, versions: dict[str, str]) -> None:
    """Write ``deployed.json``, as the pipeline does: other tests put more models into the same store."""
    directory.mkdir(exist_ok=True)
    tags = {name: f"{name}:{version}" for name, version in versions.items()}
    (directory / DEPLOYED_FILE).write_text(json.dumps(tags))
