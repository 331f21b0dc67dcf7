"""What the loop works on: the deployed models, and the database of the ledger, as the service has them."""

import json
import logging
import os
from pathlib import Path

import bentoml
from bentoml.exceptions import NotFound
from sqlalchemy import Engine

from contract.dataset import Dataset
from ledger import database
from loop.errors import LoopError
from model.session import Artifact
from training import tracking
from training.import_models import DEPLOYED_FILE, MODELS, PACKAGE

STATE = Path("state")
"""Where the service keeps its ledger, if ``STATE_DIR`` does not say otherwise."""


def deployed_model(dataset: Dataset) -> tuple[str, Artifact]:
    """The version that ``models/deployed.json`` names, and its artifact in the BentoML store.

    Raises:
        LoopError: there is none.
        ArtifactError: it is damaged.
    """
    path = Path(os.environ.get("MODELS_DIR") or MODELS) / DEPLOYED_FILE.name
    try:
        tag = json.loads(path.read_text(encoding="utf-8"))[dataset.name]
        stored = bentoml.models.get(tag)
    except (OSError, KeyError, NotFound):
        raise LoopError(
            f"{path} and the BentoML store have no deployed model {dataset.name}. Run `make train`, or set MODELS_DIR "
            "and BENTOML_HOME as the service has them."
        ) from None
    artifact = Artifact.read(Path(stored.path_of(f"{PACKAGE}/{tracking.EXTRA_FILES}")))
    artifact.card.check(dataset)
    return str(stored.tag.version), artifact


def connect_ledger() -> Engine:
    """The database of ``DATABASE_URL``, or the file in ``STATE_DIR``; its tables are brought up to date.

    Raises:
        LoopError: there is no file.
        LedgerError: the URL does not parse.
    """
    state = Path(os.environ.get("STATE_DIR") or STATE).resolve()
    url = os.environ.get("DATABASE_URL") or database.default_url(state)
    engine = database.connect(url)
    if engine.dialect.name == "sqlite" and not Path(str(engine.url.database)).is_file():
        raise LoopError(
            f"There is no ledger: {engine.url.database} does not exist. Start the service and send predictions, or set "
            "STATE_DIR or DATABASE_URL as the service has them."
        )
    # It tells of each step, also where there is none to take.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    database.migrate(engine)
    return engine
