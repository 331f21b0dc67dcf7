"""What is done with one part, in whichever process: read, check, predict, write."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from batch_predict.output import Done, PartFiles, write
from batch_predict.parts import Part, Reader, ReadPart
from batch_predict.source import Layout
from contract.dataset import Dataset, Task
from contract.table import FloatMatrix, check_features, encode_cells, good_rows
from model.session import Artifact

MODEL_ROWS = 4096
"""Rows in one call of the model: few enough to stay in the processor's cache."""

REJECTED_SCHEMA = pa.schema(
    [
        ("input_file", pa.string()),
        ("input_row", pa.int64()),
        ("reasons", pa.string()),
        ("record", pa.string()),
    ]
)
"""The columns in front of a rejected row: its file; its number in the file, from 0; a sentence for each broken rule;
and the text of a CSV record that could not be split into columns."""

PLAIN_NUMBER = r"^-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?$"
"""Text that Arrow and Python read as the same number. The contract reads or refuses all other text."""


@dataclass(frozen=True)
class Job:
    """What a worker must know. ``kept`` names the columns that are passed through."""

    dataset: Dataset
    model_directory: Path
    layout: Layout
    kept: tuple[str, ...]
    files: PartFiles


@dataclass(frozen=True)
class Checked:
    """N rows after the check against the contract.

    ``good`` is the indices of the G valid rows, ``features`` their matrix ``[G, F]``; ``bad`` the indices of the
    others, ``reasons`` a text for each of them, ``counts`` how often each rule was broken, by "feature: rule".
    """

    good: NDArray[np.intp]
    features: FloatMatrix
    bad: NDArray[np.intp]
    reasons: list[str]
    counts: Counter[str]


class PartWorker:
    """Predicts parts of one table: reads, checks, runs the model, writes."""

    def __init__(self, job: Job) -> None:
        """Load the model.

        Raises:
            PipelineError: it cannot be loaded.
        """
        self._job = job
        self._model = Artifact.read(job.model_directory)
        self._reader = Reader(job.layout)

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
    if not read.malformed:
        return broken
    malformed = _table(
        part,
        [one.row for one in read.malformed],
        [one.reason for one in read.malformed],
        [one.text for one in read.malformed],
    )
    return pa.concat_tables([broken, malformed], promote_options="default").sort_by("input_row")


def _table(part: Part, rows: list[int], reasons: list[str], records: Sequence[str | None]) -> pa.Table:
    return pa.table([[part.file.name] * len(rows), rows, reasons, records], schema=REJECTED_SCHEMA)


def check(dataset: Dataset, table: pa.Table, rows: NDArray[np.int64]) -> Checked:
    """Sort the rows of a table into good and bad ones. ``rows`` is the number of each row in its file, ``[N]``.

    Arrow converts whole columns and numpy checks them. Rows that fail there, usually few, are read again by the
    contract, cell by cell, which decides and gives the reasons.
    """
    features = np.empty((len(table), len(dataset.features)), dtype=np.float64)
    unread = np.zeros(len(table), dtype=np.bool_)
    for index, feature in enumerate(dataset.features):
        column = table[feature.name]
        if feature.numeric:
            features[:, index] = _quick_numbers(column)
            if feature.optional:
                # NaN where it is missing, but also where only the contract can read what is there.
                unread |= np.isnan(features[:, index]) & pc.is_valid(column).to_numpy()
        else:
            features[:, index], broken = encode_cells(feature, column.to_pylist(), range(len(table)))
            unread[[violation.row or 0 for violation in broken]] = True
    good = good_rows(dataset, features) & ~unread
    doubtful = np.flatnonzero(~good)
    if not len(doubtful):
        return Checked(np.arange(len(table)), features, doubtful, [], Counter())
    cells = table.select(list(dataset.feature_names)).take(pa.array(doubtful)).to_pydict()
    read, violations = check_features(dataset, cells, rows[doubtful].tolist())
    features[doubtful] = read
    sentences: defaultdict[int | None, list[str]] = defaultdict(list)
    for violation in violations:
        sentences[violation.row].append(violation.message)
    good[doubtful] = [row not in sentences for row in rows[doubtful].tolist()]
    bad = np.flatnonzero(~good)
    return Checked(
        np.flatnonzero(good),
        features[good],
        bad,
        [" ".join(sentences[row]) for row in rows[bad].tolist()],
        Counter(f"{violation.column}: {violation.rule}" for violation in violations),
    )


def _quick_numbers(column: pa.ChunkedArray) -> FloatMatrix:
    """A column as numbers ``[N]``; NaN where there is none, or one that only the contract can read."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        try:
            column = column.cast(pa.float64())
        except pa.ArrowInvalid:
            column = pc.ascii_trim_whitespace(column)
            plain = pc.match_substring_regex(column, PLAIN_NUMBER)
            column = pc.if_else(plain, column, pa.scalar(None, column.type)).cast(pa.float64())
    # Not safe: an integer that float64 cannot hold exactly is rounded, as Python does.
    numbers = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return np.asarray(numbers, dtype=np.float64)


def prediction_columns(dataset: Dataset) -> list[str]:
    """The names of a prediction's columns."""
    if dataset.task is Task.REGRESSION:
        return ["prediction"]
    return ["prediction", "label", "confidence", *(f"probability_{name}" for name in dataset.target.classes)]


def prediction_arrays(dataset: Dataset, outputs: FloatMatrix) -> list[pa.Array]:
    """A model's outputs ``[N, K]`` as the columns of ``prediction_columns``: the numbers that the service answers."""
    if dataset.task is Task.REGRESSION:
        return [pa.array(outputs[:, 0])]
    best = np.argmax(outputs, axis=1)
    labels = pa.array(dataset.target.classes, pa.string()).take(pa.array(best))
    confidence = np.take_along_axis(outputs, best[:, np.newaxis], axis=1)[:, 0]
    return [pa.array(best), labels, pa.array(confidence), *(pa.array(column) for column in outputs.T)]
