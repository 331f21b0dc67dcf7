"""Stage ``import_models``: put the champions into the BentoML model store, and export them to ``models/store``.

The store is outside the workspace, so DVC tracks the exported models instead. A machine that has these, but not the
store, imports them when the service starts; ``bentoml models import`` does the same. Equal models have equal exports
and equal tags. The MLflow run that made a model is only in the store, in the metadata of the BentoML model.
"""

import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import bentoml
import yaml
from bentoml.exceptions import BentoMLException, NotFound
from pydantic import ValidationError

from contract import DATASETS
from contract.dataset import Dataset
from model import signing
from model.card import CARD_FILE, ONNX_FILE, REFERENCE_FILE, TRAINING_RUN, ModelCard
from model.deployed import IMPORTED_MARK, Deployment, DeploymentError
from training import console, files, tracking
from training.errors import PipelineError
from training.registry import archives, registration
from training.tracking import RegisteredModel

CHAMPIONS_FILE = Path("reports/champions.json")
MODELS = Path("models")
PACKAGE = "mlflow_model"
"""The folder of a BentoML model in which ``bentoml.mlflow`` looks for MLflow's files."""
_NO_TIME = datetime(2000, 1, 1, tzinfo=UTC)
"""The creation time of an exported model: BentoML wants one, and the real one would differ from run to run."""


def import_models(
    champions: Mapping[str, RegisteredModel], directory: Path, *, going_back: str | None = None
) -> dict[str, str]:
    """Export each champion to ``store``, import it into the BentoML store, and name it in ``deployed.json``.

    What was deployed before is kept beside them as the way back. Running services that follow ``directory`` reload.

    Args:
        champions: by name.
        directory: of the deployed models; see ``model.deployed``.
        going_back: the model that is rolled back, if one is.

    Returns:
        The tag of each model by name, such as ``{"housing": "housing:sha-3f9a0c1b2d4e"}``.
    """
    tags: dict[str, str] = {}
    deployment = Deployment(directory)
    with files.replaced_directory(deployment.store) as partial:
        for name, champion in champions.items():
            tag = f"{name}:{champion.content_version}"
            with (
                console.step(f"{name}: export {champion.content_version}, import it into the BentoML store"),
                tempfile.TemporaryDirectory() as temporary,
            ):
                folder = Path(temporary) / "model"
                _write_model(folder, champion)
                signature = _sign(folder)
                archives.write_tar(folder, partial / f"{name}.bentomodel")
                if not _is_whole(tag, signature):
                    _add_run(folder, champion)
                    bentoml.models.import_model(str(folder), input_format="folder")
            tags[name] = tag
        try:
            deployment.keep_former(tags, going_back=going_back)
        except DeploymentError as error:
            console.log.warning("there will be no way back: %s", error)
    deployment.write(tags)
    return tags


def _write_model(folder: Path, champion: RegisteredModel) -> None:
    """Write a BentoML model into a new directory, as ``bentoml.mlflow.import_model`` makes it in the store."""
    with tempfile.TemporaryDirectory() as temporary:
        shutil.copytree(
            tracking.download_package(champion, Path(temporary)),
            folder / PACKAGE,
            # The latter tells under which number the model was registered.
            ignore=shutil.ignore_patterns("__pycache__", "registered_model_meta"),
        )
    archives.normalise_mlmodel(folder / PACKAGE / "MLmodel")
    archives.normalise_environments(folder / PACKAGE)
    archives.normalise_skops(folder / PACKAGE / tracking.MODEL_SKOPS)
    card = _read_card(folder)
    _write_description(
        folder,
        {
            "name": champion.name,
            "version": champion.content_version,
            "module": "bentoml.mlflow",
            "labels": {
                "data_sha256": card.data_sha256[:16],
                **{metric: f"{value:.6g}" for metric, value in card.metrics.items()},
            },
            "options": {},
            "metadata": {},
            "context": {
                "framework_name": "mlflow",
                "framework_versions": {"mlflow": version("mlflow")},
                "bentoml_version": version("bentoml"),
                "python_version": platform.python_version(),
            },
            "signatures": {"predict": {"batchable": False}},
            "api_version": "v1",
            "creation_time": _NO_TIME.isoformat(),
        },
    )


