"""A custom runtime of MLServer that takes data frames, as its pandas codec reads them, behind its adaptive batching."""

import json
import os
from pathlib import Path

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec, PandasCodec
from mlserver.types import InferenceRequest, InferenceResponse

from load_tests.benchmark.peers import onnx_model


class FrameModel(MLModel):
    """Values of a table with numbers and categories."""

    async def load(self) -> bool:
        """Open the session, and read which column is what: by name, its categories, or null for a number."""
        self._predict = onnx_model.load()
        columns = json.loads(Path(os.environ["BENCHMARK_COLUMNS"]).read_text())
        self._codes = {
            name: None if categories is None else {category: float(code) for code, category in enumerate(categories)}
            for name, categories in columns.items()
        }
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """A value a row."""
        frame = self.decode_request(payload, default_codec=PandasCodec)
        columns = [frame[name] if codes is None else frame[name].map(codes) for name, codes in self._codes.items()]
        outputs = self._predict(np.column_stack(columns).astype(np.float64)).reshape(-1, 1)
        return InferenceResponse(
            model_name=self.name,
            outputs=[NumpyCodec.encode_output(name="predict", payload=outputs)],
        )
