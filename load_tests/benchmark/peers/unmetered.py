"""Our service without the series of its requests and models: shows what they cost. It is no way to run it."""

from typing import Any

from serving.telemetry.calls import Calls
from serving.telemetry.model import ModelObserver


def _nothing(*_: Any) -> None:
    pass


for kind, method in ((Calls, "begin"), (Calls, "end"), (ModelObserver, "batch")):
    setattr(kind, method, _nothing)

from service import PredictionService  # noqa: E402 - what it imports must find them gone

__all__ = ["PredictionService"]
