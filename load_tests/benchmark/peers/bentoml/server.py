"""BentoML's own adaptive batching: ``batchable=True``, and the ONNX session."""

import os

import bentoml

from contract.datasets.housing import HOUSING, HousingRow
from load_tests.benchmark.peers import onnx_model


@bentoml.service(
    workers=int(os.environ["WORKERS"]),
    # As in our own service: lines and spans for each request are off.
    logging={"access": {"enabled": False}},
    tracing={"excluded_urls": ".*"},
)
class Housing:
    """Median house values."""

    def __init__(self) -> None:
        self.model = onnx_model.load()

    @bentoml.api(batchable=True, max_batch_size=512, route="/predict/housing/batch")
    def predict(self, rows: list[HousingRow]) -> list[float]:
        """A value a row; BentoML joins the lists of several requests."""
        return self.model(HOUSING.matrix(rows)).tolist()
