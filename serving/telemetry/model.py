"""What one model predicts, counted.

A batch is only noted; what was noted is counted in whole arrays and written once a second. So a scrape is at most a
second behind, and a row costs about a microsecond.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from numpy.typing import NDArray
from prometheus_client import Counter

from contract import deciles
from contract.dataset import Dataset, Task
from contract.deciles import DECILES
from contract.errors import OTHER, Reason, Refused
from contract.table import FloatMatrix
from serving.models import LoadedModel
from serving.telemetry import series
from serving.telemetry.bulk import observe_all

FLUSH_SECONDS = 1.0
FLUSH_ROWS = 4096
"""So many rows are counted at once even if the second is not over: it takes under a millisecond."""


class ModelObserver:
    """The series of one model in one worker. It is told of each batch by the model's runner."""

    def __init__(self, model: LoadedModel) -> None:
        name = model.dataset.name
        self._features = [
            (feature.deciles, _counters(series.FEATURE_DECILE, name, feature.name)) for feature in model.card.features
        ]
        self._outputs: _Values | _Classes = _Values(model) if model.dataset.task is Task.REGRESSION else _Classes(model)
        self._predictions = series.PREDICTIONS.labels(name, model.version)
        self._batch_rows = series.BATCH_ROWS.labels(name)
        self._queue_wait = series.QUEUE_WAIT.labels(name)
        self._inference = series.INFERENCE.labels(name)
        self._shed = series.SHED.labels(name)
        self._name = name
        refusals(model.dataset)
        _describe(model)
        self._noted = _Noted()
        self._timer: asyncio.TimerHandle | None = None

    def batch(self, rows: FloatMatrix, outputs: FloatMatrix, waits: Sequence[float], seconds: float) -> None:
        """Note a batch: rows ``[N, F]``, outputs ``[N, K]``, the seconds each request waited, those of the model."""
        noted = self._noted
        noted.rows.append(rows)
        noted.outputs.append(outputs)
        noted.waits.extend(waits)
        noted.seconds.append(seconds)
        noted.count += len(rows)
        if noted.count >= FLUSH_ROWS:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)

    def shed(self) -> None:
        """Count a request that was refused because of the load."""
        self._shed.inc()

    def flush(self) -> None:
        """Count what was noted."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        noted, self._noted = self._noted, _Noted()
        if not noted.count:
            return
        for (edges, counters), column in zip(self._features, np.concatenate(noted.rows).T, strict=True):
            _add(counters, deciles.count(edges, column))
        self._outputs.count(np.concatenate(noted.outputs))
        self._predictions.inc(noted.count)
        observe_all(self._batch_rows, [len(rows) for rows in noted.rows])
        observe_all(self._queue_wait, noted.waits)
        observe_all(self._inference, noted.seconds)
        # Looked up here, so that there is no series before the first prediction: its value would be the year 1970.
        series.LAST_PREDICTION.labels(self._name).set(time.time())


@dataclass
class _Noted:
    """Batches that are not counted yet; ``count`` is of their rows."""

    rows: list[FloatMatrix] = field(default_factory=list)
    outputs: list[FloatMatrix] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    count: int = 0


class _Values:
    """The predictions of a regression model."""

    def __init__(self, model: LoadedModel) -> None:
        name, card = model.dataset.name, model.card
        self._edges = card.prediction_deciles
        self._deciles = _counters(series.PREDICTION_DECILE, name)
        self._values = series.predicted_value(name, card.prediction_deciles)
        for decile, share in enumerate(card.prediction_decile_shares):
            series.PREDICTION_REFERENCE.labels(name, decile).set(share)

    def count(self, outputs: FloatMatrix) -> None:
        """Count outputs ``[N, 1]``."""
        _add(self._deciles, deciles.count(self._edges, outputs[:, 0]))
        observe_all(self._values, outputs[:, 0])


class _Classes:
    """The predictions of a classification model."""

    def __init__(self, model: LoadedModel) -> None:
        name = model.dataset.name
        labels = model.dataset.target.classes
        self._classes = [series.PREDICTED_CLASS.labels(name, label) for label in labels]
        self._confidence = series.CONFIDENCE.labels(name)
        for label in labels:
            series.CLASS_REFERENCE.labels(name, label).set(model.card.class_shares[label])

    def count(self, outputs: FloatMatrix) -> None:
        """Count outputs ``[N, C]``, the probabilities."""
        _add(self._classes, np.bincount(outputs.argmax(axis=1), minlength=len(self._classes)))
        observe_all(self._confidence, outputs.max(axis=1))


@cache
def refusals(dataset: Dataset) -> Mapping[tuple[str, Reason], Counter]:
    """The counters of refused rows by feature and reason, each at 0 from the start on."""
    found = [
        (feature, reason)
        for feature in dataset.feature_names
        for reason in (Reason.MISSING, Reason.NOT_A_NUMBER, Reason.OUT_OF_RANGE)
    ]
    found += [(OTHER, Reason.UNKNOWN_FIELD), (OTHER, Reason.MALFORMED)]
    return {(feature, reason): series.REFUSED.labels(dataset.name, feature, reason) for feature, reason in found}


def count_refused(dataset: Dataset, refused: Refused) -> None:
    """Count the rows of a refused request."""
    counters = refusals(dataset)
    for key, count in refused.items():
        counters.get(key, counters[OTHER, Reason.MALFORMED]).inc(count)


def _describe(model: LoadedModel) -> None:
    name, version, card, run = model.dataset.name, model.version, model.card, model.run
    trained_at = run.trained_at.isoformat() if run.trained_at else ""
    series.MODEL_INFO.labels(name, version, run.run_id or "", card.algorithm, trained_at).set(1)
    if run.trained_at:
        series.TRAINED.labels(name).set(run.trained_at.timestamp())
    for metric, value in card.metrics.items():
        series.TEST_METRIC.labels(name, version, metric).set(value)
    for feature in card.features:
        for decile, share in enumerate(feature.decile_shares):
            series.FEATURE_REFERENCE.labels(name, feature.name, decile).set(share)


def _counters(metric: Counter, *labels: str) -> list[Counter]:
    """The counters of the ten deciles."""
    return [metric.labels(*labels, decile) for decile in range(DECILES)]


def _add(counters: Sequence[Counter], counts: NDArray[np.intp]) -> None:
    for counter, count in zip(counters, counts.tolist(), strict=True):
        if count:
            counter.inc(count)
