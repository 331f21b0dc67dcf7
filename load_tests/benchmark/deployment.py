"""The deployed model, as every server of the benchmark gets it."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import bentoml
from bentoml.exceptions import NotFound

from contract.housing import HOUSING
from load_tests.benchmark.errors import BenchmarkError
from model.card import ONNX_FILE

PROJECT = Path(__file__).parents[2]
DEPLOYED_FILE = "deployed.json"


@dataclass(frozen=True)
class Deployment:
    """The tag of the model in the BentoML store, and the files of it that servers load.

    ``mlflow_model`` is the folder that MLflow logged, ``estimator`` the scikit-learn pipeline, ``onnx`` its conversion.
    """

    tag: str
    mlflow_model: Path
    estimator: Path
    onnx: Path


def find() -> Deployment:
    """What our own service would serve as Housing.

    Raises:
        BenchmarkError: there is no such model in the store; says how to get it.
    """
    tag = f"{HOUSING.name}:latest"
    deployed = Path(os.environ.get("MODELS_DIR") or PROJECT / "models") / DEPLOYED_FILE
    if deployed.exists():
        tag = json.loads(deployed.read_text()).get(HOUSING.name, tag)
    try:
        model = bentoml.models.get(tag)
    except NotFound:
        raise BenchmarkError(
            f"The model {tag} is not in the BentoML store. Run `make train` to train and import it."
        ) from None
    folder = Path(model.path_of("mlflow_model"))
    return Deployment(str(model.tag), folder, folder / "model.skops", folder / "extra_files" / ONNX_FILE)
