"""What both transports need from the bundle: models, inference, metadata."""

from collections.abc import Sequence
from typing import Any

from contract.errors import cut
from serving.bundle import Bundle
from serving.errors import NotFound, NotReady
from serving.prediction import Prediction, Predictor
from serving.protocol.codec import EXTENSIONS, PLATFORM, Codec
from serving.protocol.infer_request import InferRequest
from serving.protocol.tensors import OutputTensor
from serving.telemetry.call import Call


class Inference:
    """The bundle, in the terms of the protocol.

    Args:
        bundle: the models of this worker.
        name, version: of the server, for its metadata.
    """

    def __init__(self, bundle: Bundle, name: str, version: str) -> None:
        self.bundle = bundle
        self._name = name
        self._version = version
        self._codecs = {model: Codec(predictor.dataset) for model, predictor in bundle.predictors.items()}

    @property
    def models(self) -> list[str]:
        """The names of the models."""
        return list(self._codecs)

    def predictor(self, model: str, version: str = "") -> Predictor:
        """The predictor of a model.

        Args:
            model: its name.
            version: the version that must be served; "" for any.

        Raises:
            NotFound: there is no such model, or another version is served.
        """
        predictor = self.bundle.predictors.get(model)
        if predictor is None:
            raise NotFound(f"There is no model {cut(model)!r}; there are {', '.join(self._codecs)}.")
        if version:
            predictor.check_version(version)
        return predictor

    def is_ready(self, model: str, version: str = "") -> bool:
        """Whether this model, in this version, takes requests; False if there is no such model."""
        try:
            self.predictor(model, version)
        except NotFound:
            return False
        return self.bundle.ready

    def check_ready(self) -> None:
        """Check that the service takes requests.

        Raises:
            NotReady: the service is shutting down.
        """
        if not self.bundle.ready:
            raise NotReady("The service is shutting down.")

    async def infer(
        self, predictor: Predictor, request: InferRequest, call: Call, version: str = ""
    ) -> tuple[Prediction, Sequence[OutputTensor]]:
        """Predict the rows of a request.

        Returns:
            The prediction, and the outputs asked for, or all of them.

        Raises:
            InvalidInput: a tensor, a value or an output is refused.
            NotFound, Overloaded, NotReady, InferenceFailed, DeadlineExceeded: as ``Predictor.predict`` does.
        """
        codec = self._codecs[predictor.dataset.name]
        codec.check_outputs(request.outputs)
        prediction = await predictor.predict(codec.rows(request.inputs), call, version)
        return prediction, codec.tensors(prediction.outputs, request.outputs)

    def server_metadata(self) -> dict[str, Any]:
        """Name, version and extensions of this server."""
        return {"name": self._name, "version": self._version, "extensions": EXTENSIONS}

    def model_metadata(self, predictor: Predictor) -> dict[str, Any]:
        """Name, versions, platform, inputs and outputs of a model."""
        codec = self._codecs[predictor.dataset.name]
        return {
            "name": predictor.dataset.name,
            "versions": [predictor.version],
            "platform": PLATFORM,
            "inputs": [spec.document() for spec in codec.inputs],
            "outputs": [output.document() for output in codec.outputs.values()],
        }

    def index(self) -> list[dict[str, str]]:
        """All models and their states, as the model repository extension lists them."""
        state = "READY" if self.bundle.ready else "UNAVAILABLE"
        return [
            {"name": name, "version": predictor.version, "state": state, "reason": ""}
            for name, predictor in self.bundle.predictors.items()
        ]
