"""A copy of the project to retrain in: models, registry, cache and reports of the project itself stay as they are."""

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

import yaml

from load_tests.errors import LoadTestError
from load_tests.project_files import copy_files
from load_tests.traffic import FEATURES

_NEEDED = ("models/deployed.json", "mlflow.db", str(FEATURES))
_COPIED = ("models", "data/prepared", "data/features", "data/feedback", "reports")
_LINKED = ("mlruns", ".dvc/cache")
"""Folders whose files are written once: a link to each is enough."""
_NOT_INHERITED = ("MLFLOW_TRACKING_URI", "MODELS_DIR", "DATABASE_URL", "LOOP_SCHEDULE", "LOOP_DRIFT_SCHEDULE")
_P95_BUDGET_MS = 2000
"""The pipeline tries the service before it lets it pass; here it shares the machine with all the traffic."""
STOP_SECONDS = 60


class ProjectCopy:
    """The project in another folder, with stores of its own.

    Args:
        folder: holds the copy; its BentoML store and its ledger are beside the pipeline's files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.worker_log = folder / "worker.log"
        stores = {"BENTOML_HOME": str(folder / "bentoml"), "STATE_DIR": str(folder / "state")}
        self.environment = {name: text for name, text in os.environ.items() if name not in _NOT_INHERITED} | stores
        """The variables of its commands."""
        self.of_service = {**stores, "MODELS_DIR": str(folder / "models"), "DATABASE_URL": "", "LEDGER": "on"}
        """The variables with which a service serves the copy's models, and keeps a ledger in it."""

    async def run(self, module: str, *arguments: str) -> str:
        """Run a command of the project in the copy, and return what it prints.

        Raises:
            LoadTestError: it failed; with the end of what it said.
        """
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module, *arguments),
            cwd=self.folder,
            env=self.environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        printed, said = await process.communicate()
        if process.returncode:
            raise LoadTestError(f"`python -m {module}` failed: {said.decode(errors='replace').strip()[-1000:]}")
        return printed.decode(errors="replace")

    @contextmanager
    def worker(self) -> Iterator[None]:
        """The worker of the loop, until the block ends."""
        with self.worker_log.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "loop.worker"],
                cwd=self.folder,
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(timeout=STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def rollback_command(self) -> str:
        """What somebody types to go back to the version before."""
        return (
            f"(cd {self.folder} && BENTOML_HOME=$PWD/bentoml {sys.executable} -m training.promote housing --rollback)"
        )


@contextmanager
def copied(source: Path) -> Iterator[ProjectCopy]:
    """A copy in a temporary folder, which is removed when the block ends.

    Raises:
        LoadTestError: the project has not been trained, or is no git repository.
    """
    with tempfile.TemporaryDirectory(prefix="demo-", ignore_cleanup_errors=True) as folder:
        copy(source, Path(folder))
        yield ProjectCopy(Path(folder))


def copy(source: Path, target: Path) -> None:
    """Copy the files that git knows or would add, and what the pipeline has made of them."""
    missing = [name for name in _NEEDED if not (source / name).exists()]
    if missing:
        raise LoadTestError(
            f"{', '.join(missing)}: missing in {source}. The demo begins with the models and the registry of this "
            "folder: run `env -u MLFLOW_TRACKING_URI make train`."
        )
    copy_files(source, target)
    for name in _COPIED + _LINKED:
        if (source / name).is_dir():
            how = _link if name in _LINKED else shutil.copy2
            shutil.copytree(source / name, target / name, copy_function=how, dirs_exist_ok=True)
    # By SQLite itself: MLflow's page may be writing.
    with (
        closing(sqlite3.connect(source / "mlflow.db")) as registry,
        closing(sqlite3.connect(target / "mlflow.db")) as other,
    ):
        registry.backup(other)
    settings = target / "params.yaml"
    params: Mapping[str, dict[str, object]] = yaml.safe_load(settings.read_text(encoding="utf-8"))
    params["deployment_validation"]["p95_budget_ms"] = _P95_BUDGET_MS
    settings.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)
