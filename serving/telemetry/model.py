"""Metrics of a model: an observer of its predictions, and of its runner's batches."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from prometheus_client import Counter

from contract import buckets, deciles
from contract.dataset import Dataset, Task
from contract.deciles import DECILES
from contract.errors import OTHER, Reason, Refused
from contract.feature import Kind
from contract.table import FloatMatrix
from serving.telemetry import bulk, series
from serving.telemetry.bulk import observe_all

if TYPE_CHECKING:
    from serving.models import LoadedModel
    from serving.prediction import Prediction


class ModelMetrics:
    """The series of one model in one worker."""

    def __init__(self, dataset: Dataset) -> None:
        name = dataset.name
        self._dataset = dataset
        self._batch_rows = series.BATCH_ROWS.labels(name)
        self._queue_wait = series.QUEUE_WAIT.labels(name)
        self._inference = series.INFERENCE.labels(name)
        self._shed = series.SHED.labels(name)
        self._versions: dict[str, _Version] = {}
        self._noted_rows: list[int] = []
        self._noted_seconds: list[float] = []
        refusals(dataset)

    def serve(self, model: "LoadedModel") -> None:
        """Describe the model that is served from now on, and withdraw the description of the one before."""
        for former in self._versions.values():
            former.withdraw()
        # Two versions: a former one may still be answering its last batches.
        self._versions = dict([*self._versions.items()][-1:])
        self._versions[model.version] = _Version(model)

    def predicted(self, predictions: Sequence["Prediction"]) -> None:
        """Count answered predictions, those of this model."""
        by_version: dict[str, list[Prediction]] = {}
        for prediction in predictions:
            if prediction.model == self._dataset.name:
                by_version.setdefault(prediction.version, []).append(prediction)
        for version, answered in by_version.items():
            rows = np.concatenate([prediction.rows for prediction in answered])
            outputs = np.concatenate([prediction.outputs for prediction in answered])
            if version in self._versions:
                self._versions[version].count(rows, outputs)
            observe_all(self._queue_wait, [prediction.queue_seconds for prediction in answered])
            # Create the series here: before the first prediction its value would be the year 1970.
            series.LAST_PREDICTION.labels(self._dataset.name).set_to_current_time()

    def batch(self, rows: int, seconds: float) -> None:
        """Note a batch that the model has answered: how many rows, in how many seconds."""
        self._noted_rows.append(rows)
        self._noted_seconds.append(seconds)
        bulk.note(self)

    def shed(self) -> None:
        """Count a request that was refused because of the load."""
        self._shed.inc()

    def write(self) -> None:
        """Write the noted batches."""
        rows, self._noted_rows = self._noted_rows, []
        seconds, self._noted_seconds = self._noted_seconds, []
        observe_all(self._batch_rows, rows)
        observe_all(self._inference, seconds)


class _Version:
    """The series of one version: what its card says, and its predictions by the deciles of its training split."""

    def __init__(self, model: "LoadedModel") -> None:
        name, version, card, run = model.dataset.name, model.version, model.card, model.run
        features = model.dataset.features
        self._features = [
            (feature, described.deciles, _counters(series.FEATURE_DECILE, buckets.labels(feature), name, feature.name))
            for feature, described in zip(features, card.features, strict=True)
        ]
        self._outputs = _Values(model) if model.dataset.task is Task.REGRESSION else _Classes(model)
        self._predictions = series.PREDICTIONS.labels(name, version)
        trained_at = run.trained_at.isoformat() if run.trained_at else ""
        info = series.MODEL_INFO.labels(name, version, run.run_id or "", card.algorithm, trained_at)
        info.set(1)
        series.TRAINED.labels(name).set(run.trained_at.timestamp() if run.trained_at else series.WITHDRAWN)
        self._described = [info]
        for metric, value in card.metrics.items():
            gauge = series.TEST_METRIC.labels(name, version, metric)
            gauge.set(value)
            self._described.append(gauge)
        for feature, described in zip(features, card.features, strict=True):
            for bucket, share in zip(buckets.labels(feature), described.decile_shares, strict=True):
                series.FEATURE_REFERENCE.labels(name, feature.name, bucket).set(share)

    def count(self, rows: FloatMatrix, outputs: FloatMatrix) -> None:
        """Count predicted rows ``[N, F]`` and their outputs ``[N, K]``."""
        for (feature, edges, counters), column in zip(self._features, rows.T, strict=True):
            _add(counters, buckets.count(feature, edges, column))
        self._outputs.count(outputs)
        self._predictions.inc(len(rows))

    def withdraw(self) -> None:
        """Withdraw the series that describe this version; see ``series.WITHDRAWN``."""
        for gauge in self._described:
            gauge.set(series.WITHDRAWN)


class _Values:
    """The predictions of a regression model."""

    def __init__(self, model: "LoadedModel") -> None:
        name, card = model.dataset.name, model.card
        self._edges = card.prediction_deciles
        self._deciles = _counters(series.PREDICTION_DECILE, range(DECILES), name)
        self._values = series.predicted_value(name, model.version, tuple(card.prediction_deciles))
        for decile, share in enumerate(card.prediction_decile_shares):
            series.PREDICTION_REFERENCE.labels(name, decile).set(share)

    def count(self, outputs: FloatMatrix) -> None:
        """Count outputs ``[N, 1]``."""
        _add(self._deciles, deciles.count(self._edges, outputs[:, 0]))
        observe_all(self._values, outputs[:, 0])


class _Classes:
    """The predictions of a classification model."""

    def __init__(self, model: "LoadedModel") -> None:
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


_REASONS = {
    Kind.NUMBER: (Reason.MISSING, Reason.NOT_A_NUMBER, Reason.OUT_OF_RANGE),
    Kind.INTEGER: (Reason.MISSING, Reason.NOT_A_NUMBER, Reason.WRONG_TYPE, Reason.OUT_OF_RANGE),
    Kind.BOOLEAN: (Reason.MISSING, Reason.NOT_A_NUMBER, Reason.WRONG_TYPE, Reason.OUT_OF_RANGE),
    Kind.CATEGORY: (Reason.MISSING, Reason.WRONG_TYPE, Reason.UNKNOWN_CATEGORY),
    Kind.DATE: (Reason.MISSING, Reason.WRONG_TYPE, Reason.OUT_OF_RANGE),
    Kind.DATETIME: (Reason.MISSING, Reason.WRONG_TYPE, Reason.OUT_OF_RANGE),
}
"""Why a value may be refused."""


@cache
def refusals(dataset: Dataset) -> Mapping[tuple[str, Reason], Counter]:
    """The counters of refused rows by feature and reason; each starts at 0."""
    found = [(feature.name, reason) for feature in dataset.features for reason in _REASONS[feature.kind]]
    found += [(OTHER, Reason.UNKNOWN_FIELD), (OTHER, Reason.MALFORMED)]
    return {(feature, reason): series.REFUSED.labels(dataset.name, feature, reason) for feature, reason in found}


def count_refused(dataset: Dataset, refused: Refused) -> None:
    """Count the rows of a refused request."""
    counters = refusals(dataset)
    for key, count in refused.items():
        counters.get(key, counters[OTHER, Reason.MALFORMED]).inc(count)


def _counters(metric: Counter, names: Iterable[object], *labels: str) -> list[Counter]:
    """The counters of buckets, by their names."""
    return [metric.labels(*labels, name) for name in names]


def _add(counters: Sequence[Counter], counts: NDArray[np.intp]) -> None:
    for counter, count in zip(counters, counts.tolist(), strict=True):
        if count:
            counter.inc(count)
