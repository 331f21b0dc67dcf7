"""The series of a model that some workers serve still, and others no longer."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from sklearn.linear_model import LinearRegression, Ridge

from contract.datasets.housing import HOUSING
from local_service import PROJECT
from serving.models import load
from serving.telemetry.model import ModelMetrics
from serving.telemetry.scrape import _Current
from tests.serving import tiny_models

WORKER = """
import sys
from serving.telemetry import series
info = [series.MODEL_INFO.labels("iris", version, "", "", "") for version in ("v1", "v2")]
metric = [series.TEST_METRIC.labels("iris", version, "score") for version in ("v1", "v2")]
info[0].set(1), metric[0].set(-0.5)
if "swap" in sys.argv:
    info[1].set(1), metric[1].set(0.5)
    info[0].set(series.WITHDRAWN), metric[0].set(series.WITHDRAWN)
"""


def worker(directory: Path, *arguments: str) -> None:
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(directory)}
    subprocess.run([sys.executable, "-c", WORKER, *arguments], cwd=PROJECT, env=environment, check=True)


def page(directory: Path) -> str:
    registry = CollectorRegistry()
    registry.register(_Current(directory))
    return generate_latest(registry).decode()


@pytest.mark.parametrize(
    ("workers", "versions"),
    [((("stay",), ("swap",)), {"v1", "v2"}), ((("swap",), ("stay",)), {"v1", "v2"}), ((("swap",), ("swap",)), {"v2"})],
    ids=["one has swapped last", "one has swapped first", "both have"],
)
def test_a_version_is_told_as_long_as_one_worker_serves_it(
    tmp_path: Path, workers: tuple[tuple[str, ...], ...], versions: set[str]
) -> None:
    for arguments in workers:
        worker(tmp_path, *arguments)
    text = page(tmp_path)
    for name in ("ml_model_info", "ml_model_test_metric"):
        lines = [line for line in text.splitlines() if line.startswith(name)]
        assert {version for version in ("v1", "v2") if any(f'"{version}"' in line for line in lines)} == versions
        assert len(lines) == len(versions)


def test_predicted_values_of_two_versions_have_buckets_of_their_own() -> None:
    metrics = ModelMetrics(HOUSING)
    models = [load(HOUSING, tiny_models.store(HOUSING, estimator=one)) for one in (Ridge(), LinearRegression())]
    models.append(load(HOUSING, tiny_models.store(HOUSING, estimator=Ridge(alpha=1e6))))
    for model in [*models, models[0]]:
        metrics.serve(model)
    text = page(Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]))
    for model in models:
        bounds = {
            line.partition('le="')[2].partition('"')[0]
            for line in text.splitlines()
            if line.startswith("ml_predicted_value_bucket{") and f'version="{model.version}"' in line
        }
        wanted = {f"{edge:.4g}" for edge in model.card.prediction_deciles}
        assert {f"{float(one):.4g}" for one in bounds if one != "+Inf"} == wanted
