"""All models of one worker: loaded, warm, each behind its runner."""

import asyncio
import gc
import logging
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from time import perf_counter
from types import MappingProxyType
from typing import Any

from bentoml.models import BentoModel

from contract.dataset import Dataset
from serving.batching.runner import Runner
from serving.models import LoadedModel, load
from serving.predictions import Predictor
from serving.settings import Settings
from serving.telemetry.model import ModelObserver

logger = logging.getLogger(__name__)


class Bundle:
    """The predictors of one worker, by model name."""

    def __init__(self, predictors: Mapping[str, Predictor]) -> None:
        self.predictors: Mapping[str, Predictor] = MappingProxyType(dict(predictors))
        self._opened_at: datetime | None = None
        self._draining = False
        self._observers: list[ModelObserver] = []

    def __getitem__(self, name: str) -> Predictor:
        return self.predictors[name]

    @property
    def opened(self) -> bool:
        """Every model is loaded and warm, and every port is bound."""
        return self._opened_at is not None

    @property
    def ready(self) -> bool:
        """It was opened, and is not draining."""
        return self.opened and not self._draining

    def warm_up(self) -> None:
        """Warm every model up, then set the heap aside from the garbage collector."""
        for predictor in self.predictors.values():
            predictor.runner.warm_up(predictor.model.artifact.golden_rows)
        # Collecting over the import graph of BentoML stalls requests for 200 ms and more. What is loaded now stays.
        gc.collect()
        gc.freeze()

    def open(self) -> None:
        """Be ready, from now on; and count from now on, for the rows of the warm-up are nobody's."""
        for predictor in self.predictors.values():
            observer = predictor.runner.observer = ModelObserver(predictor.model)
            self._observers.append(observer)
        self._opened_at = datetime.now(UTC)

    def drain(self) -> None:
        """Stop being ready; what comes all the same is still answered."""
        self._draining = True

    async def close(self) -> None:
        """Refuse what comes, finish what was taken."""
        self.drain()
        await asyncio.gather(*(predictor.runner.close() for predictor in self.predictors.values()))
        for observer in self._observers:
            observer.flush()

    def health(self) -> dict[str, Any]:
        """A summary for people: status, uptime in seconds, the version of each model."""
        now = datetime.now(UTC)
        return {
            "status": "ok" if self.ready else "draining" if self._draining else "starting",
            "uptime_seconds": round((now - self._opened_at).total_seconds(), 1) if self._opened_at else 0.0,
            "worker": os.getpid(),
            "models": {name: predictor.model.version for name, predictor in self.predictors.items()},
        }

    def models_info(self) -> dict[str, Any]:
        """Each model's card without its golden rows, and when it was loaded."""
        return {name: _info(predictor.model) for name, predictor in self.predictors.items()}


def load_bundle(models: Mapping[Dataset, BentoModel], settings: Settings) -> Bundle:
    """Load and verify the models and give each a runner.

    Raises:
        StartupError: a stored model is damaged or of another contract.
    """
    predictors = {}
    for dataset, reference in models.items():
        started = perf_counter()
        model = load(dataset, reference.resolve())
        runner = Runner(
            dataset.name,
            model.artifact.outputs,
            max_batch_size=settings.MAX_BATCH_SIZE,
            max_latency_ms=settings.MAX_LATENCY_MS,
            timeout_seconds=settings.TIMEOUT_SECONDS,
        )
        predictors[dataset.name] = Predictor(model, runner)
        milliseconds = round((perf_counter() - started) * 1000)
        fields = {"model": dataset.name, "version": model.version, "duration_ms": milliseconds}
        logger.info("model loaded", extra=fields)
    return Bundle(predictors)


def _info(model: LoadedModel) -> dict[str, Any]:
    card = model.card.model_dump(mode="json", exclude={"golden"})
    ranges = {feature["name"]: feature for feature in model.dataset.describe()}
    for feature in card["features"]:
        # The range that is enforced is the one of the code that serves.
        feature |= {key: ranges[feature["name"]][key] for key in ("minimum", "maximum")}
    card |= model.run.model_dump(mode="json")
    return {"name": model.dataset.name, "version": model.version, "loaded_at": model.loaded_at.isoformat(), **card}
