"""Stage ``import_models``: the registry's champions into the BentoML model store, and exported beside it.

The store lies outside the workspace, so the stage's outputs are the exported models: a machine that has them, but not
the store, imports them when the service starts.
"""

import json
import sys
import tempfile
from pathlib import Path

import bentoml
from bentoml.exceptions import NotFound

from contract import DATASETS
from contract.card import CARD_FILE, ModelCard
from contract.dataset import Dataset
from contract.errors import PipelineError
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
    try:
        return bentoml.models.get(tag)
    except NotFound:
        pass  # It is imported now.
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
