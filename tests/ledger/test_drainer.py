"""The drainer: records get from the spool into the database, each once, whoever is killed and whatever is away."""

import logging
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest
from prometheus_client import Counter, Gauge
from sqlalchemy import Engine, func, select

from ledger import database, drainer, locks, spool
from ledger.drainer import Drainer
from ledger.record import ErrorCount, Record
from ledger.schema import ERRORS, PREDICTIONS, SEGMENTS
from ledger.spool import SpoolWriter, encode_errors, read_segment, segments
from ledger.store import Store
from ledger.supervisor import DRAINER_LOCK, SERVER_LOCK, Supervisor
from serving.settings import Settings
from tests.ledger.records import a_record, encoded
from tests.ledger.test_spool import LIMIT, write
from tests.postgres import PostgreSQL
from tests.processes import alive, arguments
from tests.waiting import wait_until


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "spool"
    spool.prepare(path)
    return path


@pytest.fixture
def draining(directory: Path, store: Store, tmp_path: Path) -> Drainer:
    return Drainer(directory, lambda: store, tmp_path / SERVER_LOCK)


def in_database(engine: Engine) -> list[tuple[str, str, bytes | None, bytes]]:
    """Id, request id, features and outputs of all predictions, by id."""
    table = PREDICTIONS.c
    with engine.connect() as connection:
        found = connection.execute(
            select(table.id, table.request_id, table.features, table.outputs).order_by(table.id)
        ).all()
    return [(row[0].replace("-", ""), row[1], row[2], row[3]) for row in found]


def expected(records: Sequence[Record]) -> list[tuple[str, str, bytes | None, bytes]]:
    return sorted((record.id, record.request_id, record.feature_bytes, record.output_bytes) for record in records)


def value(metric: Counter | Gauge) -> float:
    return next(iter(metric.collect())).samples[0].value


def test_finished_segments_are_moved_and_deleted(directory: Path, draining: Drainer, engine: Engine) -> None:
    before = value(drainer.RECORDS)
    records = [a_record() for _ in range(20)] + [a_record(model="iris", rows=3, protocol="v2")]
    write(directory, records[:7])
    write(directory, records[7:])
    draining.drain()
    assert in_database(engine) == expected(records)
    assert segments(directory) == []
    with engine.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(SEGMENTS)) == 0
    assert value(drainer.RECORDS) - before == 21


def test_a_segment_that_grows_is_followed(directory: Path, draining: Drainer, engine: Engine) -> None:
    writer = SpoolWriter(directory, LIMIT)
    records = [a_record() for _ in range(9)]
    for start in range(0, 9, 3):
        writer.append([encoded(record) for record in records[start : start + 3]])
        draining.drain()
        assert in_database(engine) == expected(records[: start + 3])
    assert len(segments(directory)) == 1
    writer.finish()
    draining.drain()
    assert segments(directory) == []
    assert in_database(engine) == expected(records)


def test_counts_of_errors_get_there(directory: Path, draining: Drainer, engine: Engine) -> None:
    writer = SpoolWriter(directory, LIMIT)
    for requests in (2, 3):
        writer.append([encode_errors(ErrorCount(29_833_333, "iris", "http", 400, requests))])
        draining.drain()
    with engine.connect() as connection:
        assert connection.execute(select(ERRORS)).all() == [(29_833_333, "iris", "http", 400, 5)]


@pytest.mark.parametrize("forgotten", [False, True], ids=["before the delete", "before the end of it"])
def test_nothing_comes_twice_after_a_kill(
    directory: Path, draining: Drainer, store: Store, engine: Engine, *, forgotten: bool
) -> None:
    records = [a_record() for _ in range(5)]
    segment = write(directory, records)
    part = read_segment(segment, 0, finished=True)
    store.insert(segment.name, part.position, part.records, part.errors)
    if forgotten:
        store.forget_segment(segment.name)
    draining.drain()
    assert in_database(engine) == expected(records)
    assert segments(directory) == []


def test_torn_records_are_counted_and_the_others_kept(directory: Path, draining: Drainer, engine: Engine) -> None:
    before = value(drainer.TORN)
    records = [a_record() for _ in range(4)]
    segment = write(directory, records)
    os.truncate(segment, segment.stat().st_size - 1)
    draining.drain()
    assert in_database(engine) == expected(records[:3])
    assert value(drainer.TORN) - before == 1
    assert segments(directory) == []


def test_a_segment_that_was_dropped_meanwhile_is_no_fault(directory: Path, draining: Drainer, engine: Engine) -> None:
    writer = SpoolWriter(directory, LIMIT)
    writer.append([encoded(first := a_record())])
    draining.drain()
    segments(directory)[0].unlink()
    write(directory, [second := a_record()])
    draining.drain()
    assert in_database(engine) == expected([first, second])


