"""From the BentoML model store to loaded, verified, warm models."""

import hashlib
import json
import logging
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import bentoml
import numpy as np
import onnxruntime as ort
from bentoml.exceptions import NotFound as NotInStore
from pydantic import ValidationError

from contract.card import CARD_FILE, ONNX_FILE, ONNX_INPUT, PROBABILITIES_OUTPUT, REGRESSION_OUTPUT, ModelCard
from contract.dataset import Dataset, Task
from contract.errors import StartupError
from contract.row_independence import filled_up, row_multiple
from contract.table import FloatMatrix

logger = logging.getLogger(__name__)


DEPLOYED_FILE = "deployed.json"
"""The pipeline's word on which tag of each model is deployed. Without it, the latest in the store is."""
ARTIFACT_FOLDER = "mlflow_model/extra_files"
"""Where ``bentoml.mlflow.import_model`` puts the files that the pipeline logs beside the estimator."""


def deployed_model(name: str, directory: Path) -> bentoml.models.BentoModel:
    """The reference to the deployed model ``name``, for the class scope of the service: a built Bento pins it.

    A machine that has the pipeline's output but not the model in its store, for instance after ``dvc pull``, gets it
    imported from the exported file.

    Args:
        name: of the dataset.
        directory: where the pipeline leaves ``deployed.json`` and ``store/{name}.bentomodel``.

    Raises:
        StartupError: the model is neither in the store nor exported.
    """
    tag = f"{name}:latest"
    deployed = directory / DEPLOYED_FILE
    if deployed.exists():
        tag = json.loads(deployed.read_text()).get(name, tag)
    try:
        found = bentoml.models.get(tag)
    except NotInStore:
        exported = directory / "store" / f"{name}.bentomodel"
        if not exported.exists():
            raise StartupError(
                f"The model {tag} is not in the BentoML store, and {exported} does not exist. "
                "Run `make train` (or `dvc repro`) to train and import it."
            ) from None
        found = bentoml.models.import_model(str(exported))
        fields = {"model": name, "version": str(found.tag.version), "file": exported.name}
        logger.info("model imported into the BentoML store", extra=fields)
    return bentoml.models.BentoModel(found.tag)


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model that answers: its contract, its card, its version in the store, and the ONNX session.

    It runs its rows in a multiple of ``row_multiple``, so that an answer does not depend on the rows beside it.
    """

    dataset: Dataset
    card: ModelCard
    version: str
    loaded_at: datetime
    session: ort.InferenceSession
    output: str
    row_multiple: int = 1

    @cached_property
    def golden_rows(self) -> FloatMatrix:
        """The rows of the card with known answers, ``[N, F]``."""
        return self.dataset.matrix(self.dataset.row.model_validate(one.row) for one in self.card.golden)

    def predict(self, rows: FloatMatrix) -> FloatMatrix:
        """Outputs ``[N, K]`` for rows ``[N, F]``: the prediction (K = 1), or the probability of each class (K = C)."""
        return filled_up(self._run, rows, self.row_multiple)

    def _run(self, rows: FloatMatrix) -> FloatMatrix:
        (outputs,) = self.session.run([self.output], {ONNX_INPUT: rows})
        return np.asarray(outputs, dtype=np.float64).reshape(len(rows), -1)


def load(dataset: Dataset, stored: bentoml.Model) -> LoadedModel:
    """Read a stored model, verify its bits, its contract and its golden rows.

    Raises:
        StartupError: the artifact is damaged, of another contract, or answers differently than in training.
    """
    folder = Path(stored.path_of(ARTIFACT_FOLDER))
    try:
        card = ModelCard.model_validate_json((folder / CARD_FILE).read_bytes())
        onnx = (folder / ONNX_FILE).read_bytes()
    except (FileNotFoundError, ValidationError) as error:
        raise _damaged(stored, str(error)) from error
    card.check(dataset)
    if hashlib.sha256(onnx).hexdigest() != card.onnx.sha256:
        raise _damaged(stored, f"the checksum of {ONNX_FILE} is not the one of the model card")
    model = LoadedModel(
        dataset=dataset,
        card=card,
        version=str(stored.tag.version),
        loaded_at=datetime.now(UTC),
        session=_session(onnx),
        output=REGRESSION_OUTPUT if dataset.task is Task.REGRESSION else PROBABILITIES_OUTPUT,
    )
    _check_golden_rows(model, stored)
    return replace(model, row_multiple=row_multiple(model.predict, card))


def _session(onnx: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    # Batches are small and workers are processes: threads in the session would only wait for each other.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    # What goes wrong is raised, and logged with the request; onnxruntime would also print it, in a form of its own.
    options.log_severity_level = 4
    return ort.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])


def _check_golden_rows(model: LoadedModel, stored: bentoml.Model) -> None:
    outputs = np.array([one.output for one in model.card.golden])
    difference = np.abs(model.predict(model.golden_rows) - outputs).max()
    if not difference <= model.card.onnx.tolerance:
        raise _damaged(stored, f"its golden rows are off by {difference:g}, over {model.card.onnx.tolerance:g}")


def _damaged(stored: bentoml.Model, what: str) -> StartupError:
    return StartupError(
        f"The stored model {stored.tag} is damaged: {what}. Delete it with `bentoml models delete {stored.tag}` and "
        "start again: it is imported anew from models/store, or trained anew by `make train`."
    )
