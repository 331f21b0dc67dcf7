import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from contract import DATASETS
from load_tests.summary import Summary
from local_service import PROJECT, free_port, running_service
from tests.serving import tiny_models

BEHIND_A_PROXY = {name: text for name, text in os.environ.items() if name.upper() != "NO_PROXY"} | dict.fromkeys(
    ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://127.0.0.1:9"
)
"""The environment of a user behind a proxy, which must not be asked for loopback services: nothing answers there."""


@pytest.fixture(scope="session")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Test splits as the pipeline writes them, of the rows of the tiny models."""
    directory = tmp_path_factory.mktemp("features")
    for name, dataset in DATASETS.items():
        table = tiny_models.table(dataset)
        frame = pd.DataFrame(table.features, columns=list(dataset.feature_names))
        (directory / name).mkdir()
        frame.assign(**{dataset.target.name: table.target}).to_parquet(directory / name / "test.parquet")
    return directory


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables with which a service serves the tiny models."""
    pinned = tmp_path_factory.mktemp("models")
    tiny_models.pin(pinned, {name: str(tiny_models.store(dataset).tag.version) for name, dataset in DATASETS.items()})
    return {"MODELS_DIR": str(pinned), "WORKERS": "1"}


@dataclass(frozen=True)
class Service:
    """Where the real service with the tiny models is."""

    url: str
    grpc_target: str


@pytest.fixture(scope="session")
def service(tiny: dict[str, str]) -> Iterator[Service]:
    """The real service with the tiny models."""
    port = free_port()
    with running_service(environment={**tiny, "GRPC_PORT": str(port)}) as url:
        yield Service(url, f"127.0.0.1:{port}")


@dataclass(frozen=True)
class Run:
    """A run of Locust that has ended: its exit status, what it printed, its own lines, our summary if there is one."""

    status: int
    output: str
    lines: dict[str, dict[str, Any]]
    summary: Summary | None


class Locust:
    """Locust in a process of its own: it patches the standard library of the one that imports it."""

    def __init__(self, features: Path, directory: Path) -> None:
        self._features = features
        self._directory = directory

    def __call__(self, service: Service, *arguments: str) -> Run:
        """Run it headless; ``arguments`` win over those given here."""
        summary, lines = self._directory / "summary.json", self._directory / "lines.json"
        ended = subprocess.run(
            [
                *(sys.executable, "-m", "locust", "-f", "load_tests/locustfile.py", "--headless", "--only-summary"),
                *("--host", service.url, "--grpc-target", service.grpc_target, "--features", str(self._features)),
                *("--summary", str(summary), "--json-file", str(lines.with_suffix(""))),
                *("--stop-timeout", "10", "--run-time", "1s"),
                *arguments,
            ],
            cwd=PROJECT,
            env=BEHIND_A_PROXY,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return Run(
            ended.returncode,
            ended.stdout + ended.stderr,
            {line["name"]: line for line in json.loads(lines.read_text())} if lines.exists() else {},
            Summary.model_validate_json(summary.read_bytes()) if summary.exists() else None,
        )


@pytest.fixture
def locust(features: Path, tmp_path: Path) -> Locust:
    """Locust with rows to send."""
    return Locust(features, tmp_path)
