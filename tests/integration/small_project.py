"""The project with small models, for tests that retrain: training takes a minute; the rows are California Housing's."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from sqlalchemy import Engine

from contract.datasets.housing import HOUSING
from contract.table import FloatMatrix
from ledger import database, feedback
from ledger.feedback import Truth
from ledger.store import Store
from ledger.times import now_us
from ledger.values import pack
from local_service import METRICS_DIRECTORY, PROJECT, free_port
from model.session import Artifact
from tests.ledger.records import a_record
from tests.waiting import answers, wait_until
from training.import_models import PACKAGE
from training.tracking import EXTRA_FILES

SECOND_US = 1_000_000
DEPLOYED = "models/deployed.json"
Change = Callable[[FloatMatrix, FloatMatrix], tuple[FloatMatrix, FloatMatrix]]
"""Changes rows ``[N, F]`` and what comes true for them, ``[N]``."""


class SmallProject:
    """A clone of the project with small models, its own stores, and a ledger.

    Args:
        folder: of the clone and its stores.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "project"
        self.store = folder / "bentoml"
        self.environment = {
            **os.environ,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "BENTOML_HOME": str(self.store),
            "STATE_DIR": str(folder / "state"),
            "PYTHONPATH": os.pathsep.join([str(self.folder), os.environ.get("PYTHONPATH", "")]),
        }
        for name in ("MLFLOW_TRACKING_URI", "MODELS_DIR", "DATABASE_URL", METRICS_DIRECTORY):
            self.environment.pop(name, None)
        self.engine: Engine = database.connect(database.default_url(folder / "state"))
        database.migrate(self.engine)

    @classmethod
    def trained(cls, folder: Path) -> "SmallProject":
        """A new one, in which the pipeline has run."""
        clone = folder / "project"
        subprocess.run(["git", "clone", "-q", str(PROJECT), str(clone)], check=True)
        parameters = yaml.safe_load((clone / "params.yaml").read_text())
        for name, kept in (("housing", "hist_gradient_boosting"), ("iris", "logistic_regression")):
            section = parameters["train"][name]
            section |= {"folds": 2, "candidates": {kept: section["candidates"][kept]}}
        parameters["train"]["housing"]["candidates"]["hist_gradient_boosting"]["parameters"]["max_iter"] = 60
        evaluation = parameters["model_evaluation"]
        evaluation["permutation_repeats"] = 1
        for curve in (evaluation["learning_curve"], evaluation["datasets"]["housing"]["learning_curve"]):
            curve |= {"fractions": [0.5, 1.0], "splits": 1}
        parameters["deployment_validation"] |= {"requests": 20, "p95_budget_ms": 5000}
        (clone / "params.yaml").write_text(yaml.safe_dump(parameters, sort_keys=False))
        made = cls(folder)
        made.run("dvc", "repro")
        return made

    @contextmanager
    def copied(self, folder: Path) -> Iterator["SmallProject"]:
        """A copy, so that one test's retraining is not another's champion."""
        for path in (self.folder, self.store):
            shutil.copytree(path, folder / path.name, symlinks=True)
        copy = SmallProject(folder)
        try:
            yield copy
        finally:
            copy.engine.dispose()

    def run(self, *command: str, status: int = 0) -> str:
        """Run a module of Python, and return what it printed."""
        return self.command(sys.executable, "-m", *command, status=status)

    def command(self, *command: str, status: int = 0) -> str:
        """Run a command, and return what it printed."""
        ended = subprocess.run(
            command,
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
    def served(self, **variables: str) -> Iterator[str]:
        """The URL of the service of this project, with more variables."""
        port = free_port()
        log = self.folder.parent / "serve.log"
        with log.open("wb") as sink:
            process = subprocess.Popen(
                [sys.executable, "-m", "bentoml", "serve"],
                cwd=self.folder,
                env={**self.environment, "API_HOST": "127.0.0.1", "API_PORT": str(port), **variables},
                stdout=sink,
                stderr=subprocess.STDOUT,
            )
        try:
            url = f"http://127.0.0.1:{port}"
            wait_until(lambda: process.poll() is not None or answers(f"{url}/readyz"), log.read_text, 300)
            assert process.poll() is None, log.read_text()[-3000:]
            yield url
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)

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

    def deployed(self) -> str:
        """The version of Housing that ``models/deployed.json`` names."""
        return str(self.json(DEPLOYED)["housing"]).removeprefix("housing:")

    def artifact(self, version: str) -> Artifact:
        return Artifact.read(self.store / "models/housing" / version / PACKAGE / EXTRA_FILES)

    def traffic(self, seed: int, change: Change) -> None:
        """1,200 rows near those of the raw table, changed, as the champion answers them, and what came true."""
        version = self.deployed()
        artifact = self.artifact(version)
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
