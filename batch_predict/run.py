"""One run: a table, a model, and where the predictions go."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from batch_predict import cluster, model_name, plan, processes, source
from batch_predict.output import Done, Output
from batch_predict.part_worker import Job
from batch_predict.progress import RowProgress
from batch_predict.source import Format, Source
from contract.dataset import Dataset
from contract.errors import PipelineError
from model.card import ModelCard
from model.session import Artifact
from training import console, tracking
from training.tracking import RegisteredModel


@dataclass(frozen=True)
class Settings:
    """How a run goes.

    ``output_format`` None: that of the target's name, or the input's. ``all_columns``: the features are in the output
    too. ``ray``: the address of a cluster, which works instead of ``processes`` of this machine. ``restart``: what
    another run left in the target is replaced.
    """

    output_format: Format | None = None
    all_columns: bool = False
    part_rows: int = plan.PART_ROWS
    processes: int = os.cpu_count() or 1
    ray: str | None = None
    restart: bool = False


def predict_table(table: Path, target: Path, model: str, settings: Settings) -> Done:
    """Predict every row of a table.

    Args:
        table: a Parquet or CSV file, or a folder of such files.
        target: a file, if its name ends in .parquet or .csv, else a folder.
        model: as ``model_name.find`` reads it.
        settings: of the run.

    Raises:
        PipelineError: with what to do next.
    """
    dataset, registered = model_name.find(model)
    return predict(dataset, registered, table, target, settings)


def predict(dataset: Dataset, registered: RegisteredModel, table: Path, target: Path, settings: Settings) -> Done:
    """As ``predict_table``, with a dataset and a version of its model."""
    rows = source.find(table)
    source.check(rows, dataset)
    _refuse_itself(table, target)
    output = _output(target, rows, settings)
    kept = tuple(rows.schema.names if settings.all_columns else rows.extra_columns(dataset))
    if output.files.format is Format.CSV:
        _refuse_nested(rows, kept)
    identity = _identity(dataset, registered, rows, output, settings)
    with output.locked():
        if output.begin(identity, restart=settings.restart):
            done = output.finished()
            console.log.info("%s is complete, nothing is left to do: %s", target, _told(done))
            return done
        tracking.download(registered, output.model_directory)
        _check_model(dataset, registered, output.model_directory)
        with console.step(f"{dataset.name}: cut {table} into parts"):
            parts = plan.parts(rows, settings.part_rows)
        job = Job(dataset, output.model_directory, rows.format, rows.schema, kept, output.files)
        finished = {part.number for part in parts if output.files.done(part.number) is not None}
        todo = [part for part in parts if part.number not in finished]
        before = sum(part.rows for part in parts if part.number in finished)
        console.log.info(
            "%s: %s rows in %d parts, %d of them are done",
            dataset.name,
            f"{sum(p.rows for p in parts):,}",
            len(parts),
            len(finished),
        )
        work = (
            partial(processes.run, job, todo, settings.processes)
            if settings.ray is None
            else partial(cluster.run, job, todo, settings.ray)
        )
        with RowProgress(sum(part.rows for part in parts), before) as progress:
            if todo:
                work(lambda part: progress.advance(part.rows + part.rejected))
        done = output.finish(identity, len(parts))
        console.log.info("%s: %s; %s rows/s", target, _told(done), f"{progress.rate:,.0f}")
        if done.rejected:
            rules = ", ".join(f"{rule} {count:,}" for rule, count in done.broken_rules.items())
            console.log.warning("Rejected rows and their reasons are in %s (%s).", output.rejected, rules)
        return done


def _output(target: Path, rows: Source, settings: Settings) -> Output:
    suffix = target.suffix.lower().removeprefix(".")
    single_file = suffix in set(Format) and not target.is_dir()
    if single_file and settings.output_format not in (None, suffix):
        raise PipelineError(f"{target} and --format {settings.output_format} contradict each other: leave one out.")
    table_format = Format(suffix) if single_file else settings.output_format or rows.format
    return Output(target, table_format, single_file=single_file)


def _identity(
    dataset: Dataset, registered: RegisteredModel, rows: Source, output: Output, settings: Settings
) -> dict[str, Any]:
    return {
        "model": f"{registered.name}@{registered.version} of run {registered.run_id}",
        "input": [f"{file.name}, {file.size} bytes, modified {file.modified_ns}" for file in rows.files],
        "settings": {
            "format": output.files.format,
            "all_columns": settings.all_columns,
            "part_rows": settings.part_rows,
        },
        "contract": {feature.name: [feature.minimum, feature.maximum] for feature in dataset.features},
        "libraries": {name: version(name) for name in ("onnxruntime", "pyarrow")},
    }


def _refuse_itself(table: Path, target: Path) -> None:
    inside, outside = target.resolve(), table.resolve()
    if inside == outside or outside in inside.parents:
        raise PipelineError(f"{target} is the input, or in it: name an output outside of {table}.")


def _refuse_nested(rows: Source, kept: tuple[str, ...]) -> None:
    for name in kept:
        kind = rows.schema.field(name).type
        if pa.types.is_nested(kind):
            raise PipelineError(
                f"The column {name} is of type {kind}, which CSV has no form for: use --format parquet."
            )


def _check_model(dataset: Dataset, registered: RegisteredModel, directory: Path) -> None:
    model = Artifact.read(directory)
    card: ModelCard = model.card
    again = "Run `make train` to train it anew, or check out the code it was trained with."
    if card.contract_version != dataset.contract_version:
        raise PipelineError(
            f"{registered.model_uri} was trained under contract {card.contract_version}, this code has "
            f"{dataset.contract_version}: its features, units or classes changed. {again}"
        )
    if not card.golden:
        return
    golden: list[Mapping[str, float]] = [one.row for one in card.golden]
    features = np.array([[row[name] for name in dataset.feature_names] for row in golden])
    difference = np.abs(model.outputs(features) - np.array([one.output for one in card.golden])).max()
    if not difference <= card.onnx.tolerance:
        raise PipelineError(
            f"{registered.model_uri} is damaged: its golden rows are off by {difference:g}, over "
            f"{card.onnx.tolerance:g}. {again}"
        )


def _told(done: Done) -> str:
    return f"{done.rows:,} rows predicted, {done.rejected:,} rejected"
