import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine

from contract import DATASETS
from contract.dataset import Dataset
from contract.datasets.housing import HOUSING
from contract.datasets.iris import IRIS
from contract.errors import BundleError, StartupError
from ledger import database, drift, feedback, jobs, quality, windows
from ledger.feedback import Truth
from ledger.jobs import Job, State, Trigger
from ledger.reader import Reader
from ledger.store import Store
from ledger.times import now_us
from local_service import PROJECT
from loop.errors import LoopError
from loop.schedule import Schedule
from loop.settings import LoopSettings
from loop.triggers import Triggers
from model.drift import Verdict
from tests.ledger.records import a_record
from tests.serving import tiny_models

pytestmark = pytest.mark.usefixtures("examples_only")
MINUTE_US = 60_000_000
START = datetime(2026, 11, 27, 2, 30, tzinfo=UTC)


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A ``MODELS_DIR`` that names tiny models, and their versions."""
    directory = tmp_path_factory.mktemp("models")
    tags = {name: str(tiny_models.store(one).tag.version) for name, one in DATASETS.items()}
    tiny_models.pin(directory, tags)
    return directory, tags


@pytest.fixture
def engine(versions: tuple[Path, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    monkeypatch.setenv("MODELS_DIR", str(versions[0]))
    monkeypatch.chdir(PROJECT)
    engine = database.connect(database.default_url(tmp_path))
    database.migrate(engine)
    yield engine
    engine.dispose()


class Clock:
    """A time that tests set."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


def triggers(
    engine: Engine, clock: Clock | None = None, searched: list[str] | None = None, **settings: str
) -> Triggers:
    def search(dataset: Dataset, _: Engine) -> None:
        if searched is None:
            raise LoopError("there is no deployed model")
        searched.append(dataset.name)

    given = {"LOOP_DRIFT_SCHEDULE": "0 0 1 1 *", "RETRAIN_MINIMUM_ROWS": "0", **settings}
    return Triggers(engine, LoopSettings.from_environment(given), search, clock or Clock())


def asked(engine: Engine) -> list[tuple[str, Trigger]]:
    return sorted((job.model, job.trigger) for job in jobs.newest(engine))


def finish(engine: Engine) -> Job:
    job = jobs.claim(engine, "worker")
    assert job is not None
    assert jobs.finish(engine, job, State.DONE, "It is better.", None, stage="end", log="")
    return job


def test_a_schedule_is_due_once_at_its_times() -> None:
    schedule = Schedule("0 3 * * *", START)
    times = [START + timedelta(minutes=minutes) for minutes in (0, 29, 30, 31, 24 * 60 + 29, 24 * 60 + 31)]
    assert [schedule.due(time) for time in times] == [False, False, True, False, False, True]
    # What was missed while nobody asked counts once.
    assert schedule.due(START + timedelta(days=9))
    assert not schedule.due(START + timedelta(days=9, minutes=1))
    assert not Schedule("", START).due(START + timedelta(days=9))


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("LOOP_SCHEDULE", "at three"),
        ("LOOP_SCHEDULE", "61 * * * *"),
        ("LOOP_DRIFT_SCHEDULE", "* * *"),
        ("RETRAIN_COOLDOWN_MINUTES", "-1"),
        ("RETRAIN_MINIMUM_ROWS", "many"),
    ],
)
def test_a_wrong_setting_is_named(variable: str, text: str) -> None:
    with pytest.raises(StartupError, match=f"^{variable}: "):
        LoopSettings.from_environment({variable: text})


def test_an_empty_setting_is_as_none() -> None:
    assert LoopSettings.from_environment({"LOOP_SCHEDULE": "", "HOME": "/"}) == LoopSettings()


def test_the_schedule_asks_for_every_model(engine: Engine) -> None:
    clock = Clock()
    look = triggers(engine, clock, LOOP_SCHEDULE="0 3 * * *")
    look()
    assert asked(engine) == []
    clock.now += timedelta(hours=1)
    look()
    assert asked(engine) == [("housing", Trigger.SCHEDULE), ("iris", Trigger.SCHEDULE)]
    look()
    assert len(asked(engine)) == 2


def test_the_schedule_heeds_cool_down_and_minimum(engine: Engine) -> None:
    clock = Clock()
    look = triggers(engine, clock, LOOP_SCHEDULE="*/5 * * * *", RETRAIN_MINIMUM_ROWS="1")
    clock.now += timedelta(hours=1)
    look()
    assert asked(engine) == []


