from collections.abc import Iterator

import httpx
import pytest

from local_service import free_port
from serving.models import LoadedModel
from serving.settings import Settings
from tests.kinds import models
from tests.kinds.datasets import KINDS
from tests.serving.worker import LocalWorker


@pytest.fixture(scope="session")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LoadedModel]:
    """A tiny model of each dataset."""
    directory = tmp_path_factory.mktemp("kinds")
    return {name: models.load(directory / name, dataset) for name, dataset in KINDS.items()}


@pytest.fixture(scope="session")
def worker(loaded: dict[str, LoadedModel]) -> Iterator[LocalWorker]:
    """A worker in this process that serves them."""
    settings = Settings(API_HOST="127.0.0.1", API_PORT=free_port(), GRPC_PORT=free_port(), LEDGER="off")
    local = LocalWorker(loaded, settings, datasets=KINDS.values())
    with local.running():
        yield local


@pytest.fixture(scope="session")
def client(worker: LocalWorker) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=worker.url, timeout=60) as opened:
        yield opened
