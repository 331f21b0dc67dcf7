"""Batch prediction with tiny models, without a registry between."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from batch_predict import run
from batch_predict.output import Done
from batch_predict.run import Options
from batch_predict.source import Format
from contract.dataset import Dataset
from model.card import CARD_FILE, GoldenRow, ModelCard
from model.session import Artifact
from tests.training.tiny_models import PEBBLES, PEBBLES_WEIGHTS, PLOTS, PLOTS_WEIGHTS, write_model
from training import tracking
from training.tracking import RegisteredModel


class Predict:
    """Predicts with the models of a folder, which stands in for the registry's artifacts."""

    def __init__(self, models: Path) -> None:
        self.models = models

    def __call__(self, dataset: Dataset, source: Path, target: Path, settings: Options, version: str = "1") -> Done:
        registered = RegisteredModel(dataset.name, version, "run", f"models:/{dataset.name}/{version}")
        return run.predict(dataset, registered, source, target, settings)


@pytest.fixture
def predict(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Predict:
    models = tmp_path_factory.mktemp("models")

    def download(model: RegisteredModel, destination: Path) -> Path:
        return write(model.name, destination)

    def write(name: str, directory: Path) -> Path:
        dataset, weights = {"plots": (PLOTS, PLOTS_WEIGHTS), "pebbles": (PEBBLES, PEBBLES_WEIGHTS)}[name]
        write_model(directory, dataset, weights)
        _complete(directory, dataset)
        return directory

    for name in ("plots", "pebbles"):
        write(name, models / name)
    monkeypatch.setattr(tracking, "download", download)
    return Predict(models)


def _complete(directory: Path, dataset: Dataset) -> None:
    """Add golden rows to a card."""
    path = directory / CARD_FILE
    card = ModelCard.model_validate_json(path.read_bytes())
    rows = np.linspace(*dataset.bounds, 3)
    outputs = Artifact.read(directory).outputs(rows)
    golden = [
        GoldenRow(row=dict(zip(dataset.feature_names, row, strict=True)), output=output)
        for row, output in zip(rows.tolist(), outputs.tolist(), strict=True)
    ]
    path.write_text(card.model_copy(update={"golden": golden}).model_dump_json())


def write(table: pa.Table, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        pyarrow.csv.write_csv(table, path)
    else:
        pq.write_table(table, path)
    return path


def read(path: Path, table_format: Format) -> pa.Table:
    """A file, or the parts of a folder, whose text is left as it is."""
    files = [path] if path.is_file() else sorted(path.glob(f"part-*.{table_format}"))
    if table_format is Format.PARQUET:
        return pa.concat_tables([pq.read_table(file) for file in files])
    as_text = dict.fromkeys(["id", "size"], pa.string())
    options = pyarrow.csv.ConvertOptions(column_types=as_text)
    return pa.concat_tables([pyarrow.csv.read_csv(file, convert_options=options) for file in files])