def test_a_database_that_is_away_is_told_once_and_gets_everything_later(
    directory: Path, store: Store, engine: Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    there = False

    def open_sink() -> Store:
        if there:
            return store
        away = database.connect(f"postgresql://nobody@/none?host={tmp_path}")
        away.connect()
        raise AssertionError("a database where there is none")

    draining = Drainer(directory, open_sink, tmp_path / SERVER_LOCK)
    records = [a_record() for _ in range(6)]
    for record in records:
        write(directory, [record])
        draining.drain()
        draining.report()
    assert len(segments(directory)) == 6
    assert value(drainer.DATABASE_UP) == 0
    assert value(drainer.LAG) >= time.time() - spool.begun(segments(directory)[0]) - 1
    assert value(drainer.SPOOL_BYTES) == spool.size(directory)
    there = True
    draining.drain()
    draining.report()
    assert in_database(engine) == expected(records)
    assert (value(drainer.DATABASE_UP), value(drainer.SPOOL_BYTES)) == (1, 0)
    assert [record.message for record in caplog.records] == [
        "the ledger's database is away: predictions go on, and wait in the spool",
        "the ledger's database is back",
    ]


def test_a_record_that_the_database_refuses_is_left_out_alone(
    directory: Path, postgresql: PostgreSQL, tmp_path: Path
) -> None:
    engine = database.connect(postgresql.new_database())
    database.migrate(engine)
    before = value(drainer.REFUSED)
    records = [a_record(request_id="no\0text" if number in {3, 11} else f"r{number}") for number in range(20)]
    write(directory, records)
    Drainer(directory, lambda: Store(engine), tmp_path / SERVER_LOCK).drain()
    assert in_database(engine) == expected([record for record in records if "\0" not in record.request_id])
    assert value(drainer.REFUSED) - before == 2
    assert segments(directory) == []
    engine.dispose()


def test_it_runs_until_its_server_is_gone_and_calls_what_is_due(
    directory: Path, draining: Drainer, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drainer, "POLL_SECONDS", 0.02)
    calls: list[str] = []

    def fails() -> None:
        calls.append("fails")
        raise ValueError("a bug")

    draining.every(0, fails)
    draining.every(0, lambda: calls.append("follows"))
    draining.every(3600, lambda: calls.append("rare"))
    server = locks.acquire(tmp_path / SERVER_LOCK, shared=True)
    assert server is not None
    thread = threading.Thread(target=draining.run)
    thread.start()
    wait_until(lambda: calls.count("follows") > 2, "what is due is called")
    assert calls.count("rare") == 1
    record = a_record()
    writer = SpoolWriter(directory, LIMIT)
    writer.append([encoded(record)])
    writer.finish()
    os.close(server)
    thread.join(timeout=30)
    assert not thread.is_alive()
    assert in_database(engine) == expected([record])


class Server:
    """Workers of one server, and the drainer that they see to."""

    def __init__(self, root: Path, directory: Path, **settings: str) -> None:
        self.root = root
        self.root.mkdir()
        environment = Settings.from_environment({"STATE_DIR": str(directory.parent), **settings}).drainer_environment()
        self._environment = {**environment, "PROMETHEUS_MULTIPROC_DIR": str(root)}
        self._directory = directory

    def worker(self) -> Supervisor:
        return Supervisor(self._directory, self.root, self._environment)

    def drainers(self) -> list[psutil.Process]:
        wanted = ["ledger.drainer", str(self._directory), str(self.root / SERVER_LOCK)]
        # A process that has just been started has no command line for a moment.
        wait_until(lambda: all(arguments(one) for one in alive(psutil.Process().children())), "all have a command line")
        return [one for one in psutil.Process().children() if arguments(one)[-3:] == wanted]


@pytest.fixture
def server(tmp_path: Path, directory: Path) -> Iterator[Server]:
    made = Server(tmp_path / "server", directory)
    yield made
    for process in made.drainers():
        process.kill()


def test_workers_keep_one_drainer_which_ends_with_them(tmp_path: Path, directory: Path, server: Server) -> None:
    first, second = server.worker(), server.worker()
    for worker in (first, second, first):
        worker.tend()
    (running,) = server.drainers()
    engine = database.connect(database.default_url(tmp_path))
    write(directory, records := [a_record() for _ in range(3)])
    wait_until(lambda: not segments(directory), "the spool is drained")
    # Whoever stops a server may signal all that it has started.
    for number in (signal.SIGTERM, signal.SIGINT):
        running.send_signal(number)
    second.finish(30)
    running.kill()
    write(directory, more := [a_record() for _ in range(3)])

    def another_runs() -> bool:
        first.tend()
        return bool(left := server.drainers()) and running not in left

    wait_until(another_runs, "another one runs")
    first.finish(30)
    assert server.drainers() == []
    assert segments(directory) == []
    assert in_database(engine) == expected([*records, *more])
    engine.dispose()


def test_the_last_worker_starts_a_drainer_if_there_is_none(tmp_path: Path, directory: Path, server: Server) -> None:
    worker = server.worker()
    write(directory, [record := a_record()])
    worker.finish(30)
    assert server.drainers() == []
    engine = database.connect(database.default_url(tmp_path))
    assert in_database(engine) == expected([record])
    engine.dispose()


def test_services_share_a_spool(tmp_path: Path, directory: Path, server: Server) -> None:
    other = Server(tmp_path / "other", directory)
    ours, theirs = server.worker(), other.worker()
    ours.tend()
    theirs.tend()
    assert len(server.drainers()) == 1
    assert other.drainers() == []
    # It does not wait for a drainer that goes on, and that goes on with its records.
    write(directory, [a_record()])
    theirs.finish(30)
    wait_until(lambda: not segments(directory), "the spool is drained")
    ours.finish(30)
    assert not locks.is_held(directory / DRAINER_LOCK)


def test_a_drainer_that_fails_at_once_is_not_started_at_every_turn(
    tmp_path: Path, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server(tmp_path / "server", directory, DATABASE_URL="sqlite:///")
    worker = server.worker()
    worker.tend()

    def has_failed() -> bool:
        worker.tend()
        return "the ledger's drainer failed" in caplog.text

    wait_until(has_failed, "it has failed")
    for _ in range(5):
        worker.tend()
    assert server.drainers() == []
    worker.finish(30)


def test_a_copy_of_a_spool_is_drained_once(directory: Path, draining: Drainer, engine: Engine, tmp_path: Path) -> None:
    records = [a_record() for _ in range(3)]
    segment = write(directory, records)
    shutil.copy(segment, tmp_path)
    draining.drain()
    shutil.copy(tmp_path / segment.name, directory)
    draining.drain()
    assert in_database(engine) == expected(records)
