"""``make load`` and ``make load-ui`` with a service of their own: see also ``tests/integration/test_load.py``."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from load_tests.summary import Summary
from local_service import PROJECT, free_port
from tests.load_tests.conftest import BEHIND_A_PROXY
from tests.waiting import answers, wait_until

pytestmark = pytest.mark.integration


def test_a_service_that_does_not_start_is_told(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "load_tests.run"],
        cwd=PROJECT,
        env={**os.environ, "MODELS_DIR": str(tmp_path), "BENTOML_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 1
    assert "make train" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    "stop",
    [
        pytest.param(lambda process: os.kill(process.pid, signal.SIGTERM), id="terminated"),
        pytest.param(lambda process: os.killpg(process.pid, signal.SIGINT), id="Ctrl-C"),
    ],
)
def test_the_page_runs_a_test_and_everything_stops(
    stop: Callable[["subprocess.Popen[str]"], None], tiny: dict[str, str], features: Path, tmp_path: Path
) -> None:
    port = free_port()
    page = f"http://127.0.0.1:{port}"
    log = tmp_path / "log"
    with log.open("w") as sink:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "load_tests.run", "--ui", "--web-port", str(port)),
                *("--features", str(features), "--summary", str(tmp_path / "summary.json")),
            ],
            cwd=PROJECT,
            env={**BEHIND_A_PROXY, **tiny},
            stdout=sink,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
    try:
        wait_until(lambda: answers(page), "Locust's page answers")
        assert page in log.read_text()
        host = re.search(r"http://127\.0\.0\.1:\d+", httpx.get(page).text)
        assert host is not None
        assert answers(f"{host.group()}/readyz")
        form = {"user_count": 12, "spawn_rate": 12, "run_time": "60s", "host": host.group()}
        options = {"shape": "steady", "arrivals": "gamma", "variation": "2", "rate": "100", "bad_share": "0.1"}
        assert httpx.post(f"{page}/swarm", data={**form, **options}).json()["success"]
        wait_until(
            lambda: httpx.get(f"{page}/stats/requests").json()["stats"][-1]["num_requests"] > 20, "requests are sent"
        )
        assert httpx.get(f"{page}/stats/requests").json()["errors"] == []
    finally:
        stop(process)
        try:
            process.wait(timeout=60)
        finally:
            # Nothing happens where all of it has ended.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert not answers(page)
    assert not answers(f"{host.group()}/readyz")
    assert Summary.model_validate_json((tmp_path / "summary.json").read_bytes()).load.startswith("100 requests/s of 12")
