"""A worker in this process with a ledger of its own."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from sqlalchemy import Engine

from ledger import database
from ledger.store import Store
from local_service import free_port
from serving.models import LoadedModel
from serving.settings import Settings
from tests.serving.worker import LocalWorker


class Recorded(NamedTuple):
    """A worker, a client of it, and its ledger, which has no drainer: tests write into it."""

    worker: LocalWorker
    client: httpx.Client
    engine: Engine
    store: Store


@pytest.fixture(scope="module")
def recorded(loaded: dict[str, LoadedModel], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    state: Path = tmp_path_factory.mktemp("state")
    settings = Settings(API_HOST="127.0.0.1", API_PORT=free_port(), GRPC_PORT=free_port(), STATE_DIR=state)
    engine = database.connect(settings.database_url)
    database.migrate(engine)
    worker = LocalWorker(loaded, settings)
    with worker.running(), httpx.Client(base_url=worker.url, timeout=30) as client:
        yield Recorded(worker, client, engine, Store(engine))
    engine.dispose()
