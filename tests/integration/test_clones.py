"""The pipeline in clones of the project, and in one that was moved."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import httpx
import pytest

from contract.datasets.iris import IRIS
from local_service import free_port
from tests.integration.conftest import Newcomer
from tests.integration.pipeline_runs import STAGES, clone_of, read, set_param, stages_run
from tests.waiting import answers, wait_until

PREDICT = "python -m batch_predict data/features/iris/test.parquet --model iris@champion"


@pytest.mark.weekly
def test_another_processor_gives_the_same_metrics(served_once: Newcomer, tmp_path: Path) -> None:
    """With other kernels for arithmetic on arrays and for matrix products, sums differ in their last bits."""
    other = clone_of(served_once, tmp_path)
    kernels = "NPY_DISABLE_CPU_FEATURES='X86_V3 X86_V4 AVX512_ICL AVX512_SPR' OPENBLAS_CORETYPE=Nehalem"
    other.run(f"dvc repro feature_engineering && {kernels} dvc repro train_housing train_iris", timeout=1200)
    for name in ("housing", "iris"):
        mine, theirs = (read(one, f"models/{name}/card.json") for one in (served_once, other))
        assert theirs["metrics"] == pytest.approx(mine["metrics"], abs=1e-6)
        for metric, values in dict(mine["cross_validation"]).items():  # type: ignore[call-overload]
            assert theirs["cross_validation"][metric] == pytest.approx(values, abs=1e-6)  # type: ignore[index]


@pytest.mark.weekly
def test_a_clone_with_the_cache_but_no_registry_serves_and_registers(trained_small: Newcomer, tmp_path: Path) -> None:
    other = clone_of(trained_small, tmp_path)
    shutil.copytree(trained_small.clone / ".dvc/cache", other.clone / ".dvc/cache")
    other.run("dvc checkout")
    assert stages_run(other.run("dvc repro").stdout) == []
    with other.serving("bentoml serve") as url:
        assert httpx.post(f"{url}/predict/iris", json=IRIS.example).status_code == 200
        info = httpx.get(f"{url}/models/info").json()["models"]["iris"]
    assert info["run_id"] is info["trained_at"] is None
    assert other.run(f"{PREDICT} out.parquet", check=False).returncode == 1
    # The stage that fails without a registered model registers those of the cache.
    other.run("dvc repro -f -s model_evaluation")
    other.run(f"{PREDICT} out.parquet")
    assert stages_run(other.run("dvc repro").stdout) == []
    assert "M dvc.lock" not in other.run("git status --porcelain").stdout


@pytest.mark.weekly
def test_a_moved_project_keeps_its_runs_and_its_models(served_once: Newcomer, tmp_path: Path) -> None:
    moved = Newcomer(tmp_path / "moved", served_once.home)
    shutil.copytree(served_once.clone, moved.clone, ignore=shutil.ignore_patterns(".venv"))
    (moved.clone / ".venv").symlink_to(served_once.clone / ".venv")
    hidden = (served_once.clone / "mlruns").rename(served_once.clone / "mlruns.hidden")
    try:
        moved.run(f"{PREDICT} out.parquet")
        moved.run("dvc repro -f -s train_iris model_evaluation", timeout=1200)
        port = free_port()
        page = subprocess.Popen(
            ["bash", "-c", f"source .venv/bin/activate; MLFLOW_PORT={port} make -s ui"],
            cwd=moved.clone,
            env=moved.variables(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            wait_until(lambda: answers(f"{url}/health"), "MLflow's page answers")
            run = httpx.get(
                f"{url}/api/2.0/mlflow/registered-models/alias", params={"name": "housing", "alias": "champion"}
            ).json()["model_version"]["run_id"]
            figure = httpx.get(f"{url}/get-artifact", params={"run_uuid": run, "path": "plots/candidates.png"})
            assert figure.content.startswith(b"\x89PNG")
        finally:
            os.killpg(page.pid, signal.SIGTERM)
            page.wait(timeout=60)
    finally:
        hidden.rename(served_once.clone / "mlruns")


@pytest.mark.weekly
def test_a_table_of_ones_own_takes_the_place_of_the_shipped_one(trained_small: Newcomer, tmp_path: Path) -> None:
    other = clone_of(trained_small, tmp_path)
    raw = other.clone / "data/raw"
    lines = (raw / "housing.csv").read_text().splitlines()
    # Other rows, in another order of columns.
    kept = [",".join(reversed(line.split(","))) for line in [lines[0], *lines[1:4001]]]
    (raw / "housing.csv").write_text("\n".join(kept) + "\n")
    other.run("cd data/raw && sha256sum *.csv > SHA256SUMS")
    set_param(other, {"linear": {"estimator": "linear", "parameters": {}}}, "train", "housing", "candidates")
    assert stages_run(other.run("dvc repro").stdout) == STAGES
    with other.serving("bentoml serve") as url:
        info = httpx.get(f"{url}/models/info").json()["models"]["housing"]
    assert info["training_rows"] == 3200
