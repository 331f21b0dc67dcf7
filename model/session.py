"""An artifact that answers: ``model.onnx`` and ``card.json`` of one directory, run by onnxruntime."""

import hashlib
from functools import cached_property
from pathlib import Path

import numpy as np
import onnxruntime
import pydantic
from onnxruntime.capi import onnxruntime_pybind11_state as errors

from contract.dataset import Dataset, Task
from contract.errors import BundleError
from contract.table import FloatMatrix
from model import signing
from model.card import CARD_FILE, ONNX_FILE, ONNX_INPUT, PROBABILITIES_OUTPUT, REGRESSION_OUTPUT, ModelCard
from model.row_independence import filled_up, row_multiple

ONNX_ERRORS = (
    errors.EPFail,
    errors.EngineError,
    errors.Fail,
    errors.InvalidArgument,
    errors.InvalidGraph,
    errors.InvalidProtobuf,
    errors.ModelLoaded,
    errors.NoModel,
    errors.NoSuchFile,
    errors.NotImplemented,
    errors.RuntimeException,
    RuntimeError,  # for what its C++ has no name
)
"""What onnxruntime raises of a model that it cannot load or run."""


class ArtifactError(BundleError):
    """An artifact is incomplete, damaged, or answers differently than it did in training."""


class Artifact:
    """The ONNX model of a directory with its card.

    Args:
        card: what the artifact says of itself.
        session: runs the model; see ``open_session``.
        directory: where both come from; ``Reference.read`` finds the rows of training there.
    """

    def __init__(self, card: ModelCard, session: onnxruntime.InferenceSession, directory: Path) -> None:
        self.card = card
        self.directory = directory
        self._session = session
        self._output = output_name(card.task)

    @classmethod
    def read(cls, directory: Path, keys: signing.PublicKeys = signing.NO_KEYS) -> "Artifact":
        """Read a directory and check that the model is the one its card was written for.

        Args:
            directory: of the artifact.
            keys: public keys, of which one must have signed it; none: no signature is asked for.

        Raises:
            ArtifactError: a file is missing or unreadable, or the checksums differ.
            UntrustedModel: none of the keys has signed it.
        """
        card = _read_card(directory, keys)
        path = directory / ONNX_FILE
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ArtifactError(f"The model {path} cannot be read ({error.strerror}).") from error
        if hashlib.sha256(content).hexdigest() != card.onnx.sha256:
            raise ArtifactError(f"The checksum of {path} is not the one in its model card.")
        return cls(card, open_session(content, str(path)), directory)

    @classmethod
    def verified(cls, directory: Path, dataset: Dataset, keys: signing.PublicKeys = signing.NO_KEYS) -> "Artifact":
        """Read a directory whose model is to be used: it must be whole, and answer as it did in training.

        Raises:
            ArtifactError: as ``read``; or the answers to the golden rows are off by more than the card's tolerance.
            ContractMismatch: it was trained under another contract than the dataset's.
            UntrustedModel: none of the keys has signed it.
        """
        artifact = cls.read(directory, keys)
        artifact.card.check(dataset)
        artifact._check_golden_rows(dataset)
        return artifact

    @cached_property
    def row_multiple(self) -> int:
        """The model is given its rows in a multiple of this number, so that a row's answer never depends on others."""
        return row_multiple(self._run, self.card)

    def golden_rows(self, dataset: Dataset) -> FloatMatrix:
        """The rows of the card whose answers are known, ``[N, F]``; the dataset's contract is the card's."""
        return np.array([dataset.encode(one.row) for one in self.card.golden], dtype=np.float64)

    def outputs(self, rows: FloatMatrix) -> FloatMatrix:
        """The answers to rows ``[N, F]``, N at least 1. A row's answer has the same bits whatever rows are beside it.

        Returns:
            ``[N, K]``: the prediction (K = 1), or the probability of each class (K = C), which add up to 1 in single
            precision.
        """
        return filled_up(self._run, rows, self.row_multiple)

    def predict(self, rows: FloatMatrix) -> FloatMatrix:
        """The answers to rows ``[N, F]`` in the form that scikit-learn's metrics take.

        Returns:
            Regression: predictions in the target's unit, ``[N]``. Classification: probabilities ``[N, C]``; each row
            sums to 1 in double precision, which ONNX's single precision only nearly does.
        """
        answer = self._run(rows)
        if self.card.task is Task.REGRESSION:
            return answer.reshape(-1)
        return np.asarray(answer / answer.sum(axis=1, keepdims=True))

    def _check_golden_rows(self, dataset: Dataset) -> None:
        """Compare the answers to the golden rows with those of the estimator in training."""
        try:
            expected = np.array([one.output for one in self.card.golden], dtype=np.float64)
            difference = np.abs(self.outputs(self.golden_rows(dataset)) - expected).max()
        except KeyError as error:
            raise ArtifactError(f"Its golden rows have no {error.args[0]!r}.") from error
        except (*ONNX_ERRORS, ValueError) as error:
            raise ArtifactError(f"Its golden rows cannot be answered: {_first_line(error)}.") from error
        tolerance = self.card.onnx.tolerance
        if not difference <= tolerance:
            raise ArtifactError(f"Its golden rows are off by {difference:g}, over the tolerance of {tolerance:g}.")

    def _run(self, rows: FloatMatrix) -> FloatMatrix:
        return run_session(self._session, self._output, rows)


def output_name(task: Task) -> str:
    """The name of the model's output that is served."""
    return REGRESSION_OUTPUT if task is Task.REGRESSION else PROBABILITIES_OUTPUT


def open_session(content: bytes, name: str = "the model") -> onnxruntime.InferenceSession:
    """Open an onnxruntime session with one thread for the bytes of an ONNX model.

    Raises:
        ArtifactError: onnxruntime cannot load it; says so of ``name``.
    """
    options = onnxruntime.SessionOptions()
    # Batches are small and workers are processes: threads in the session would only wait for each other.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    # Errors are raised, and logged with the request; onnxruntime would also print them in a form of its own.
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except ONNX_ERRORS as error:
        raise ArtifactError(f"onnxruntime cannot load {name}: {_first_line(error)}.") from error


def run_session(session: onnxruntime.InferenceSession, output: str, rows: FloatMatrix) -> FloatMatrix:
    """One output of the model for rows ``[N, F]``, as ``[N, K]``."""
    (outputs,) = session.run([output], {ONNX_INPUT: rows})
    return np.asarray(outputs, dtype=np.float64).reshape(len(rows), -1)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300].rstrip(".")


def _read_card(directory: Path, keys: signing.PublicKeys) -> ModelCard:
    path = directory / CARD_FILE
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"The model card {path} cannot be read ({error.strerror}).") from error
    if keys:
        # Before anything of the model is parsed.
        signing.verify(content, directory, keys)
    try:
        return ModelCard.model_validate_json(content)
    except pydantic.ValidationError as error:
        raise ArtifactError(
            f"The model card {path} was not written by this code: {error.error_count()} fields do not fit."
        ) from error
