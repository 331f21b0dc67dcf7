"""A model as it is served: ``model.onnx`` and ``card.json`` of one directory, run by onnxruntime."""

import hashlib
from functools import cached_property
from pathlib import Path

import numpy as np
import onnxruntime
import pydantic
from numpy.typing import NDArray
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidGraph, InvalidProtobuf

from contract.card import CARD_FILE, ONNX_FILE, ONNX_INPUT, PROBABILITIES_OUTPUT, REGRESSION_OUTPUT, ModelCard
from contract.dataset import Task
from contract.errors import PipelineError
from contract.row_independence import filled_up, row_multiple

FloatArray = NDArray[np.float64]


class ServedModel:
    """The ONNX model of a directory with its card. ``outputs`` is what the service answers."""

    def __init__(self, directory: Path) -> None:
        """Read and check the directory.

        Raises:
            PipelineError: a file is missing, unreadable, or not the one that the card was written for.
        """
        self.card = _read_card(directory / CARD_FILE)
        self._session = _read_onnx(directory / ONNX_FILE, self.card)
        self._output = REGRESSION_OUTPUT if self.card.task is Task.REGRESSION else PROBABILITIES_OUTPUT

    @cached_property
    def row_multiple(self) -> int:
        """The model gets its rows in a multiple of so many, as in the service."""
        return row_multiple(self._run, self.card)

    def outputs(self, features: FloatArray) -> FloatArray:
        """What the service has of the model for rows ``[N, F]``, to the bit, whatever the other rows are.

        Returns:
            ``[N, K]``: the prediction (K = 1), or the probability of each class (K = C), which add up to 1 in single
            precision.
        """
        return filled_up(self._run, features, self.row_multiple)

    def predict(self, features: FloatArray) -> FloatArray:
        """The model's answer to a matrix of shape ``[N, F]``, for metrics.

        Returns:
            Regression: predictions in the target's unit, of shape ``[N]``. Classification: probabilities of shape
            ``[N, C]``; each row sums to 1 in double precision, which ONNX's single precision only nearly does.
        """
        answer = self._run(features)
        if self.card.task is Task.REGRESSION:
            return answer.reshape(-1)
        return np.asarray(answer / answer.sum(axis=1, keepdims=True))

    def _run(self, features: FloatArray) -> FloatArray:
        (output,) = self._session.run([self._output], {ONNX_INPUT: features})
        return np.asarray(output, dtype=np.float64).reshape(len(features), -1)


def _read_card(path: Path) -> ModelCard:
    try:
        return ModelCard.model_validate_json(path.read_bytes())
    except OSError as error:
        raise PipelineError(
            f"The model card {path} cannot be read ({error.strerror}). Run `dvc repro` to train the model."
        ) from error
    except pydantic.ValidationError as error:
        raise PipelineError(
            f"The model card {path} is not one that this code wrote ({error.error_count()} fields do not fit). "
            "Run `dvc repro` to train the model anew."
        ) from error


def _read_onnx(path: Path, card: ModelCard) -> onnxruntime.InferenceSession:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise PipelineError(
            f"The model {path} cannot be read ({error.strerror}). Run `dvc repro` to train the model."
        ) from error
    if hashlib.sha256(content).hexdigest() != card.onnx.sha256:
        raise PipelineError(
            f"The model {path} is not the one that its card was written for: the checksums differ. "
            "Run `dvc repro` to train the model anew."
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except (Fail, InvalidGraph, InvalidProtobuf) as error:
        raise PipelineError(f"The model {path} is no model that onnxruntime can load: {error}") from error
