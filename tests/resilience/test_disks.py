"""Full disks: predictions go on, and what could not be written is told or counted once there is room."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from contract.datasets.iris import IRIS
from local_service import PROJECT, free_port
from serving.telemetry.directory import VARIABLE
from tests.resilience.disks import fill, small_disk
from tests.resilience.trees import counted, parent_of, until_workers_started, workers_of
from tests.serving.running import running
from tests.waiting import answers, wait_until

pytestmark = pytest.mark.integration

PREDICTIONS = 'ml_predictions_total{model="iris",version="%s"}'


def predict(client: httpx.Client, times: int = 50) -> None:
    for _ in range(times):
        client.post("/predict/iris", json=IRIS.example).raise_for_status()


def test_a_full_metrics_directory_stops_no_prediction(pinned: Path, stored: dict[str, str], tmp_path: Path) -> None:
    series = PREDICTIONS % stored["iris"]
    with (
        small_disk(tmp_path / "disk") as disk,
        running(pinned, tmp_path / "log", WORKERS="2", **{VARIABLE: str(disk / "metrics")}) as service,
    ):
        parent = parent_of(int(service.client.base_url.port or 0))
        first = {one.pid for one in workers_of(parent)}
        ballast = fill(disk)
        predict(service.client)
        assert {one.pid for one in workers_of(parent)} == first, "nobody died of it"
        # The space of what exists is taken already: known series go on.
        wait_until(lambda: counted(service.client, series) == 50, "all are counted")

        # A worker that starts now has no files at all.
        os.kill(min(first), 9)
        wait_until(lambda: len({one.pid for one in workers_of(parent)} - first) == 1, "another one is started")
        wait_until(lambda: "metrics cannot be written" in service.log.read_text(), "it says so")
        predict(service.client, 200)
        assert len({one.pid for one in workers_of(parent)} & first) == 1
        assert service.client.get("/readyz").is_success

        ballast.unlink()
        until_workers_started(service.client, 3)
        wait_until(lambda: counted(service.client, series) == 250, "what waited is counted")
        wait_until(lambda: "metrics are written again" in service.log.read_text(), "it says so")
        lines = service.log.read_text()
        # Each worker that has something new to count says it once; the killed one may have, too.
        assert 1 <= lines.count("metrics are written again") <= lines.count("metrics cannot be written") <= 3
        assert lines.count("a disk is nearly full") <= 3 * 2, "once for each worker and place"
        assert "Traceback" not in lines


def test_a_full_disk_of_the_ledger_stops_no_prediction(pinned: Path, tmp_path: Path) -> None:
    with (
        small_disk(tmp_path / "disk") as disk,
        running(pinned, tmp_path / "log", WORKERS="1", LEDGER="on", STATE_DIR=str(disk / "state")) as service,
    ):
        predict(service.client)
        ballast = fill(disk)
        for _ in range(20):
            predict(service.client, 100)
        wait_until(lambda: counted(service.client, "ml_ledger_unwritten_total") > 0, "what is lost is counted")
        wait_until(lambda: counted(service.client, 'ml_disk_free_bytes{place="ledger"}') < 1024**2, "the gauge says so")
        ballast.unlink()
        lost = counted(service.client, "ml_ledger_unwritten_total")

        def records_again() -> bool:
            predict(service.client, 10)
            return "the ledger records again" in service.log.read_text()

        wait_until(records_again, "it records again")
        assert counted(service.client, "ml_ledger_unwritten_total") - lost < 1000
        assert "Traceback" not in service.log.read_text()


def test_full_temporary_files_and_log_stop_no_prediction(pinned: Path, tmp_path: Path) -> None:
    with (
        small_disk(tmp_path / "disk") as disk,
        running(
            pinned,
            tmp_path / "log",
            WORKERS="2",
            TMPDIR=str(disk),
            LOG_FILE=str(disk / "service.log"),
            SLOW_REQUEST_MS="0.001",
        ) as service,
    ):
        fill(disk)
        predict(service.client, 300)
        wait_until(lambda: counted(service.client, "ml_log_dropped_lines_total") > 0, "dropped lines are counted")
        parent = parent_of(int(service.client.base_url.port or 0))
        workers_of(parent)[0].kill()
        until_workers_started(service.client, 3)
        predict(service.client, 100)
        assert "Traceback" not in service.log.read_text()


@pytest.mark.parametrize("reader", ["stops", "leaves"])
def test_a_reader_of_the_log_that_does_not_read_stops_nothing(pinned: Path, tmp_path: Path, reader: str) -> None:
    """A full pipe blocks who writes to it, and a closed one fails."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environment = {
        **{name: text for name, text in os.environ.items() if name != VARIABLE},
        "API_HOST": "127.0.0.1",
        "API_PORT": str(port),
        "GRPC_PORT": str(free_port()),
        "MODELS_DIR": str(pinned),
        "WORKERS": "1",
        "STATE_DIR": str(tmp_path / "state"),
        "LOG_LEVEL": "DEBUG",  # else at most some lines a second are written
        "LOG_FORMAT": "json",
    }
    with (tmp_path / "errors").open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "bentoml", "serve"],
            cwd=PROJECT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
    assert process.stdout is not None
    try:
        wait_until(lambda: answers(f"{url}/readyz"), "it is ready")
        if reader == "leaves":
            process.stdout.close()
        with httpx.Client(base_url=url, timeout=20) as client:
            deadline = time.monotonic() + 120
            while counted(client, "ml_log_dropped_lines_total") == 0:
                predict(client)
                assert time.monotonic() < deadline
            predict(client)
        begun = time.monotonic()
        process.terminate()
        process.wait(timeout=60)
        assert time.monotonic() - begun < 60
        assert "Traceback" not in (tmp_path / "errors").read_text()
    finally:
        process.kill()
        process.wait()
        if not process.stdout.closed:
            for line in process.stdout.read().splitlines():
                json.loads(line)
            process.stdout.close()
