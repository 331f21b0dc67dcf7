"""Models for the harness to load."""

from pathlib import Path

import pytest

from contract import DATASETS
from load_tests.benchmark.runner import deployed_model
from tests.serving import tiny_models


@pytest.fixture
def deployed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Tiny models in the store of the tests, deployed; the files of Housing."""
    versions = {name: str(tiny_models.store(dataset).tag.version) for name, dataset in DATASETS.items()}
    tiny_models.pin(tmp_path, versions)
    monkeypatch.setenv("MODELS_DIR", str(tmp_path))
    return deployed_model()[1]
