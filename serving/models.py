"""Loads and verifies models from the BentoML model store."""

import logging
import tarfile
from dataclasses import dataclass
from datetime import UTC, datetime
from lzma import LZMAError
from pathlib import Path

import bentoml
from bentoml.exceptions import BentoMLException
from bentoml.exceptions import NotFound as NotInStore

from contract.dataset import Dataset
from contract.errors import StartupError
from model.card import TRAINING_RUN, ModelCard, TrainingRun
from model.deployed import DEPLOYED_NAME, deployed_tag
from model.session import Artifact, ArtifactError

logger = logging.getLogger(__name__)


ARTIFACT_FOLDER = "mlflow_model/extra_files"
"""Folder of a stored model that holds ``model.onnx`` and the card."""


def deployed_model(name: str, directory: Path) -> bentoml.models.BentoModel:
    """The reference to the deployed model ``name``, for the class scope of the service: a built Bento pins it.

    A machine that has the pipeline's output but not the model in its store, for instance after ``dvc pull``, gets it
    imported from the exported file.

    Args:
        name: of the dataset.
        directory: where the pipeline leaves ``deployed.json`` and ``store/{name}.bentomodel``.

    Raises:
        StartupError: the model is neither in the store nor exported, or a file of the pipeline is damaged.
    """
    tag = deployed_tag(name, directory)
    try:
        found = bentoml.models.get(tag)
    except NotInStore:
        exported = directory / "store" / f"{name}.bentomodel"
        if not exported.exists():
            raise StartupError(
                f"The model {tag} is not in the BentoML store, and {exported} does not exist. "
                "Run `make train` (or `dvc repro`) to train and import it."
            ) from None
        try:
            found = bentoml.models.import_model(str(exported))
        except (BentoMLException, OSError, EOFError, LZMAError, tarfile.TarError) as error:
            raise StartupError(
                f"The model {tag} is not in the BentoML store, and {exported} cannot be imported ({error}). "
                "Run `dvc repro -f -s import_models`."
            ) from error
        if tag not in {f"{name}:latest", str(found.tag)}:
            raise StartupError(
                f"{directory / DEPLOYED_NAME} names {tag}, but {exported} holds {found.tag}. "
                "Run `dvc repro -f -s import_models`."
            ) from None
        fields = {"model": name, "version": str(found.tag.version), "file": exported.name}
        logger.info("model imported into the BentoML store", extra=fields)
    return bentoml.models.BentoModel(found.tag)


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """An artifact that a worker serves, with its dataset and its version in the BentoML model store."""

    dataset: Dataset
    artifact: Artifact
    version: str
    loaded_at: datetime
    run: TrainingRun

    @property
    def card(self) -> ModelCard:
        """What the artifact says of itself."""
        return self.artifact.card


def load(dataset: Dataset, stored: bentoml.Model) -> LoadedModel:
    """Read a stored model; check its checksum, its contract and its golden rows.

    Raises:
        StartupError: the artifact is damaged, of another contract, or answers differently than in training.
    """
    try:
        artifact = Artifact.verified(Path(stored.path_of(ARTIFACT_FOLDER)), dataset)
    except ArtifactError as error:
        raise StartupError(
            f"The stored model {stored.tag} is damaged: {error} Delete it with `bentoml models delete {stored.tag}` "
            "and start again: it is imported anew from models/store, or trained anew by `make train`."
        ) from error
    run = TrainingRun.model_validate(stored.info.metadata.get(TRAINING_RUN, {}))
    return LoadedModel(dataset, artifact, str(stored.tag.version), datetime.now(UTC), run)
