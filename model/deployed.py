"""``deployed.json``, in which the pipeline writes which models are deployed: their tags in the BentoML store."""

import json
from pathlib import Path

from contract.errors import StartupError

DEPLOYED_NAME = "deployed.json"
"""Maps each model to its deployed tag. Without this file, the latest model in the store is deployed."""


def deployed_tag(name: str, directory: Path) -> str:
    """The tag of the deployed model ``name``, such as ``housing:sha-3f9a0c1b2d4e``, or ``housing:latest``.

    Args:
        name: of the dataset.
        directory: where the pipeline leaves the file.

    Raises:
        StartupError: the file is damaged.
    """
    path, latest = directory / DEPLOYED_NAME, f"{name}:latest"
    if not path.exists():
        return latest
    try:
        return str(json.loads(path.read_text()).get(name, latest))
    except (AttributeError, ValueError) as error:
        raise StartupError(
            f"{path} must be a JSON object of model names and tags ({error}). Run `dvc repro -f -s import_models`."
        ) from error
