"""All models of one worker: loaded, warm, each behind its predictor."""

import asyncio
import gc
import logging
import os
import sys
from collections.abc import Mapping
from time import monotonic, perf_counter
from types import MappingProxyType
from typing import Any

from bentoml.models import BentoModel

from contract.dataset import Dataset
from contract.errors import StartupError
from contract.feature import Kind
from serving.batching.turns import Turns
from serving.models import LoadedModel, Spare, find_and_load, no_spare
from serving.prediction import Observers, Predictor
from serving.settings import Settings
from serving.telemetry import bulk

logger = logging.getLogger(__name__)

GC_THRESHOLDS = (10_000, 10, 10)
"""Arguments of ``gc.set_threshold``: new objects per collection, then collections until the next older generation."""
SWITCH_SECONDS = 0.0005
"""Argument of ``sys.setswitchinterval``."""
OPEN_FIELDS = ("name", "version", "task", "contract_version", "target", "unit", "classes")
OPEN_FEATURE_FIELDS = (
    "name", "unit", "description", "minimum", "maximum", "deciles", "kind", "optional", "categories", "unknown"
)  # fmt: skip
"""What ``/models/info`` tells callers without a key, where there are keys: what to send, and what comes back."""


class Bundle:
    """The predictors of one worker, by model name.

    Args:
        models: the models to serve.
        settings: the limits of their runners.

    ``observers`` are told of every prediction of every model.
    """

    def __init__(self, models: Mapping[str, LoadedModel], settings: Settings) -> None:
        self.observers = Observers()
        turns = Turns(settings.MAX_LATENCY_MS, settings.TIMEOUT_SECONDS)
        self.predictors: Mapping[str, Predictor] = MappingProxyType(
            {name: Predictor(model, settings, self.observers, turns) for name, model in models.items()}
        )
        self._opened_at: float | None = None
        self._draining = False

    def __getitem__(self, name: str) -> Predictor:
        return self.predictors[name]

    @property
    def datasets(self) -> list[Dataset]:
        """The datasets whose models are served."""
        return [predictor.dataset for predictor in self.predictors.values()]

    @property
    def opened(self) -> bool:
        """Whether every model is loaded and warm."""
        return self._opened_at is not None

    @property
    def ready(self) -> bool:
        """Whether it was opened, and is not draining."""
        return self.opened and not self._draining

    def warm_up(self) -> None:
        """Warm every model up, then set the heap aside from the garbage collector."""
        for predictor in self.predictors.values():
            predictor.warm_up()
        # A collection that walks BentoML's modules stalls requests for 200 ms and more. They stay loaded, so leave them
        # out.
        gc.collect()
        gc.freeze()
        # A connection has dozens of long-lived objects. With thousands of connections and Python's own thresholds (700,
        # 10, 10), the collector walks all of them twice a second, which takes a quarter of the time.
        gc.set_threshold(*GC_THRESHOLDS)
        # A batch in a thread needs the interpreter lock twice. Beside a busy event loop it would wait 5 ms each time,
        # seem slow, and therefore stay in the thread.
        sys.setswitchinterval(SWITCH_SECONDS)

    def open(self) -> None:
        """Mark the service as ready."""
        self._opened_at = monotonic()

    def drain(self) -> None:
        """Stop being ready. Requests that still arrive are answered."""
        self._draining = True

    async def close(self) -> None:
        """Refuse new requests, finish accepted ones, and tell the observers about the last predictions."""
        self.drain()
        await asyncio.gather(*(predictor.close() for predictor in self.predictors.values()))
        bulk.flush()

    def health(self) -> dict[str, Any]:
        """A summary for people: status, uptime in seconds, the version of each model."""
        # A monotonic clock: the time of day may be set back.
        uptime = 0.0 if self._opened_at is None else monotonic() - self._opened_at
        return {
            "status": "ok" if self.ready else "draining" if self._draining else "starting",
            "uptime_seconds": round(uptime, 1),
            "worker": os.getpid(),
            "models": {name: predictor.version for name, predictor in self.predictors.items()},
        }

    def models_info(self) -> dict[str, Any]:
        """Each model's card without its golden rows, and when it was loaded."""
        return {name: model_info(predictor.model) for name, predictor in self.predictors.items()}


def load_bundle(models: Mapping[Dataset, BentoModel], settings: Settings, spare: Spare = no_spare) -> Bundle:
    """Load and verify the models, and give each a predictor.

    Args:
        models: what to serve.
        settings: where they are, and the limits of their runners.
        spare: what to serve instead of a model that cannot be loaded.

    Raises:
        StartupError: a stored model is damaged or of another contract.
    """
    loaded = {}
    for dataset, reference in models.items():
        started = perf_counter()
        try:
            model = find_and_load(dataset, str(reference.tag), settings.MODELS_DIR, settings.model_keys())
        except StartupError:
            tag = spare(dataset.name)
            if tag is None:
                raise
            model = find_and_load(dataset, tag, settings.MODELS_DIR, settings.model_keys())
        loaded[dataset.name] = model
        milliseconds = round((perf_counter() - started) * 1000)
        fields = {"model": dataset.name, "version": model.version, "duration_ms": milliseconds}
        logger.info("model loaded", extra=fields)
    return Bundle(loaded, settings)


def for_outsiders(info: dict[str, Any]) -> dict[str, Any]:
    """The part of ``model_info`` that outsiders need."""
    told = {field: info[field] for field in OPEN_FIELDS}
    told["features"] = [
        {field: feature[field] for field in OPEN_FEATURE_FIELDS if field in feature} for feature in info["features"]
    ]
    return told


def model_info(model: LoadedModel) -> dict[str, Any]:
    """A model's card without its golden rows, its training run, and when it was loaded, as plain data."""
    card = model.card.model_dump(mode="json", exclude={"golden"})
    for feature, described in zip(model.dataset.features, card["features"], strict=True):
        # The serving code enforces its own range, not the one on the card.
        described |= {"minimum": feature.decode(feature.minimum), "maximum": feature.decode(feature.maximum)}
        if not feature.plain:
            described |= {"kind": feature.kind, "optional": feature.optional}
            # A quantile of dates may lie between two days.
            edges = map(round, described["deciles"]) if feature.kind is Kind.DATE else described["deciles"]
            described["deciles"] = [feature.decode(edge) for edge in edges]
        if feature.vocabulary:
            described |= {"categories": feature.vocabulary, "unknown": feature.unknown}
    card |= model.run.model_dump(mode="json")
    return {"name": model.dataset.name, "version": model.version, "loaded_at": model.loaded_at.isoformat(), **card}
