"""The worker with real processes, and a small program in the place of the pipeline."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from sqlalchemy import Engine

from ledger import database, jobs
from ledger.jobs import Job, State, Trigger
from local_service import PROJECT
from loop.errors import LoopError
from loop.worker import Worker, main
from serving.telemetry.scrape import is_alive
from tests.ledger.conftest import database_url as database_url
from tests.ledger.conftest import engine as engine
from tests.ledger.conftest import postgresql as postgresql
from tests.waiting import wait_until

PIPELINE = """
import json, os, pathlib, subprocess, sys, time

result, folder, how = sys.argv[1:]
folder = pathlib.Path(folder)
# As deep as `dvc repro` with a stage that starts a server: one is in a session of its own.
for options in ({}, {"start_new_session": True}):
    child = subprocess.Popen(["sh", "-c", "sleep 600 & wait"], **options)
    with (folder / "pids").open("a") as file:
        file.write(f"{child.pid} ")
with (folder / "pids").open("a") as file:
    file.write(f"{os.getpid()} ")
(folder / "started").touch()
print("[ 10 %] train", flush=True)
if how == "waits":
    time.sleep(600)
print("[ 60 %] compare", flush=True)
print("a word that is not UTF-8:", flush=True)
sys.stdout.buffer.write(b"\\xff\\n")
pathlib.Path(result).write_text(json.dumps({"reason": "It is so.", "rmse": 0.5}))
if how == "fails":
    print("12:00:00 ERROR there is no champion", flush=True)
    print("bye", flush=True)
sys.exit({"fails": 1, "refuses": 3}.get(how, 0))
"""


def pids(folder: Path) -> list[int]:
    return [int(pid) for pid in (folder / "pids").read_text().split()]


def alive(folder: Path) -> list[int]:
    return [pid for pid in pids(folder) if is_alive(pid)]


def command(folder: Path, how: str) -> Callable[[Job, Path], Sequence[str]]:
    def make(_: Job, result: Path) -> list[str]:
        return [sys.executable, "-c", PIPELINE, str(result), str(folder), how]

    return make


@contextmanager
def working(engine: Engine, folder: Path, how: str, *, lease_seconds: float = 30) -> Iterator[Worker]:
    worker = Worker(engine, command(folder, how), lease_seconds=lease_seconds, poll_seconds=0.05)
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        yield worker
    finally:
        worker.stop()
        thread.join(timeout=60)
        assert not thread.is_alive()


def ask(engine: Engine) -> Job:
    return jobs.request(engine, "housing", Trigger.PERSON, "somebody", None)[0]


def job_of(engine: Engine, number: int) -> Job:
    found = jobs.find(engine, number)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("how", "state", "reason"),
    [
        ("succeeds", State.DONE, "It is so."),
        ("refuses", State.REFUSED, "It is so."),
        ("fails", State.FAILED, "status 1 while it was at: compare. 12:00:00 ERROR there is no champion"),
    ],
)
def test_a_job_is_run_and_its_end_is_on_record(
    engine: Engine, tmp_path: Path, how: str, state: State, reason: str
) -> None:
    job = ask(engine)
    with working(engine, tmp_path, how):
        wait_until(lambda: job_of(engine, job.id).finished_us, "the job ends")
        assert jobs.worker_seen_us(engine) is not None
    ended = job_of(engine, job.id)
    assert (ended.state, ended.stage, ended.attempts) == (state, "compare", 1)
    assert reason in str(ended.reason)
    assert "[ 60 %] compare" in ended.log
    assert ended.result == (None if state is State.FAILED else {"rmse": 0.5})
    # What the command had left over has ended with it.
    assert not alive(tmp_path)
    assert jobs.worker_seen_us(engine) is None


def test_stage_and_log_are_on_record_while_a_job_runs(engine: Engine, tmp_path: Path) -> None:
    job = ask(engine)
    with working(engine, tmp_path, "waits", lease_seconds=3) as worker:
        wait_until(lambda: job_of(engine, job.id).stage == "train", "it trains")
        running = job_of(engine, job.id)
        assert (running.state, running.progress) == (State.RUNNING, 0.1)
        assert "[ 10 %] train" in running.log
        worker.stop()
        wait_until(lambda: job_of(engine, job.id).state is State.QUEUED, "the job waits again")
        # It was stopped, not lost: that was no attempt.
        assert job_of(engine, job.id).attempts == 0
    assert not alive(tmp_path)


def test_once_ends_when_no_job_waits(engine: Engine, tmp_path: Path) -> None:
    """As a CronJob runs it."""
    numbers = [ask(engine).id, jobs.request(engine, "iris", Trigger.PERSON, "somebody", None)[0].id]
    Worker(engine, command(tmp_path, "succeeds")).run(once=True)
    assert [job_of(engine, number).state for number in numbers] == [State.DONE, State.DONE]
    assert jobs.worker_seen_us(engine) is None


def test_whether_a_worker_of_this_machine_is_there_can_be_asked(
    engine: Engine, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    jobs.see_worker(engine, "another_machine:1", 0)
    with pytest.raises(LoopError, match="No worker of"):
        main(["--seen"])
    jobs.see_worker(engine, f"{socket.gethostname()}:1", 0)
    main(["--seen"])
    monkeypatch.setattr(jobs, "SEEN_SECONDS", 0)
    with pytest.raises(LoopError, match="No worker of"):
        main(["--seen"])


def test_two_workers_run_one_job_at_a_time(engine: Engine, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    one = ask(engine)
    with working(engine, first, "waits"), working(engine, second, "waits"):
        wait_until(lambda: (first / "started").exists() or (second / "started").exists(), "one begins")
        other = jobs.request(engine, "iris", Trigger.PERSON, "somebody", None)[0]
        # Both look for jobs many times meanwhile.
        time.sleep(0.5)
        assert job_of(engine, one.id).state is State.RUNNING
        assert job_of(engine, other.id).state is State.QUEUED
        assert (first / "started").exists() != (second / "started").exists()


def test_a_worker_that_has_lost_its_lease_ends_what_it_runs(engine: Engine, tmp_path: Path) -> None:
    job = ask(engine)
    with working(engine, tmp_path, "waits", lease_seconds=2):
        wait_until((tmp_path / "started").exists, "it begins")
        # As if it had been asleep for long: the next one takes the job.
        other = None
        while other is None:
            other = jobs.claim(engine, "other", lease_seconds=-1)
        assert (other.id, other.attempts) == (job.id, 2)
        wait_until(lambda: not alive(tmp_path), "no process is left")
        assert job_of(engine, job.id).owner == other.owner
        assert jobs.finish(engine, other, State.DONE, "It is better.", None, stage="end", log="")


SCRIPT = """
import sys
from pathlib import Path
from ledger import database
from loop.errors import LoopError
from loop.worker import Worker, main
from tests.loop.test_worker import command

