"""Lines of the log on their way to a pipe that is full or closed, and to a file on a full disk."""

import errno
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger import log_output
from ledger.log_output import MOST_LINES, FileHandler, LineHandler
from local_service import PROJECT
from tests.waiting import wait_until

PROGRAM = """
import logging, sys, time
from ledger import log_output
logging.basicConfig(handlers=[log_output.OutputHandler()], level="INFO", format="%(message)s")
begun = time.monotonic()
for number in range(int(sys.argv[1])):
    logging.info("line %d %s", number, "x" * 100)
print(f"{time.monotonic() - begun:.1f} s, {log_output.dropped()} dropped", file=sys.stderr, flush=True)
sys.stdin.readline()
"""


def program(lines: int) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(lines)],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_what_is_logged_arrives_before_the_end() -> None:
    printed, _ = program(500).communicate("\n", timeout=60)
    assert [line.split()[1] for line in printed.splitlines()] == [str(number) for number in range(500)]


def test_nobody_waits_for_a_reader_that_does_not_read() -> None:
    process = program(5000)  # 500 kB: more than a pipe holds
    assert process.stderr is not None
    said = process.stderr.readline()
    dropped = int(said.split()[2])
    assert dropped > 0
    printed, rest = process.communicate("\n", timeout=60)
    assert rest == ""
    told = [int(line.split()[0]) for line in printed.splitlines() if "lines of the log were dropped" in line]
    whole = [line for line in printed.splitlines() if line.startswith("line ") and line.endswith("x" * 100)]
    assert sum(told) == dropped
    assert len(whole) == 5000 - dropped
    assert len(printed.splitlines()) == len(whole) + len(told)


def test_a_reader_that_has_left_ends_nothing() -> None:
    process = program(2000)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    process.stderr.readline()
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(timeout=60) == 0
    assert process.stderr.read() == ""
    process.stderr.close()


class Stuck(LineHandler):
    """Its lines cannot be written until there is room."""

    def __init__(self) -> None:
        super().__init__()
        self.full = True
        self.lines: list[str] = []

    def write(self, line: str) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.lines.append(line)


@pytest.fixture
def stuck() -> Iterator[Stuck]:
    handler = Stuck()
    logger = logging.getLogger("stuck")
    logger.propagate = False
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)
    handler.close()


def test_lines_that_cannot_be_written_are_counted_and_told_once(stuck: Stuck) -> None:
    logger = logging.getLogger("stuck")
    for number in range(10):
        logger.warning("lost %d", number)
    wait_until(lambda: stuck.dropped == 10, "all are dropped")
    stuck.full = False
    logger.warning("kept")
    logger.warning("kept too")
    stuck.flush()
    assert stuck.lines == ["kept", "10 lines of the log were dropped: they could not be written", "kept too"]


def test_a_line_that_cannot_be_made_hurts_nobody(stuck: Stuck, capsys: pytest.CaptureFixture[str]) -> None:
    stuck.full = False
    stuck.handle(logging.LogRecord("stuck", logging.WARNING, "", 0, "%d", ("text",), None))
    logging.getLogger("stuck").warning("next")
    stuck.flush()
    assert stuck.lines == ["next"]
    assert "Logging error" in capsys.readouterr().err


def test_a_file_is_rotated(tmp_path: Path) -> None:
    handler = FileHandler(tmp_path / "log", most_bytes=200, backups=2)
    for number in range(20):
        handler.emit(logging.makeLogRecord({"msg": f"line {number} {'x' * 40}"}))
    handler.flush()
    handler.close()
    assert {path.name for path in tmp_path.iterdir()} == {"log", "log.1", "log.2"}
    assert "line 19" in (tmp_path / "log").read_text()


def test_a_flush_waits_for_a_second_at_most() -> None:
    class Slow(LineHandler):
        def write(self, line: str) -> None:  # noqa: ARG002
            time.sleep(5)

    handler = Slow()
    for _ in range(MOST_LINES + 10):
        handler.emit(logging.makeLogRecord({"msg": "line"}))
    assert handler.dropped >= 9
    begun = time.monotonic()
    handler.flush()
    assert time.monotonic() - begun < 4


def test_the_handlers_of_the_root_are_counted() -> None:
    assert log_output.dropped() == 0
