"""This service with uvicorn's own protocol class in place of the guard: no door, and no limits but those of bodies."""

from uvicorn import config

from service import PredictionService

__all__ = ["PredictionService"]

# `service.py` has put the guard there. BentoML's worker reads it when it has imported the service.
config.HTTP_PROTOCOLS["auto"] = "uvicorn.protocols.http.httptools_impl:HttpToolsProtocol"
