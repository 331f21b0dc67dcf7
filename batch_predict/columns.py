"""The columns that batch prediction writes."""

import numpy as np
import pyarrow as pa

from contract.dataset import Dataset, Task
from contract.table import FloatMatrix

REJECTED_SCHEMA = pa.schema(
    [
        ("input_file", pa.string()),
        ("input_row", pa.int64()),
        ("reasons", pa.string()),
        ("record", pa.string()),
    ]
)
"""What goes before the columns of a rejected row: its file and its number there, from 0; a sentence for each broken
rule, with its feature; and the text of a CSV record that has no columns, as it was."""


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
