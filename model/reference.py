"""The reference of an artifact: a sample of its training rows, which recent rows are compared with.

It is kept beside the model as ``reference.npz``: plain arrays, as ``numpy.load`` reads them without pickle. Serving
reads it when it is asked about drift, not when it starts.
"""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from contract.table import FloatMatrix
from model.card import REFERENCE_FILE, ModelCard, ReferenceCard
from model.session import ArtifactError

REFERENCE_ROWS = 5000
"""Rows of the sample; all training rows where there are fewer. Among 500 recent rows the reference then adds a tenth to
the noise of the comparison, and takes 400 kB of Housing."""
_ARRAYS = ("features", "outputs", "target")


@dataclass(frozen=True, eq=False)
class Reference:
    """Rows of the training split.

    Args:
        features: ``[N, F]``.
        outputs: ``[N, K]``: what the algorithm answers to a row it was not trained on, from cross-validation: the
            prediction, or the probability of each class. Its answers to its own training rows are closer to the
            targets than any later answers, and would look like drift.
        target: ``[N]``: the value, or the index of the class.
    """

    features: FloatMatrix
    outputs: FloatMatrix
    target: FloatMatrix

    @classmethod
    def sample(cls, features: FloatMatrix, outputs: FloatMatrix, target: FloatMatrix, *, seed: int) -> Self:
        """``REFERENCE_ROWS`` rows, drawn without replacement and kept in their order; equal for equal rows and seed."""
        rows = len(target)
        picked = np.arange(rows)
        if rows > REFERENCE_ROWS:
            picked = np.sort(np.random.default_rng(seed).choice(rows, REFERENCE_ROWS, replace=False))
        return cls(features[picked], outputs.reshape(rows, -1)[picked], target[picked])

    def encode(self) -> tuple[bytes, ReferenceCard]:
        """The content of ``reference.npz``, and what the card says of it.

        Equal references give equal bytes: nothing is compressed, and there are no times.
        """
        file = io.BytesIO()
        np.savez(file, features=self.features, outputs=self.outputs, target=self.target)
        content = file.getvalue()
        return content, ReferenceCard(rows=len(self.target), sha256=hashlib.sha256(content).hexdigest())

    @classmethod
    def read(cls, directory: Path, card: ModelCard) -> Self:
        """Read ``reference.npz`` of an artifact.

        Raises:
            ArtifactError: the file is missing, or is not the one that the card was written for.
        """
        path = directory / REFERENCE_FILE
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ArtifactError(f"The reference {path} cannot be read ({error.strerror}).") from error
        if hashlib.sha256(content).hexdigest() != card.reference.sha256:
            raise ArtifactError(f"The checksum of {path} is not the one in its model card.")
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return cls(*(arrays[name] for name in _ARRAYS))
