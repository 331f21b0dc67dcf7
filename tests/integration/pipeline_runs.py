"""What the tests of the pipeline do with a newcomer's clone."""

import json
import re
from pathlib import Path

import yaml

from tests.integration.conftest import Newcomer

STAGES = [
    "data_preparation",
    "feature_engineering",
    "train_housing",
    "train_iris",
    "model_evaluation",
    "import_models",
    "deployment_validation",
]


def stages_run(output: str) -> list[str]:
    """The stages that ``dvc repro`` says it ran."""
    return re.findall(r"Running stage '([^']+)'", output)


def clone_of(newcomer: Newcomer, folder: Path) -> Newcomer:
    """A clone of the newcomer's clone, with the same environment and a BentoML store of its own."""
    other = Newcomer(folder / "clone", newcomer.home, {"BENTOML_HOME": str(folder / "bentoml")})
    newcomer.run(f"git clone -q . {other.clone}")
    (other.clone / ".venv").symlink_to(newcomer.clone / ".venv")
    return other


def read(newcomer: Newcomer, path: str) -> dict[str, object]:
    """A JSON file of the clone."""
    content: dict[str, object] = json.loads((newcomer.clone / path).read_text())
    return content


def set_param(newcomer: Newcomer, value: object, *keys: str) -> object:
    """Set a parameter of the clone's ``params.yaml``; return its former value."""
    path = newcomer.clone / "params.yaml"
    params = yaml.safe_load(path.read_text())
    section = params
    for key in keys[:-1]:
        section = section[key]
    former, section[keys[-1]] = section[keys[-1]], value
    path.write_text(yaml.safe_dump(params, sort_keys=False))
    return former
