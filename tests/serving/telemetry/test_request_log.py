import logging
import re
from pathlib import Path

import pytest

from contract.errors import InvalidInput, Reason
from serving.errors import DeadlineExceeded, InferenceFailed, NotFound, Overloaded
from serving.telemetry import request_id
from serving.telemetry.logs import ConsoleFormatter
from serving.telemetry.request_log import LINES_PER_SECOND, RequestLog

FIELDS = {"route": "/predict/iris", "status": 1}


@pytest.mark.parametrize("asked", ["a", "3f2504e0-4f89-41d3-9a0c-0305e82c3301", "trace:1/2.3=4+5@6_7", "x" * 128])
def test_an_identifier_is_taken(asked: str) -> None:
    assert request_id.begin(asked) == asked == request_id.CURRENT.get()


@pytest.mark.parametrize("asked", [None, "", "x" * 129, "two words", "line\nbreak", 'quo"te', "naïve", "{}"])
def test_an_odd_identifier_is_replaced(asked: str | None) -> None:
    made = request_id.begin(asked)
    assert re.fullmatch("[0-9a-f]{32}", made)
    assert made == request_id.CURRENT.get() != request_id.begin(asked)


@pytest.mark.parametrize(
    ("status", "seconds", "error", "level", "event"),
    [
        (400, 0.1, InvalidInput("x"), "INFO", "request refused"),
        (404, 0.1, NotFound("x"), "INFO", "request refused"),
        (499, 0.1, None, "INFO", "request refused"),
        (429, 0.1, Overloaded("x", 1), "WARNING", "request shed"),
        (500, 0.1, InferenceFailed("x"), "ERROR", "request failed"),
        (500, 0.1, KeyError("x"), "ERROR", "request failed"),
        (504, 9.0, DeadlineExceeded("x"), "WARNING", "request failed"),
        (200, 9.0, None, "WARNING", "request slow"),
        (200, 0.1, None, "DEBUG", "request answered"),
    ],
)
def test_levels(
    caplog: pytest.LogCaptureFixture, status: int, seconds: float, error: Exception | None, level: str, event: str
) -> None:
    log = RequestLog(slow_seconds=1)
    with caplog.at_level("INFO", "serving"):
        assert log.wants(status, seconds) == (level != "DEBUG")
    with caplog.at_level("DEBUG", "serving"):
        assert log.wants(status, seconds)
        log.write(status, seconds, error, FIELDS)
    (record,) = caplog.records
    assert (record.levelname, record.getMessage()) == (level, event)
    # Errors of our tree tell all in their sentence; only a bug has a stack.
    assert bool(record.exc_info) == isinstance(error, KeyError)


def test_a_refusal_has_its_reasons_and_not_its_sentence(caplog: pytest.LogCaptureFixture) -> None:
    error = InvalidInput("MedInc: -7.77 is too low", refused={("MedInc", Reason.OUT_OF_RANGE): 3})
    with caplog.at_level("INFO", "serving"):
        RequestLog(slow_seconds=1).write(400, 0.1, error, FIELDS)
    (record,) = caplog.records
    assert vars(record)["refused"] == [{"feature": "MedInc", "reason": "out_of_range", "rows": 3}]
    assert "7.77" not in str(vars(record))


def test_lines_that_callers_cause_are_limited(caplog: pytest.LogCaptureFixture) -> None:
    now = 5.0
    log = RequestLog(slow_seconds=1, clock=lambda: now)
    with caplog.at_level("INFO", "serving"):
        for _ in range(100):
            log.write(400, 0.1, None, FIELDS)
            log.write(500, 0.1, None, FIELDS)
        now = 6.0
        log.write(400, 0.1, None, FIELDS)
    refused = [record for record in caplog.records if record.levelname == "INFO"]
    assert len(refused) == LINES_PER_SECOND + 1
    assert vars(refused[-1])["left_out"] == 100 - LINES_PER_SECOND
    # What is our fault is told each time: the identifier of each answer leads to its line.
    assert len(caplog.records) - len(refused) == 100


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("sha-6ea34760d423", "sha-6ea34760d423"),
        (Reason.MISSING, "missing"),
        (429, "429"),
        (0.547, "0.547"),
        (True, "True"),
        (None, "None"),
        (Path("logs/service.log"), "logs/service.log"),
        ("", "''"),
        ("two words", "'two words'"),
        ("a\nb\x1b[31m", r"'a\nb\x1b[31m'"),
        ("status=200", "'status=200'"),
        (["API_KEYS", "ADMIN_KEYS"], "[API_KEYS, ADMIN_KEYS]"),
        ([{"feature": "MedInc", "reason": Reason.MISSING, "rows": 1}], "[{feature: MedInc, reason: missing, rows: 1}]"),
        ({"odd, key": "\u202e"}, r"{'odd, key': '\u202e'}"),
    ],
)
def test_a_line_for_people_has_values_as_people_write_them(value: object, written: str) -> None:
    record = logging.getLogger("serving.x").makeRecord(
        "serving.x", logging.WARNING, "f", 1, "request %s", ("shed",), None, extra={"value": value}
    )
    line = ConsoleFormatter().format(record)
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3} WARNING serving\.x request shed value=.*", line)
    assert line.partition(" value=")[2] == written
