"""The deployed models and the ledger's database, found as the service finds them."""

import logging
import os
from pathlib import Path

import bentoml
from bentoml.exceptions import NotFound
from sqlalchemy import Engine

from contract.dataset import Dataset
from ledger import database
from loop.errors import LoopError
from model.deployed import Deployment
from model.session import Artifact
from training import tracking
from training.import_models import MODELS, PACKAGE

STATE = Path("state")
"""Default of ``STATE_DIR``: where the service keeps its ledger."""


def deployed_model(dataset: Dataset) -> tuple[str, Artifact]:
    """The version that ``models/deployed.json`` names, and its artifact in the BentoML store.

    Where the store lacks it, as in a container of its own, it is imported from the exports, as a service does.

    Raises:
        LoopError: there is none.
        DeploymentError, ArtifactError: the file, or the artifact, is damaged.
        ContractMismatch: it was trained under another contract.
    """
    deployment = Deployment(Path(os.environ.get("MODELS_DIR") or MODELS))
    tag = deployment.tags().get(dataset.name)
    stored = None if tag is None else _stored(tag, deployment.export_path(tag))
    if stored is None:
        raise LoopError(
            f"{deployment.deployed} and the BentoML store have no deployed model {dataset.name}. Run `make train`, "
            "or set MODELS_DIR and BENTOML_HOME as the service has them."
        )
    artifact = Artifact.verified(Path(stored.path_of(f"{PACKAGE}/{tracking.EXTRA_FILES}")), dataset)
    return str(stored.tag.version), artifact


def _stored(tag: str, exported: Path) -> bentoml.Model | None:
    try:
        return bentoml.models.get(tag)
    except NotFound:
        if not exported.is_file():
            return None
    imported = bentoml.models.import_model(str(exported))
    return imported if str(imported.tag) == tag else None


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
    # Alembic logs each step, even if there is nothing to do.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    database.migrate(engine)
    return engine
