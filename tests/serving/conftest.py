from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from contract import DATASETS
from local_service import free_port, running_service
from tests.serving import tiny_models


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
