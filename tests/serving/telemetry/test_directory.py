"""Whose files a server finds in its metrics directory, and what it removes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from contract.errors import StartupError
from serving.telemetry import directory
from serving.telemetry.directory import LOCK, claim


@pytest.fixture
def dead() -> int:
    """The id of a process that has ended."""
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    return int(ended.stdout)


def take(path: Path) -> None:
    os.close(claim(path))


def test_what_a_former_server_has_left_is_removed_and_nothing_else(tmp_path: Path, dead: int) -> None:
    take(tmp_path)
    ours = [f"counter_{dead}.db", "counter_dead.db", f"gauge_livesum_{dead}.db", f"histogram_{dead}.folding"]
    ours += [f"flush_{dead}.sock", f"served_{dead}.status", "reload.asked.status", "ledger.lock", "reload.lock"]
    kept = [
        f"counter_{os.getpid()}.db",
        f"flush_{os.getpid()}.sock",
        "notes.txt",
        "my.lock",
        "counter.txt",
        "dead.sock",
    ]
    for name in (*ours, *kept):
        (tmp_path / name).write_text("")
    (tmp_path / "folder").mkdir()
    take(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*kept, "folder", LOCK}


@pytest.mark.parametrize("served", [True, False])
@pytest.mark.parametrize("name", ["important.db", "other_1.db"])
def test_the_files_of_another_program_stop_the_start(tmp_path: Path, name: str, served: bool) -> None:
    if served:
        take(tmp_path)
    (tmp_path / name).write_text("mine")
    with pytest.raises(StartupError, match=f"has not written, such as {name}.*Name another directory"):
        claim(tmp_path)
    assert (tmp_path / name).read_text() == "mine"


def test_metrics_of_another_program_of_the_same_kind_stop_the_start(tmp_path: Path, dead: int) -> None:
    """prometheus_client names its files alike in every program."""
    (tmp_path / f"counter_{dead}.db").write_text("theirs")
    with pytest.raises(StartupError, match="has not written"):
        claim(tmp_path)


def test_a_directory_belongs_to_one_server_at_a_time(tmp_path: Path) -> None:
    held = claim(tmp_path)
    with pytest.raises(StartupError, match="Another server uses"):
        claim(tmp_path)
    os.close(held)
    take(tmp_path)


def test_a_temporary_directory_is_for_its_user_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert Path(directory.temporary()).stat().st_mode & 0o777 == 0o700
    directory.check_temporary()
    assert len(list(tmp_path.iterdir())) == 1


def test_no_place_for_temporary_files_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file"))
    with pytest.raises(StartupError, match=r"Temporary files cannot be made .*TMPDIR"):
        directory.temporary()
