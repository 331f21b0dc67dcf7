"""Retraining with the whole pipeline: a worse challenger leaves nothing, a killed worker too.

A better one takes over in ``test_story``. The rows are those of California Housing.
"""

from collections.abc import Iterator

import psutil
import pytest

from contract.table import FloatMatrix
from ledger import jobs
from ledger.jobs import Job, State, Trigger
from tests.integration.small_project import DEPLOYED, SmallProject
from tests.processes import alive
from tests.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.weekly]


@pytest.fixture(scope="module")
def project(small_project: SmallProject, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallProject]:
    with small_project.copied(tmp_path_factory.mktemp("retraining")) as copy:
        yield copy


def more_people(rows: FloatMatrix, truth: FloatMatrix) -> tuple[FloatMatrix, FloatMatrix]:
    changed = rows.copy()
    changed[:, 4] *= 20
    changed[:, 0] *= 0.6
    return changed, truth


def wrong_truths(rows: FloatMatrix, truth: FloatMatrix) -> tuple[FloatMatrix, FloatMatrix]:
    """A client reports them upside down."""
    return rows, 5 - truth


def test_a_worse_challenger_leaves_nothing(project: SmallProject) -> None:
    champion, before = project.alias("champion"), project.state()
    project.traffic(1, wrong_truths)
    said = project.run("loop.retrain", "--model", "housing", status=3)
    assert "The champion stays: " in said
    assert project.state() == before
    assert project.alias("champion") == champion
    assert project.alias("challenger") not in {champion, ""}
    assert "Data and pipelines are up to date" in project.run("dvc", "status")
    # It can be looked at all the same.
    said = project.run("loop.replay", "--model", "housing@challenger", "--hours", "1")
    assert "recorded rows" in said
    assert (project.folder / "reports/replay/housing.html").is_file()


def test_the_worker_is_killed_in_the_middle_and_another_one_goes_on(project: SmallProject) -> None:
    project.traffic(2, more_people)
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
