"""Drift from end to end: a real service, the ledger that it writes, the command, and the metrics of the service."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from contract import DATASETS
from contract.datasets.housing import HOUSING
from local_service import PROJECT
from tests.serving import tiny_models
from tests.serving.running import running
from tests.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.weekly]


def test_drift_of_the_traffic_is_found_answered_and_published(tmp_path: Path) -> None:
    models, state = tmp_path / "models", tmp_path / "state"
    tiny_models.pin(models, {name: str(tiny_models.store(one).tag.version) for name, one in DATASETS.items()})
    table = tiny_models.table(HOUSING).features
    draws = np.random.default_rng(0)
    environment = {"MODELS_DIR": str(models), "STATE_DIR": str(state)}
    with running(models, tmp_path / "log", LEDGER="on", STATE_DIR=str(state), WORKERS="2") as service:

        def predict(shift: float) -> None:
            for _ in range(40):
                rows = table[draws.integers(0, len(table), 20)].copy()
                rows[:, 1] += shift * table[:, 1].std()
                named = [dict(zip(HOUSING.feature_names, row, strict=True)) for row in rows.tolist()]
                service.client.post("/predict/housing/batch", json={"rows": named}).raise_for_status()

        def search(*options: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [sys.executable, "-m", "loop.drift", "--model", "housing", "--fail", *options],
                cwd=PROJECT,
                env={**os.environ, **environment},
                capture_output=True,
                text=True,
            )

        def rows_on_record() -> int:
            answer = service.client.post("/drift/detect", json={"model": "housing"})
            return int(answer.json()["rows"]) if answer.status_code == 200 else 0

        def published(sample: str) -> bool:
            return sample in service.client.get("/metrics").text.splitlines()

        predict(0)
        wait_until(lambda: rows_on_record() == 800, "the predictions are on record")
        found = search()
        assert found.returncode == 0, found.stdout + found.stderr
        still = 'ml_drift_detected{feature="HouseAge",model="housing"} 0.0'
        wait_until(lambda: published(still), "the result is published")

        predict(1)
        wait_until(lambda: rows_on_record() == 1600, "the predictions are on record")
        answered = service.client.post("/drift/detect", json={"model": "housing"}).json()
        assert answered["changes"][0]["name"] == "HouseAge"
        found = search("--rows", "800")
        assert found.returncode == 3, found.stdout + found.stderr
        assert "DRIFT of HouseAge" in found.stdout
        assert (PROJECT / "reports" / "drift" / "report.html").is_file()
        moved = 'ml_drift_detected{feature="HouseAge",model="housing"} 1.0'
        wait_until(lambda: published(moved), "the result is published")
        assert published('ml_drift_detected{feature="Latitude",model="housing"} 0.0')
        assert published('ml_drift_rows{model="housing"} 800.0')
