from collections.abc import Iterator
from pathlib import Path

import bentoml
import httpx
import pytest

from contract import DATASETS
from local_service import free_port, running_service
from serving.models import load
from serving.settings import Settings
from tests.serving import tiny_models
from tests.serving.worker import LocalWorker


@pytest.fixture(scope="session")
def no_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A MODELS_DIR that the pipeline never wrote: the service takes the latest models of the store."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def stored() -> dict[str, str]:
    """Tiny models in the store of the tests; their versions by name."""
    return {name: str(tiny_models.store(dataset).tag.version) for name, dataset in DATASETS.items()}


@pytest.fixture(scope="session")
def grpc_port() -> int:
    """Where the service of ``client`` speaks gRPC."""
    return free_port()


@pytest.fixture(scope="session")
def client(stored: dict[str, str], no_pipeline: Path, grpc_port: int) -> Iterator[httpx.Client]:
    """A client of the real service, with two workers."""
    pinned = no_pipeline / "pinned"
    tiny_models.pin(pinned, stored)
    environment = {
        "MODELS_DIR": str(pinned),
        "WORKERS": "2",
        "MAX_BODY_BYTES": "2000000",
        "GRPC_PORT": str(grpc_port),
        "GRPC_MAX_MESSAGE_BYTES": "2000000",
    }
    with running_service(environment=environment) as url, httpx.Client(base_url=url, timeout=30) as opened:
        yield opened


@pytest.fixture(scope="session")
def worker(stored: dict[str, str]) -> Iterator[LocalWorker]:
    """A worker in this process."""
    models = {name: load(dataset, bentoml.models.get(f"{name}:{stored[name]}")) for name, dataset in DATASETS.items()}
    settings = Settings(API_HOST="127.0.0.1", API_PORT=free_port(), GRPC_PORT=free_port())
    local = LocalWorker(models, settings)
    with local.running():
        yield local
