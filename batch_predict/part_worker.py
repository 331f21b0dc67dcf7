"""What is done with one part, wherever it is done."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from batch_predict.checking import Checked, check
from batch_predict.columns import REJECTED_SCHEMA, prediction_arrays, prediction_columns
from batch_predict.output import Done, PartFiles
from batch_predict.plan import Part
from batch_predict.reading import Reader, ReadPart
from batch_predict.source import Format
from batch_predict.writing import write
from contract.dataset import Dataset
from contract.table import FloatMatrix
from model.session import Artifact

MODEL_ROWS = 4096
"""Rows that the model gets at once: its memory does not grow with the part, and stays in the processor's cache."""


@dataclass(frozen=True)
class Job:
    """What a worker must know, in any process: ``kept`` names the input's columns that the output has too."""

    dataset: Dataset
    model_directory: Path
    source_format: Format
    schema: pa.Schema
    kept: tuple[str, ...]
    files: PartFiles


class PartWorker:
    """Predicts parts of one table: reads, checks, runs the model, writes."""

    def __init__(self, job: Job) -> None:
        """Load the model.

        Raises:
            PipelineError: it cannot be loaded.
        """
        self._job = job
        self._model = Artifact.read(job.model_directory)
        self._reader = Reader(job.source_format, job.schema)

    def predict(self, part: Part) -> Done:
        """Write a part's predictions, and its rejected rows if there are any.

        Raises:
            OSError, pyarrow.ArrowException: a file cannot be read or written.
        """
        job, target = self._job, self._job.files
        read = self._reader.read(part)
        checked = check(job.dataset, read.table, read.rows)
        outputs = predict_rows(self._model, checked.features)
        arrays = prediction_arrays(job.dataset, outputs)
        kept = read.table.select(list(job.kept)).take(pa.array(checked.good))
        predictions = pa.table([*kept.columns, *arrays], names=[*kept.column_names, *prediction_columns(job.dataset)])
        rejected = rejected_rows(part, read, checked)
        if len(rejected):
            with target.written(target.rejected(part.number)) as partial:
                write(rejected, partial, target.format)
        with target.written(target.predictions(part.number)) as partial:
            write(predictions, partial, target.format)
        malformed = {"record: malformed": len(read.malformed)} if read.malformed else {}
        done = Done(
            rows=len(predictions),
            rejected=len(rejected),
            broken_rules=dict(sorted({**checked.counts, **malformed}.items())),
            bytes=target.predictions(part.number).stat().st_size,
        )
        target.finish(part.number, done)
        return done


def predict_rows(model: Artifact, features: FloatMatrix) -> FloatMatrix:
    """The service's answers ``[N, K]`` to rows ``[N, F]``, N from 0."""
    parts = [model.outputs(features[start : start + MODEL_ROWS]) for start in range(0, len(features), MODEL_ROWS)]
    return np.concatenate(parts) if parts else np.empty((0, max(len(model.card.classes), 1)))


def rejected_rows(part: Part, read: ReadPart, checked: Checked) -> pa.Table:
    """The rows that were not predicted, in their order, with the reasons and all of their columns as they were."""
    bad = read.table.take(pa.array(checked.bad))
    broken = _table(part, read.rows[checked.bad].tolist(), checked.reasons, [None] * len(bad))
    for name in bad.column_names:
        broken = broken.append_column(bad.schema.field(name), bad[name])
    malformed = _table(
        part,
        [one.row for one in read.malformed],
        [one.reason for one in read.malformed],
        [one.record for one in read.malformed],
    )
    both = pa.concat_tables([broken, malformed], promote_options="default")
    return both.sort_by("input_row") if read.malformed else both


def _table(part: Part, rows: list[int], reasons: list[str], records: Sequence[str | None]) -> pa.Table:
    return pa.table([[part.file] * len(rows), rows, reasons, records], schema=REJECTED_SCHEMA)
