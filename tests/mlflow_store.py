"""MLflow stores for tests: MLflow takes seconds to make the tables of a new one, so each is a copy of the first."""

import shutil
from functools import cache
from pathlib import Path

from mlflow import MlflowClient

from tests.conftest import HOME


def empty_store(directory: Path) -> str:
    """Put an empty store into a folder, and return its URI."""
    shutil.copy(_first(), directory / "mlflow.db")
    return f"sqlite:///{directory}/mlflow.db"


@cache
def _first() -> Path:
    store = Path(HOME.name) / "empty.db"
    MlflowClient(f"sqlite:///{store}").search_experiments()
    return store
