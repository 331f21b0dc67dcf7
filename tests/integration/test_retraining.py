"""Retraining with the whole pipeline: a better challenger takes over, a worse one leaves nothing, a killed worker too.

The rows are those of California Housing.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest

from contract.datasets.housing import HOUSING
from contract.table import FloatMatrix
from ledger import jobs
from ledger.jobs import Job, State, Trigger
from tests.integration.small_project import DEPLOYED, SmallProject
from tests.processes import alive
from tests.waiting import wait_until

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def project(small_project: SmallProject, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallProject]:
    with small_project.copied(tmp_path_factory.mktemp("retraining")) as copy:
        yield copy


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


def test_a_better_challenger_takes_over_and_a_worse_one_leaves_nothing(project: SmallProject, tmp_path: Path) -> None:
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


def test_the_worker_is_killed_in_the_middle_and_another_one_goes_on(project: SmallProject) -> None:
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
        wait_until(lambda: not alive(processes), "no process is left", 15)
    with project.worker():
        wait_until(lambda: job().finished_us, "the job ends", 600)
    assert (job().state, job().attempts) in {(State.DONE, 2), (State.REFUSED, 2)}
    assert not (project.folder / "data/retraining").exists()
    assert project.json(DEPLOYED)["housing"] == f"housing:{project.alias('champion')}"
    if job().state is State.REFUSED:
        assert project.state() == before