url, folder, how = sys.argv[1:]
print("ready", flush=True)
Worker(database.connect(url), command(Path(folder), how), lease_seconds=2, poll_seconds=0.05).run()
"""


def start(url: str, folder: Path, how: str) -> "subprocess.Popen[bytes]":
    folder.mkdir(exist_ok=True)
    program = [sys.executable, "-c", SCRIPT, url, str(folder), how]
    return subprocess.Popen(program, cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.integration  # three workers, one after the other: 8 s
def test_a_killed_worker_leaves_no_process_and_its_job_is_taken_up_once(
    engine: Engine, database_url: str, tmp_path: Path
) -> None:
    job = ask(engine)
    for attempt in (1, 2):
        folder = tmp_path / str(attempt)
        worker = start(database_url, folder, "waits")
        wait_until((folder / "started").exists, "it begins")
        assert job_of(engine, job.id).attempts == attempt
        assert len(alive(folder)) == 3
        worker.kill()
        worker.wait()
        wait_until(lambda: not alive(folder), "no process is left")  # noqa: B023 - it is asked here
    third = start(database_url, tmp_path / "3", "succeeds")
    try:
        wait_until(lambda: job_of(engine, job.id).state is State.FAILED, "the job fails")
        assert "lost 2 times" in str(job_of(engine, job.id).reason)
        assert not (tmp_path / "3" / "started").exists()
        # It goes on with the next one.
        following = ask(engine)
        wait_until(lambda: job_of(engine, following.id).state is State.DONE, "the job is done")
    finally:
        third.terminate()
        third.wait()


def test_what_guards_a_job_may_be_killed_too(engine: Engine, tmp_path: Path) -> None:
    job = ask(engine)
    with working(engine, tmp_path, "waits", lease_seconds=30):
        wait_until((tmp_path / "started").exists, "it begins")
        guard = psutil.Process(pids(tmp_path)[-1]).parent()
        assert guard is not None
        os.kill(guard.pid, signal.SIGKILL)
        wait_until(lambda: job_of(engine, job.id).state is State.FAILED, "the job fails")
        assert "status -9" in str(job_of(engine, job.id).reason)
        assert not alive(tmp_path)


def test_a_worker_waits_for_a_database_that_is_away(tmp_path: Path) -> None:
    """A folder in the place of the file: SQLite cannot open it."""
    path = tmp_path / "ledger.db"
    path.mkdir()
    engine = database.connect(f"sqlite:///{path}")
    with working(engine, tmp_path, "succeeds"):
        time.sleep(0.2)
        path.rmdir()
        database.migrate(engine)
        job = ask(engine)
        wait_until(lambda: job_of(engine, job.id).state is State.DONE, "the job is done")
    engine.dispose()


def test_a_job_ends_when_its_lease_cannot_be_renewed(tmp_path: Path) -> None:
    engine = database.connect(database.default_url(tmp_path))
    database.migrate(engine)
    ask(engine)
    with working(engine, tmp_path, "waits", lease_seconds=1.5):
        wait_until((tmp_path / "started").exists, "it begins")
        path = tmp_path / "ledger.db"
        path.rename(tmp_path / "elsewhere.db")
        path.mkdir()
        engine.dispose()
        wait_until(lambda: not alive(tmp_path), "no process is left")
    engine.dispose()
