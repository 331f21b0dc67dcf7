"""The project's files while a model is retrained: what was there before comes back, unless the new model takes over.

What is needed for that is kept in a folder. If the process is killed, the next retraining puts it back first.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from ledger import locks
from loop.errors import LoopError
from training import tracking
from training.feature_engineering import FEATURES, FEEDBACK
from training.files import replaced_directory, replaced_file, write_json, write_parquet
from training.tracking import CHAMPION, PREVIOUS, RegisteredModel

KEPT = Path("data/retraining")
"""Copies of the files that a running or killed retraining changes, as they were before."""
_LOCK = Path("data/retraining.lock")
_MODELS = Path("models")
_ROUND = "round.json"
"""File in it that names the model, and the versions that had the aliases if they were moved."""
_DEPLOYMENT = (
    *("reports/champions.json", "reports/evaluation.html", "reports/plots"),
    *("reports/deployment_validation.json", "models/store"),
)
"""What the pipeline writes after the gate, apart from the pointer to the deployed models."""


def run(command: Sequence[str]) -> None:
    """Run a command of the pipeline; its output goes where ours does.

    Raises:
        LoopError: it failed.
    """
    # Stages start as `python`, which must be this environment's.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    ended = subprocess.run(  # noqa: S603 - our own commands
        [sys.executable, "-m", *command], check=False, env={**os.environ, "PATH": path}
    )
    if ended.returncode:
        raise LoopError(f"`{' '.join(command)}` failed with status {ended.returncode}; its log says why.")


@contextmanager
def alone() -> Iterator[None]:
    """One retraining at a time in a project.

    Raises:
        LoopError: another one is at work.
    """
    _LOCK.parent.mkdir(exist_ok=True)
    lock = locks.acquire(_LOCK)
    if lock is None:
        raise LoopError("Another retraining is at work in this project: wait for its end.")
    try:
        yield
    finally:
        os.close(lock)


class Workspace:
    """The files of one model's training, in the project that is the current folder.

    Args:
        name: of the model.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._feedback = FEEDBACK / f"{name}.parquet"

    def keep(self) -> None:
        """Keep what a retraining changes and DVC's cache does not hold."""
        with replaced_directory(KEPT) as folder:
            # Keep the files of every model, so that a recovery need not know which one was retrained.
            kept = [Path("dvc.lock"), *FEEDBACK.glob("*.parquet*"), *Path("metrics").glob("*.json")]
            # The cache may be outdated: a service may have been rolled back since the pipeline ran.
            kept += [_MODELS / "deployed.json", _MODELS / "previous.json", *(_MODELS / "previous").glob("*")]
            for path in kept:
                if path.is_file():
                    (folder / path).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, folder / path)
            write_json(folder / _ROUND, {"model": self._name, "aliases": {}})

    def put_feedback(self, rows: pd.DataFrame) -> None:
        """Write the rows of the ledger to train on, tracked by DVC.

        Raises:
            LoopError: DVC cannot track them.
        """
        write_parquet(self._feedback, rows)
        run(["dvc", "add", "--quiet", str(self._feedback)])

    def promote(self, challenger: RegisteredModel) -> None:
        """Move the aliases to a challenger, in a way that can be undone."""
        former = {alias: tracking.by_alias(self._name, alias) for alias in (CHAMPION, PREVIOUS)}
        versions = {alias: model.version for alias, model in former.items() if model is not None}
        write_json(KEPT / _ROUND, {"model": self._name, "aliases": versions})
        tracking.promote(challenger)


def recover() -> bool:
    """Put back what was kept, if anything was; whether there was.

    Raises:
        LoopError: DVC's cache does not have the outputs any more.
    """
    if not KEPT.is_dir():
        return False
    kept = json.loads((KEPT / _ROUND).read_text(encoding="utf-8"))
    name, aliases = kept["model"], kept["aliases"]
    for alias, version in aliases.items():
        tracking.set_alias(tracking.get(name, version), alias)
    for path in FEEDBACK.glob("*.parquet*"):
        path.unlink()
    for path in KEPT.rglob("*"):
        if path.is_file() and path.name != _ROUND:
            target = path.relative_to(KEPT)
            # Replace files as a whole, since services read some of them; skip those that are unchanged.
            if not target.is_file() or target.read_bytes() != path.read_bytes():
                with replaced_file(target) as partial:
                    shutil.copyfile(path, partial)
    outputs = [str(FEATURES / name), str(_MODELS / name), *(_DEPLOYMENT if aliases else ())]
    run(["dvc", "checkout", "--quiet", "--force", *outputs])
    discard()
    return True


def discard() -> None:
    """Go on with what is there now."""
    shutil.rmtree(KEPT, ignore_errors=True)
