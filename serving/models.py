"""Loads and verifies models from the BentoML model store."""

import errno
import logging
import shutil
import tempfile
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import bentoml
import pydantic
import yaml
from bentoml.exceptions import BentoMLException
from bentoml.exceptions import NotFound as NotInStore

from contract.dataset import Dataset
from contract.errors import StartupError
from model.card import TRAINING_RUN, ModelCard, TrainingRun
from model.deployed import DAMAGED, DEPLOYED_FILE, MODEL_DESCRIPTION, Deployment, DeploymentError, unpack
from model.session import Artifact, ArtifactError
from model.signing import NO_KEYS, PublicKeys
from serving import imported
from serving.settings import PROJECT

logger = logging.getLogger(__name__)


ARTIFACT_FOLDER = "mlflow_model/extra_files"
"""Folder of a stored model that holds ``model.onnx`` and the card."""
_BENTO = "bento.yaml"
"""The description of a built Bento, beside its source."""
_CONTENT_VERSION = "sha-"
"""Prefix of a version that is the checksum of the model card."""
_REIMPORT = "Run `dvc repro -f -s import_models`"
_UNREADABLE = (BentoMLException, *DAMAGED, AttributeError, KeyError, TypeError, ExceptionGroup)
"""What BentoML raises for a damaged ``model.yaml``; the last one comes from its validation."""


Spare = Callable[[str], str | None]
"""Maps a model's name to the tag to serve if the deployed one cannot be; None if there is none."""


def no_spare(_: str) -> None:
    """There is nothing else to serve."""


def deployed_model(name: str, directory: Path, spare: Spare = no_spare) -> bentoml.models.BentoModel:
    """The reference to the deployed model ``name``, for the class scope of the service: a built Bento pins it.

    Args:
        name: of the dataset.
        directory: where the pipeline leaves ``deployed.json`` and ``store/{name}.bentomodel``.
        spare: gives the tag to serve instead, if there is one.

    Raises:
        StartupError: none is deployed, it is neither in the store nor exported, or a file of the pipeline is damaged.
    """
    try:
        return bentoml.models.BentoModel(find(deployed_tag(name, directory), directory).tag)
    except StartupError:
        tag = spare(name)
        if tag is None:
            raise
        return bentoml.models.BentoModel(tag)


def deployed_tag(name: str, directory: Path) -> str:
    """The tag of a model in ``deployed.json``; in a Bento that has no such file, the tag that the Bento pins.

    Raises:
        StartupError: no model of this name is deployed, or the file is damaged.
    """
    deployment = Deployment(directory)
    try:
        tag = deployment.tags().get(name) or _pinned(PROJECT.parent / _BENTO).get(name)
    except DeploymentError as error:
        raise StartupError(str(error)) from None
    if tag is None:
        raise StartupError(
            f"No model of {name} is deployed: {deployment.deployed} "
            f"{'does not name it' if deployment.deployed.exists() else 'does not exist'}. Run `make train`, or set "
            "MODELS_DIR to a directory that has it."
        )
    return tag


def _pinned(bento: Path) -> dict[str, str]:
    """The tags of the models that a built Bento carries, by name; empty for a checkout."""
    if not bento.exists():
        return {}
    services = yaml.safe_load(bento.read_text(encoding="utf-8"))["services"]
    tags = (model["tag"] for service in services for model in service["models"])
    return {tag.partition(":")[0]: tag for tag in tags}


def find(tag: str, directory: Path) -> bentoml.Model:
    """The stored model of a tag.

    A machine that has the pipeline's output but not the model in its store, for instance after ``dvc pull``, gets it
    imported from the exported file. So does a container: the models of its image are in a store that cannot be written
    to, and others are kept in ``BENTOML_HOME``.

    Args:
        tag: its name and version.
        directory: where the exports are.

    Raises:
        StartupError: the model is neither in the store nor exported, or its export is damaged.
    """
    name, _, version = tag.partition(":")
    try:
        return _of_tag(bentoml.models.get(tag), tag)
    except NotInStore:
        pass
    except _UNREADABLE as error:
        logger.warning("the store has a half-written model", extra={"model": name, "reason": _first_line(error)})
    folder = imported.store() / name / version
    if (folder / MODEL_DESCRIPTION).exists():
        return _read(folder, tag)
    return _import(tag, directory)


def _read(folder: Path, tag: str) -> bentoml.Model:
    """The model in a folder of the store.

    Raises:
        ModelRemoved: it is not there any more.
        StartupError: its description cannot be read, or is of another model.
    """
    try:
        with imported.hold(folder):
            return _of_tag(bentoml.Model.from_path(folder), tag)
    except _UNREADABLE as error:
        raise StartupError(
            f"The stored model {tag} is damaged: {folder / MODEL_DESCRIPTION} cannot be read ({_first_line(error)}). "
            f"Delete {folder} and start again: it is imported anew from models/store, or trained anew by `make train`."
        ) from None


