"""Requests and answer checks of ``ModelInfer`` (Open Inference Protocol over gRPC), with raw contents."""

import numpy as np
from open_inference.grpc import protocol as pb

from contract.dataset import Dataset
from contract.table import FloatMatrix
from load_tests.answers import check_tensors, well_formed
from load_tests.http_protocols import DTYPES
from load_tests.tensors import tensors

METHOD = "/inference.GRPCInferenceService/ModelInfer"
"""The path of ``ModelInfer``."""


def infer_request(dataset: Dataset, rows: FloatMatrix) -> pb.ModelInferRequest:
    """One tensor of all features, or one for each, as raw bytes; ``rows`` is ``[N, F]``."""
    sent = tensors(dataset, rows)
    inputs = [
        pb.ModelInferRequest.InferInputTensor(name=one.name, datatype=one.datatype, shape=one.shape) for one in sent
    ]
    return pb.ModelInferRequest(model_name=dataset.name, inputs=inputs, raw_input_contents=[one.raw for one in sent])


def check_response(rows: int, response: pb.ModelInferResponse) -> None:
    """Check the answer to ``rows`` good rows.

    Raises:
        WrongAnswer: what is wrong with it.
    """
    with well_formed():
        found = [
            (output.name, list(output.shape), np.frombuffer(raw, DTYPES[output.datatype]))
            for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
            if output.datatype in DTYPES
        ]
    check_tensors(found, rows)
