"""A custom runtime of MLServer: the ONNX session, behind its adaptive batching."""

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from load_tests.benchmark.peers import onnx_model


class OnnxModel(MLModel):
    """Median house values."""

    async def load(self) -> bool:
        """Open the session."""
        self._predict = onnx_model.load()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """A value a row."""
        rows = self.decode(payload.inputs[0], default_codec=NumpyCodec)
        outputs = self._predict(rows).reshape(-1, 1)
        return InferenceResponse(
            model_name=self.name,
            outputs=[NumpyCodec.encode_output(name="predict", payload=outputs)],
        )
