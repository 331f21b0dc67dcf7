"""What both transports need from the bundle: models, inference, metadata."""

from collections.abc import Sequence
from typing import Any

from contract.errors import NotFound, NotReady
from serving.bundle import Bundle
from serving.predictions import Predictor
from serving.protocol.codec import EXTENSIONS, PLATFORM, Codec
from serving.protocol.tensors import InputTensor, OutputTensor


class Inference:
    """The bundle, in the protocol's terms."""

    def __init__(self, bundle: Bundle, name: str, version: str) -> None:
        self.bundle = bundle
        self._name = name
        self._version = version
        self._codecs = {model: Codec(predictor.model.dataset) for model, predictor in bundle.predictors.items()}

    @property
    def models(self) -> list[str]:
        """The names of the models."""
        return list(self._codecs)

    def predictor(self, model: str, version: str = "") -> Predictor:
        """The predictor of a model; an empty version means the one that is served.

        Raises:
            NotFound: no such model or version is served.
        """
        predictor = self.bundle.predictors.get(model)
        if predictor is None:
            raise NotFound(f"There is no model {model[:60]!r}; there are {', '.join(self._codecs)}.")
        served = predictor.model.version
        if version not in {"", served}:
            raise NotFound(f"The model {model} is served in version {served}, not {version[:60]!r}.")
        return predictor

    def check_started(self) -> None:
        """Refuse requests before the models are warm and the ports are bound.

        Raises:
            NotReady: the service is starting.
        """
        if not self.bundle.opened:
            raise NotReady("The service is starting; try again in a moment.")

    def check_ready(self) -> None:
        """Check that the service takes requests.

        Raises:
            NotReady: the service is starting or shutting down.
        """
        self.check_started()
        if not self.bundle.ready:
            raise NotReady("The service is shutting down.")

    async def infer(
        self, predictor: Predictor, tensors: Sequence[InputTensor], outputs: Sequence[str]
    ) -> list[OutputTensor]:
        """The outputs asked for, or all of them. Rows of concurrent callers share a batch.

        Raises:
            InvalidInput: a tensor, a value or an output is refused.
            Overloaded, NotReady, InferenceFailed, DeadlineExceeded: from the runner.
        """
        codec = self._codecs[predictor.model.dataset.name]
        codec.check_outputs(outputs)
        rows = codec.rows(tensors)
        return codec.tensors(await predictor.runner.run(rows), outputs)

    def server_metadata(self) -> dict[str, Any]:
        """Name, version and extensions of this server."""
        return {"name": self._name, "version": self._version, "extensions": EXTENSIONS}

    def model_metadata(self, predictor: Predictor) -> dict[str, Any]:
        """Name, versions, platform, inputs and outputs of a model."""
        codec = self._codecs[predictor.model.dataset.name]
        return {
            "name": predictor.model.dataset.name,
            "versions": [predictor.model.version],
            "platform": PLATFORM,
            "inputs": [codec.input.document()],
            "outputs": [output.document() for output in codec.outputs.values()],
        }

    def index(self) -> list[dict[str, str]]:
        """All models and their states, as the model repository extension lists them."""
        state = "READY" if self.bundle.ready else "UNAVAILABLE"
        return [
            {"name": name, "version": predictor.model.version, "state": state, "reason": ""}
            for name, predictor in self.bundle.predictors.items()
        ]