def test_drift_is_searched_for_when_it_is_due(engine: Engine) -> None:
    clock, searched = Clock(), list[str]()
    look = triggers(engine, clock, searched, LOOP_DRIFT_SCHEDULE="0 * * * *")
    look()
    clock.now += timedelta(hours=1)
    look()
    look()
    assert searched == ["housing", "iris"]


def test_a_search_that_fails_keeps_the_others(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    look = triggers(engine, clock, LOOP_DRIFT_SCHEDULE="0 * * * *", LOOP_SCHEDULE="0 * * * *")
    clock.now += timedelta(hours=1)
    look()
    assert "iris: drift cannot be searched for: there is no deployed model" in caplog.text
    assert len(asked(engine)) == 2


def find_drift(engine: Engine, verdict: Verdict) -> None:
    record = a_record(now_us() - MINUTE_US, rows=150)
    Store(engine).insert(f"segment {record.id}", 1, [record], [])
    found = windows.last_hours(Reader(engine), HOUSING.name, "v1", since_us=0, until_us=now_us())
    assert found is not None
    drift.write(engine, found, verdict, json.dumps({"changes": []}), time_us=now_us())


@pytest.mark.parametrize(
    ("verdict", "jobs_asked"), [(Verdict.DRIFT, 1), (Verdict.NO_DRIFT, 0), (Verdict.TOO_FEW_ROWS, 0)]
)
def test_drift_asks_once_for_what_was_found(engine: Engine, verdict: Verdict, jobs_asked: int) -> None:
    find_drift(engine, verdict)
    look = triggers(engine, RETRAIN_COOLDOWN_MINUTES="0")
    look()
    assert asked(engine) == [("housing", Trigger.DRIFT)] * jobs_asked
    if jobs_asked:
        finish(engine)
        look()
        # The drift was found before the model was retrained.
        assert len(asked(engine)) == 1
        find_drift(engine, verdict)
        look()
        assert len(asked(engine)) == 2


def answer(engine: Engine, dataset: Dataset, version: str, *, wrong: bool) -> None:
    """Sixty rows, and what came true: what was answered, or something else."""
    table = tiny_models.table(dataset)
    outputs = tiny_models.expected(dataset, table.features[:60])
    record = a_record(now_us() - MINUTE_US, model=dataset.name, outputs=outputs, version=version)
    Store(engine).insert(f"segment {record.id}", 1, [record], [])
    if dataset is HOUSING:
        truths = np.clip(outputs[:, 0] + (2 if wrong else 0.1), 0, 5).tolist()
    else:
        truths = ((outputs.argmax(axis=1) + wrong) % 3).tolist()
    feedback.give(engine, [Truth(record.id, row, truth) for row, truth in enumerate(truths)])
    quality.refresh(engine)


@pytest.mark.parametrize("wrong", [True, False])
@pytest.mark.parametrize("dataset", [HOUSING, IRIS], ids=lambda dataset: dataset.name)
def test_live_quality_asks_where_it_is_worse_than_tested(
    engine: Engine,
    versions: tuple[Path, dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    dataset: Dataset,
    wrong: bool,
) -> None:
    # The card of a tiny model has no such score.
    metrics = {"rmse": 0.5} if dataset is HOUSING else {"accuracy": 0.95}
    card = tiny_models.artifact(dataset)[1].model_copy(update={"metrics": metrics})
    tags = versions[1] | {dataset.name: str(tiny_models.store(dataset, card=card).tag.version)}
    directory = versions[0].parent / f"models of {dataset.name}"
    tiny_models.pin(directory, tags)
    monkeypatch.setenv("MODELS_DIR", str(directory))
    answer(engine, dataset, tags[dataset.name], wrong=wrong)
    # An older version that is not deployed any more triggers nothing.
    answer(engine, dataset, "of before", wrong=True)
    look = triggers(engine)
    look()
    look()
    assert asked(engine) == ([(dataset.name, Trigger.QUALITY)] if wrong else [])


def test_without_a_deployed_model_quality_says_so(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MODELS_DIR", str(tmp_path / "nothing"))
    answer(engine, IRIS, "v1", wrong=True)
    triggers(engine)()
    assert "iris: live quality cannot be compared" in caplog.text
    assert issubclass(LoopError, BundleError)
