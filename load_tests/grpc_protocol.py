"""Requests and answer checks of ``ModelInfer`` (Open Inference Protocol over gRPC), with raw contents."""

import numpy as np
from open_inference.grpc import protocol as pb

from contract.dataset import Dataset
from contract.table import FloatMatrix
from load_tests.answers import check_tensors, well_formed
from load_tests.http_protocols import DTYPES
from model.card import ONNX_INPUT


def infer_request(dataset: Dataset, rows: FloatMatrix) -> pb.ModelInferRequest:
    """One tensor of all features, as raw bytes; ``rows`` is ``[N, F]``."""
    tensor = pb.ModelInferRequest.InferInputTensor(name=ONNX_INPUT, datatype="FP64", shape=rows.shape)
    return pb.ModelInferRequest(
        model_name=dataset.name, inputs=[tensor], raw_input_contents=[rows.astype("<f8").tobytes()]
    )


def check_response(rows: int, response: pb.ModelInferResponse) -> None:
    """Check the answer to ``rows`` good rows.

    Raises:
        WrongAnswer: what is wrong with it.
    """
    with well_formed():
        tensors = [
            (output.name, list(output.shape), np.frombuffer(raw, DTYPES[output.datatype]))
            for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
            if output.datatype in DTYPES
        ]
    check_tensors(tensors, rows)
