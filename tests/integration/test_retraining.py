"""Retraining with the whole pipeline: a better challenger takes over, a worse one leaves nothing, a killed worker too.

The pipeline trains small models, which takes a minute; the rows are those of California Housing.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
import yaml
from sqlalchemy import Engine

from contract.housing import HOUSING
from contract.table import FloatMatrix
from ledger import database, feedback, jobs
from ledger.feedback import Truth
from ledger.jobs import Job, State, Trigger
from ledger.store import Store
from ledger.times import now_us
from ledger.values import pack
from local_service import PROJECT
from model.session import Artifact
from tests.ledger.records import a_record
from tests.waiting import wait_until
from training.import_models import PACKAGE
from training.tracking import EXTRA_FILES

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("retraining")]

SECOND_US = 1_000_000
DEPLOYED = "models/deployed.json"


class Project:
    """A clone of the project with small models, its own stores, and a ledger."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "project"
        subprocess.run(["git", "clone", "-q", str(PROJECT), str(self.folder)], check=True)
        parameters = yaml.safe_load((self.folder / "params.yaml").read_text())
        for name, kept in (("housing", "hist_gradient_boosting"), ("iris", "logistic_regression")):
            section = parameters["train"][name]
            section |= {"folds": 2, "candidates": {kept: section["candidates"][kept]}}
        parameters["train"]["housing"]["candidates"]["hist_gradient_boosting"]["parameters"]["max_iter"] = 60
        parameters["model_evaluation"]["permutation_repeats"] = 1
        parameters["deployment_validation"] |= {"requests": 20, "p95_budget_ms": 5000}
        (self.folder / "params.yaml").write_text(yaml.safe_dump(parameters, sort_keys=False))
        self.environment = {
            **os.environ,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "BENTOML_HOME": str(folder / "bentoml"),
            "STATE_DIR": str(folder / "state"),
            "PYTHONPATH": os.pathsep.join([str(self.folder), os.environ.get("PYTHONPATH", "")]),
        }
        for name in ("MLFLOW_TRACKING_URI", "MODELS_DIR", "DATABASE_URL"):
            self.environment.pop(name, None)
        self.store = folder / "bentoml"
        self.engine: Engine = database.connect(database.default_url(folder / "state"))
        database.migrate(self.engine)

    def run(self, *command: str, status: int = 0) -> str:
        ended = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=900,
        )
        assert ended.returncode == status, f"{command}:\n{ended.stdout[-3000:]}\n{ended.stderr[-3000:]}"
        return ended.stdout + ended.stderr

    @contextmanager
    def worker(self) -> Iterator["subprocess.Popen[bytes]"]:
        process = subprocess.Popen(
            [sys.executable, "-m", "loop.worker"],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)

    def json(self, path: str) -> Any:
        return json.loads((self.folder / path).read_text())

    def alias(self, alias: str) -> str:
        code = f"from training import tracking; print(tracking.by_alias('housing', '{alias}').content_version)"
        return self.run_code(code)

    def run_code(self, code: str) -> str:
        ended = subprocess.run(
            [sys.executable, "-c", code],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return ended.stdout.strip().splitlines()[-1]

    def state(self) -> dict[str, str]:
        """What a refused challenger must not change."""
        paths = [DEPLOYED, "dvc.lock", "models/housing/card.json", "models/housing/model.onnx", "metrics/housing.json"]
        paths += [str(path.relative_to(self.folder)) for path in (self.folder / "data/feedback").iterdir()]
        return {path: hashlib.sha256((self.folder / path).read_bytes()).hexdigest() for path in paths}

    def traffic(self, seed: int, change: Callable[[FloatMatrix, FloatMatrix], tuple[FloatMatrix, FloatMatrix]]) -> None:
        """1,200 rows near those of the raw table, changed, as the champion answers them, and what came true."""
        name, _, version = self.json(DEPLOYED)["housing"].partition(":")
        artifact = Artifact.read(self.store / "models" / name / version / PACKAGE / EXTRA_FILES)
        random = np.random.default_rng(seed)
        table = pd.read_csv(PROJECT / "data/raw/housing.csv").sample(1200, random_state=seed)
        rows = table[list(HOUSING.feature_names)].to_numpy(dtype=float)
        rows[:, 2] *= 1 + random.uniform(-0.02, 0.02, len(rows))
        rows, truth = change(rows, table[HOUSING.target.name].to_numpy(dtype=float))
        low, high = HOUSING.bounds
        rows = np.clip(rows, low, high)
        records, truths, now = [], [], now_us()
        for call in range(0, len(rows), 10):
            part = rows[call : call + 10]
            one = a_record(now - (len(rows) - call) * SECOND_US, outputs=artifact.outputs(part), version=version)
            one.feature_bytes = pack(part)
            records.append(one)
            truths += [Truth(one.id, row, float(truth[call + row])) for row in range(len(part))]
        Store(self.engine).insert(f"segment {now}", 1, records, [])
        feedback.give(self.engine, truths)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    made = Project(tmp_path_factory.mktemp("retraining"))
    made.run("dvc", "repro")
    yield made
    made.engine.dispose()


def other_units(rows: FloatMatrix, truth: FloatMatrix) -> tuple[FloatMatrix, FloatMatrix]:
    """A client counts rooms otherwise, and gives incomes after tax: such rows the champion has never seen."""
    changed = rows.copy()
    changed[:, 2] *= 4
    changed[:, 0] *= 0.5
    return changed, truth


def more_people(rows: FloatMatrix, truth: FloatMatrix) -> tuple[FloatMatrix, FloatMatrix]:
    changed = rows.copy()
    changed[:, 4] *= 20
    changed[:, 0] *= 0.6
    return changed, truth


def wrong_truths(rows: FloatMatrix, truth: FloatMatrix) -> tuple[FloatMatrix, FloatMatrix]:
    """A client reports them upside down."""
    return rows, 5 - truth


def test_a_better_challenger_takes_over_and_a_worse_one_leaves_nothing(project: Project, tmp_path: Path) -> None:
    champion = project.alias("champion")
    project.traffic(1, other_units)
    said = project.run("loop.retrain", "--model", "housing", "--result", str(tmp_path / "result.json"))
    assert "The challenger becomes the champion: RMSE" in said
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["promoted"]
    assert result["champion"] == champion
    assert (project.alias("champion"), project.alias("previous")) == (result["challenger"], champion)
    assert project.json(DEPLOYED)["housing"] == f"housing:{result['challenger']}"
    card = project.json("models/housing/card.json")
    assert card["parameters"]["feedback_rows"] == result["training_rows_added"]
    assert "Data and pipelines are up to date" in project.run("dvc", "status")
    report = (project.folder / "reports/retraining/housing.html").read_text()
    assert result["reason"] in report
    assert report.count("data:image/png;base64,") == 3
    # No row of the test split is in the training split.
    features = list(HOUSING.feature_names)
    splits = [
        pd.read_parquet(project.folder / "data/features/housing" / f"{name}.parquet")[features].astype(np.float32)
        for name in ("train", "test")
    ]
    assert len(splits[0]) == 16_512 + card["parameters"]["feedback_rows"]
    assert splits[0].merge(splits[1]).empty

    # The next clients' truths are wrong: the challenger that learns from them is worse where the truth is right.
    before = project.state()
    project.traffic(2, wrong_truths)
    said = project.run("loop.retrain", "--model", "housing", status=3)
    assert "The champion stays: " in said
    assert project.state() == before
    assert project.alias("champion") == result["challenger"]
    assert project.alias("challenger") not in {champion, result["challenger"]}
    assert "Data and pipelines are up to date" in project.run("dvc", "status")
    # It can be looked at all the same.
    said = project.run("loop.replay", "--model", "housing@challenger", "--hours", "1")
    assert "recorded rows" in said
    assert (project.folder / "reports/replay/housing.html").is_file()


def test_the_worker_is_killed_in_the_middle_and_another_one_goes_on(project: Project) -> None:
    project.traffic(3, more_people)
    before = project.state()
    asked = jobs.request(project.engine, "housing", Trigger.PERSON, "somebody", None)[0]

    def job() -> Job:
        found = jobs.find(project.engine, asked.id)
        assert found is not None
        return found

    with project.worker() as worker:
        wait_until(lambda: job().stage.startswith("train on"), "it trains")
        # The files are changed by now.
        wait_until(lambda: project.state() != before, "the project changes", 60)
        processes = psutil.Process(worker.pid).children(recursive=True)
        assert len(processes) >= 2
        worker.kill()
        wait_until(
            lambda: not [one for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE],
            "no process is left",
            15,
        )
    with project.worker():
        wait_until(lambda: job().finished_us, "the job ends", 600)
    assert (job().state, job().attempts) in {(State.DONE, 2), (State.REFUSED, 2)}
    assert not (project.folder / "data/retraining").exists()
    assert project.json(DEPLOYED)["housing"] == f"housing:{project.alias('champion')}"
    if job().state is State.REFUSED:
        assert project.state() == before
