"""Stage ``import_models``: the registry's champions into the BentoML model store, and exported beside it.

The store lies outside the workspace, so the stage's outputs are the exported models: a machine that has them, but not
the store, imports them when the service starts.
"""

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import bentoml
from bentoml.exceptions import BentoMLException, NotFound
from pydantic import ValidationError

from contract import DATASETS
from contract.dataset import Dataset
from contract.errors import PipelineError
from model.card import CARD_FILE, ONNX_FILE, ModelCard
from training import console, files, tracking
from training.tracking import RegisteredModel

CHAMPIONS_FILE = Path("reports/champions.json")
STORE_DIRECTORY = Path("models/store")
DEPLOYED_FILE = Path("models/deployed.json")


def import_models(champions: dict[str, RegisteredModel], store: Path, deployed: Path) -> dict[str, str]:
    """Import each champion and export it to ``store``; the tags are written to ``deployed``.

    Returns:
        The tag of each model by name, such as ``{"housing": "housing:v3-1f0c2a9b"}``.
    """
    tags = {}
    with files.replaced_directory(store) as partial:
        for dataset in DATASETS.values():
            champion = champions[dataset.name]
            with console.step(f"{dataset.name}: import version {champion.version} into the BentoML store"):
                stored = _import(dataset, champion)
                # An absolute path: BentoML takes a relative one to start at the root of the file system.
                bentoml.models.export_model(stored.tag, str(partial.resolve() / f"{dataset.name}.bentomodel"))
            tags[dataset.name] = str(stored.tag)
    files.write_json(deployed, tags)
    return tags


def _import(dataset: Dataset, champion: RegisteredModel) -> bentoml.Model:
    tag = f"{dataset.name}:v{champion.version}-{champion.run_id[:8]}"
    stored = _whole(tag)
    if stored is not None:
        return stored
    with tempfile.TemporaryDirectory() as directory:
        card = ModelCard.model_validate_json((tracking.download(champion, Path(directory)) / CARD_FILE).read_bytes())
    return bentoml.mlflow.import_model(
        tag,
        champion.model_uri,
        labels={
            "mlflow_run": champion.run_id,
            "mlflow_version": champion.version,
            "data_sha256": card.data_sha256[:16],
            **{metric: f"{value:.6g}" for metric, value in card.metrics.items()},
        },
    )


def _whole(tag: str) -> bentoml.Model | None:
    """The model from the store; None if it is not there, or only a part that an interrupted import left."""
    try:
        stored = bentoml.models.get(tag)
        folder = Path(stored.path_of("mlflow_model")) / tracking.EXTRA_FILES
        card = ModelCard.model_validate_json((folder / CARD_FILE).read_bytes())
        if files.sha256(folder / ONNX_FILE) == card.onnx.sha256:
            return stored
    except NotFound:
        return None
    except (BentoMLException, OSError, ValidationError) as error:
        console.log.warning("%s is half-written in the BentoML store and is imported anew: %s", tag, error)
    # `bentoml.models.delete` wants a whole model.
    name, _, version = tag.partition(":")
    home = Path(os.environ.get("BENTOML_HOME") or Path.home() / "bentoml")
    shutil.rmtree(home / "models" / name / version, ignore_errors=True)
    return None


def read_champions(path: Path = CHAMPIONS_FILE) -> dict[str, RegisteredModel]:
    """The champions that ``model_evaluation`` wrote, one for each dataset.

    Raises:
        PipelineError: a dataset has none.
    """
    champions = {name: RegisteredModel(**fields) for name, fields in json.loads(path.read_text()).items()}
    missing = DATASETS.keys() - champions.keys()
    if missing:
        raise PipelineError(
            f"{path} has no champion for {', '.join(sorted(missing))}. Run `dvc repro model_evaluation`."
        )
    return champions


if __name__ == "__main__":
    sys.exit(console.run(lambda: import_models(read_champions(), STORE_DIRECTORY, DEPLOYED_FILE)))
