import logging
import os
import signal
from collections.abc import Iterator

import pytest

from contract.errors import DataError
from training import console


@pytest.fixture(autouse=True)
def _signal_handler() -> Iterator[None]:
    former = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, former)


def test_step_says_what_and_how_long(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "training"), console.step("iris: count petals"):
        pass
    assert [record.message for record in caplog.records] == [
        "iris: count petals …",
        "iris: count petals: done in 0.0 s",
    ]


def test_success_is_status_0() -> None:
    assert console.run(lambda: None) == 0


def test_error_of_ours_is_a_sentence_and_status_1(caplog: pytest.LogCaptureFixture) -> None:
    def stage() -> None:
        raise DataError("MedInc, row 3: the value is missing.")

    assert console.run(stage) == 1
    (record,) = caplog.records
    assert record.message == "MedInc, row 3: the value is missing."
    assert record.exc_info is None


def test_bug_keeps_its_traceback() -> None:
    def stage() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        console.run(stage)


def test_termination_unwinds_the_stage() -> None:
    undone = []

    def stage() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        finally:
            undone.append(True)

    with pytest.raises(SystemExit) as stopped:
        console.run(stage)
    assert stopped.value.code == 128 + signal.SIGTERM
    assert undone