def _add_run(folder: Path, champion: RegisteredModel) -> None:
    """Say in a BentoML model which run made it, and that it was created now."""
    description = yaml.safe_load((folder / "model.yaml").read_text(encoding="utf-8"))
    run = champion.training_run.model_dump(mode="json", exclude_none=True)
    _write_description(
        folder, {**description, "metadata": {TRAINING_RUN: run}, "creation_time": datetime.now(UTC).isoformat()}
    )


def _write_description(folder: Path, description: Mapping[str, Any]) -> None:
    (folder / "model.yaml").write_text(yaml.safe_dump(dict(description), sort_keys=False), encoding="utf-8")


def _read_card(folder: Path) -> ModelCard:
    return ModelCard.model_validate_json((folder / PACKAGE / tracking.EXTRA_FILES / CARD_FILE).read_bytes())


def _sign(folder: Path) -> bytes | None:
    """Sign a model, if there is a key in the environment; return the signature."""
    key = os.environ.get(signing.PRIVATE_KEY_VARIABLE)
    if not key:
        return None
    extra = folder / PACKAGE / tracking.EXTRA_FILES
    signature = signing.sign((extra / CARD_FILE).read_bytes(), Path(key))
    (extra / signing.SIGNATURE_FILE).write_bytes(signature)
    return signature


def _is_whole(tag: str, signature: bytes | None = None) -> bool:
    """Whether the store has a model, signed as it is now. One that is not, or is half-written, is removed."""
    try:
        folder = Path(bentoml.models.get(tag).path)
        card, extra = _read_card(folder), folder / PACKAGE / tracking.EXTRA_FILES
        expected = {ONNX_FILE: card.onnx.sha256, REFERENCE_FILE: card.reference.sha256}
        signed = signature is None or (extra / signing.SIGNATURE_FILE).read_bytes() == signature
        if signed and all(files.sha256(extra / name) == checksum for name, checksum in expected.items()):
            # A service may have imported it; now it is the pipeline's, and no service removes it.
            (folder / IMPORTED_MARK).unlink(missing_ok=True)
            return True
    except NotFound:
        return False
    except (BentoMLException, OSError, ValidationError) as error:
        console.log.warning("%s is half-written in the BentoML store and is imported anew: %s", tag, error)
    # `bentoml.models.delete` wants a whole model.
    name, _, stored = tag.partition(":")
    home = Path(os.environ.get("BENTOML_HOME") or Path.home() / "bentoml")
    shutil.rmtree(home / "models" / name / stored, ignore_errors=True)
    return False


def find_champion(dataset: Dataset, champions: Mapping[str, str]) -> RegisteredModel:
    """The champion that ``model_evaluation`` chose, from the registry.

    Raises:
        PipelineError: the dataset has none, or neither the registry nor ``models`` has it any more.
    """
    if dataset.name not in champions:
        raise PipelineError(
            f"{CHAMPIONS_FILE} has no champion for {dataset.name}. Run `dvc repro -f -s model_evaluation`."
        )
    found = registration.find(dataset, champions[dataset.name], MODELS / dataset.name)
    # A registry that had to be filled anew has no champion either.
    if tracking.champion(dataset.name) is None:
        tracking.promote(found)
    return found


def main() -> None:
    """Import the champions of the contract's datasets."""
    champions = json.loads(CHAMPIONS_FILE.read_text(encoding="utf-8"))
    import_models(
        {dataset.name: find_champion(dataset, champions) for dataset in DATASETS.values()},
        MODELS,
    )


if __name__ == "__main__":
    sys.exit(console.run(main))
