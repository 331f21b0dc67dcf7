"""LitServe: its batching, its ZeroMQ queue, and the ONNX session."""

import os
from collections.abc import Sequence

import litserve
import numpy as np

from contract.datasets.housing import HOUSING
from load_tests.benchmark.peers import onnx_model


class Housing(litserve.LitAPI):
    """Median house values: a request is a list of rows."""

    def setup(self, device: str) -> None:  # noqa: ARG002 # LitServe's signature
        """Open the session."""
        self.model = onnx_model.load()

    def decode_request(self, request: HOUSING.rows) -> np.ndarray:
        """The rows of one request."""
        return HOUSING.matrix(request.rows)

    def batch(self, inputs: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        """Requests differ in their rows: ``predict`` joins them."""
        return inputs

    def predict(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """One call of the model for all requests of a batch."""
        ends = np.cumsum([len(rows) for rows in inputs])[:-1]
        return np.split(self.model(np.concatenate(inputs)), ends)

    def unbatch(self, output: list[np.ndarray]) -> list[np.ndarray]:
        """The values of each request."""
        return output

    def encode_response(self, output: np.ndarray) -> list[float]:
        """A value a row."""
        return output.tolist()


if __name__ == "__main__":
    workers = int(os.environ["WORKERS"])
    api = Housing(max_batch_size=64, batch_timeout=0.002, api_path="/predict/housing/batch")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=workers, fast_queue=True)
    server.run(
        host="127.0.0.1",
        port=int(os.environ["PORT"]),
        num_api_servers=workers,
        log_level="warning",
        generate_client_file=False,
        access_log=False,
    )
