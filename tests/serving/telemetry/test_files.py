"""Files of values on a disk without room. A limit on the size of files stands for it: that needs no root."""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client.mmap_dict import MmapedDict

from local_service import PROJECT
from serving.telemetry import files
from serving.telemetry.files import ReservedFile, ValueFile


@contextmanager
def no_room(size: int) -> Iterator[None]:
    """No file may grow beyond this size."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "RETRY_SECONDS", 0)
    monkeypatch.setattr(files, "_FILES", [])
    monkeypatch.setattr(files, "_told", files._Told())


def written(path: Path) -> dict[str, float]:
    return {key: value for key, value, _, _ in MmapedDict.read_all_values_from_file(str(path))}


def test_the_space_of_a_file_is_taken_before_it_is_used(tmp_path: Path) -> None:
    path = tmp_path / "counter_1.db"
    made = ReservedFile(str(path))
    assert path.stat().st_blocks * 512 >= path.stat().st_size == 65_536
    for number in range(2000):
        made.write_value(f"key {number} {'x' * 40}", number, 0.0)
    assert path.stat().st_blocks * 512 >= path.stat().st_size > 65_536
    assert len(written(path)) == 2000
    made.close()


def test_without_room_known_values_go_on_and_new_ones_wait(tmp_path: Path) -> None:
    path = tmp_path / "counter_1.db"
    made = ValueFile(str(path))
    made.write_value("known", 1.0, 0.0)
    with no_room(65_536):
        for number in range(2000):
            assert made.read_value(f"key {number} {'x' * 40}") == (0.0, 0.0)
            made.write_value(f"key {number} {'x' * 40}", number, 0.0)
        made.write_value("known", 2.0, 0.0)
        assert written(path)["known"] == 2.0
        waiting = made.tend()
        assert 0 < waiting < 2000
        assert len(written(path)) == 2001 - waiting
    assert files.tend() == 0
    found = written(path)
    assert len(found) == 2001
    assert sum(found.values()) == sum(range(2000)) + 2.0
    made.close()


def test_without_any_room_all_values_wait(tmp_path: Path) -> None:
    path = tmp_path / "counter_1.db"
    with no_room(0):
        made = ValueFile(str(path))
        made.write_value("first", 1.0, 0.0)
        made.write_value("first", 5.0, 0.0)
        assert made.read_value("first") == (5.0, 0.0)
        assert made.tend() == 1
        assert not list(tmp_path.iterdir()), "a scrape would stumble over an empty file"
    made.write_value("second", 1.0, 0.0)
    assert written(path) == {"first": 5.0, "second": 1.0}
    made.close()


def test_it_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with no_room(0):
        made = [ValueFile(str(tmp_path / f"counter_{number}.db")) for number in range(3)]
        for file in made:
            file.write_value("one", 1.0, 0.0)
    assert files.tend() == 0
    assert files.tend() == 0
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]
    for file in made:
        file.close()


LEGACY = """
import resource, sys
from prometheus_client import Counter
import serving.telemetry
from serving.telemetry import files
files.RETRY_SECONDS = 0
many = Counter("many", "Many.", ["label"])
for number in range(int(sys.argv[1])):
    many.labels(f"label {number} {'x' * 40}").inc()
"""


def test_prometheus_client_writes_to_our_files(tmp_path: Path) -> None:
    """The names that we put in its place: an upgrade that moves them fails here."""
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", LEGACY, "2000"], cwd=PROJECT, env=environment, check=True)
    (file,) = [path for path in tmp_path.glob("counter_*.db") if len(written(path)) >= 2000]
    assert file.stat().st_blocks * 512 >= file.stat().st_size
