import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import bentoml
import httpx
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from contract import DATASETS
from contract.datasets.housing import HOUSING
from contract.datasets.iris import IRIS
from local_service import free_port, running_service
from serving.models import LoadedModel, load
from serving.settings import Settings
from tests.serving import tiny_models
from tests.serving.locked import settings_with_keys
from tests.serving.worker import LocalWorker


@pytest.fixture(scope="session")
def stored() -> dict[str, str]:
    """Tiny models in the store of the tests; their versions by name."""
    return {name: str(tiny_models.store(dataset).tag.version) for name, dataset in DATASETS.items()}


@pytest.fixture(scope="session")
def pinned(stored: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ``MODELS_DIR`` that names the tiny models: other tests put more models into the same store."""
    directory = tmp_path_factory.mktemp("models") / "pinned"
    tiny_models.pin(directory, stored)
    return directory


@pytest.fixture(scope="session")
def slow_models(stored: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ``MODELS_DIR`` whose Housing model takes some milliseconds a batch, however small the batch is."""
    network = make_pipeline(
        StandardScaler(), MLPRegressor(hidden_layer_sizes=(1000, 1000), max_iter=1, tol=1e9, random_state=0)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # one iteration is enough to be slow
        version = str(tiny_models.store(HOUSING, estimator=network).tag.version)
    directory = tmp_path_factory.mktemp("models") / "slow"
    tiny_models.pin(directory, {**stored, "housing": version})
    return directory


@pytest.fixture(scope="session")
def grpc_port() -> int:
    """Where the service of ``client`` speaks gRPC."""
    return free_port()


class Started(NamedTuple):
    """The real service."""

    url: str
    first_statuses: list[int]
    """Of requests that were sent at once when it was ready."""


@pytest.fixture(scope="session")
def started(pinned: Path, grpc_port: int) -> Iterator[Started]:
    """The real service, with two workers."""
    environment = {
        "MODELS_DIR": str(pinned),
        "WORKERS": "2",
        "MAX_BODY_BYTES": "2000000",
        "GRPC_PORT": str(grpc_port),
        "GRPC_MAX_MESSAGE_BYTES": "2000000",
    }
    with running_service(environment=environment) as url:
        yield Started(url, [httpx.post(f"{url}/predict/iris", json=IRIS.example).status_code for _ in range(20)])


@pytest.fixture(scope="session")
def client(started: Started) -> Iterator[httpx.Client]:
    """A client of the real service."""
    with httpx.Client(base_url=started.url, timeout=30) as opened:
        yield opened


@pytest.fixture(scope="session")
def loaded(stored: dict[str, str]) -> dict[str, LoadedModel]:
    """The tiny models, for workers in this process."""
    return {name: load(dataset, bentoml.models.get(f"{name}:{stored[name]}")) for name, dataset in DATASETS.items()}


@pytest.fixture(scope="session")
def worker(loaded: dict[str, LoadedModel]) -> Iterator[LocalWorker]:
    """A worker in this process."""
    settings = Settings(API_HOST="127.0.0.1", API_PORT=free_port(), GRPC_PORT=free_port(), LEDGER="off")
    local = LocalWorker(loaded, settings)
    with local.running():
        yield local


@pytest.fixture(scope="session")
def locked(loaded: dict[str, LoadedModel]) -> Iterator[LocalWorker]:
    """A worker in this process that asks for the keys of ``tests/serving/locked.py``."""
    local = LocalWorker(loaded, settings_with_keys())
    with local.running():
        yield local
