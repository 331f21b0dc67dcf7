"""Our service without the series of its requests and models: shows what they cost. Only for the benchmark."""

from typing import Any

from serving.prediction import Observers
from serving.telemetry.call import CallCounter
from serving.telemetry.model import ModelMetrics


def _nothing(*_: Any) -> None:
    pass


for kind, method in ((CallCounter, "begin"), (CallCounter, "end"), (ModelMetrics, "batch"), (Observers, "note")):
    setattr(kind, method, _nothing)

from service import PredictionService  # noqa: E402 - what it imports must find them gone

__all__ = ["PredictionService"]