def _of_tag(model: bentoml.Model, tag: str) -> bentoml.Model:
    """The model, which must be the one that the tag names."""
    name, _, version = tag.partition(":")
    if (model.tag.name, model.tag.version) != (name, version):
        raise StartupError(
            f"The stored model {tag} is damaged: {model.path} holds {model.tag}. Delete it and start again: it is "
            "imported anew from models/store, or trained anew by `make train`."
        )
    return model


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _import(tag: str, directory: Path) -> bentoml.Model:
    """Import an export into the store of ``BENTOML_HOME``, whole or not at all. Several processes may do it at once."""
    name, _, version = tag.partition(":")
    exported = Deployment(directory).export_path(tag)
    if not exported.exists():
        raise StartupError(
            f"The model {tag} is not in the BentoML store, and {exported} does not exist. "
            "Run `make train` (or `dvc repro`) to train and import it."
        )
    models = imported.store()
    try:
        (models / name).mkdir(parents=True, exist_ok=True)
        # Hidden and outside of the models, whose folders BentoML lists.
        with tempfile.TemporaryDirectory(dir=models.parent, prefix=imported.PARTIAL) as temporary:
            partial = Path(temporary) / "model"
            found = unpack(exported, partial)
            if found != tag:
                raise StartupError(
                    f"{directory / DEPLOYED_FILE} names {tag}, but {exported} holds {found}. "
                    "Run `dvc repro -f -s import_models`."
                )
            imported.mark(partial, directory)
            with imported.changing(models.parent):
                _put(partial, models / name / version)
    except DAMAGED as error:
        no_room = isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES}
        way_out = f"Make room in {models}, or set BENTOML_HOME to another folder" if no_room else _REIMPORT
        raise StartupError(
            f"The model {tag} is not in the BentoML store, and {exported} cannot be imported ({_first_line(error)}). "
            f"{way_out}."
        ) from error
    fields = {"model": name, "version": version, "file": exported.name}
    logger.info("model imported into the BentoML store", extra=fields)
    return _read(models / name / version, tag)


def _put(partial: Path, target: Path) -> None:
    """Move a whole model into the store, unless another process was first."""
    try:
        partial.rename(target)
    except OSError as error:
        if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
            raise
        if not (target / MODEL_DESCRIPTION).exists():
            # BentoML's own import has left a half-written model.
            shutil.rmtree(target)
            partial.rename(target)


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


def find_and_load(dataset: Dataset, tag: str, directory: Path, keys: PublicKeys = NO_KEYS) -> LoadedModel:
    """Find the model of a tag, as ``find`` does, and load it, as ``load`` does.

    Raises:
        StartupError: as they do.
    """
    while True:
        try:
            return load(dataset, find(tag, directory), keys)
        except imported.ModelRemoved:
            # By another worker, which did not know yet that it is needed. It is imported anew.
            continue


def load(dataset: Dataset, stored: bentoml.Model, keys: PublicKeys = NO_KEYS) -> LoadedModel:
    """Read a stored model; check its signature, its checksums, its contract and its golden rows.

    An imported model stays in the store for as long as the loaded one exists.

    Args:
        dataset: whose model it is.
        stored: the model in the store.
        keys: public keys, of which one must have signed it; none: no signature is asked for.

    Raises:
        StartupError: the artifact is damaged, of another contract, not signed, or answers differently than in training.
    """
    with imported.hold(Path(stored.path)) as held:
        model = _load(dataset, stored, keys)
        weakref.finalize(model, held.pop_all().close)
    return model


def _load(dataset: Dataset, stored: bentoml.Model, keys: PublicKeys) -> LoadedModel:
    version = str(stored.tag.version)
    try:
        artifact = Artifact.verified(Path(stored.path_of(ARTIFACT_FOLDER)), dataset, keys)
        run = TrainingRun.model_validate(stored.info.metadata.get(TRAINING_RUN, {}))
    except pydantic.ValidationError as error:
        raise _damaged(
            stored, f"The training run in its {MODEL_DESCRIPTION} has {error.error_count()} fields that do not fit."
        ) from error
    except (ArtifactError, BentoMLException) as error:
        raise _damaged(stored, str(error)) from error
    if version.startswith(_CONTENT_VERSION) and artifact.card.content_version != version:
        raise _damaged(stored, f"It holds the model {artifact.card.content_version}.")
    return LoadedModel(dataset, artifact, version, datetime.now(UTC), run)


def _damaged(stored: bentoml.Model, reason: str) -> StartupError:
    return StartupError(
        f"The stored model {stored.tag} is damaged: {reason} Delete it with `bentoml models delete {stored.tag}` "
        "and start again: it is imported anew from models/store, or trained anew by `make train`."
    )
