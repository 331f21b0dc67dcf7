"""The requests that the page to try the models shows, sent as they stand there."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from contract.dataset import Dataset
from local_service import PROJECT
from tests.integration.browser import Page

CLIENTS = PROJECT / ".venv" / "clients" / "bin" / "python"


def requests_of(page: Page, dataset: Dataset, key: str) -> dict[str, Any]:
    """What each request is answered, by its name: flat JSON, and the row of tritonclient's last output."""
    assert CLIENTS.exists(), "the clients of other projects are not installed: make .venv/.clients"

    def run(name: str, *command: str, more: str = "") -> str:
        code = page.run(f"document.querySelector('pre.{name}').textContent")
        ended = subprocess.run(
            [*command, code + more],
            env={**os.environ, "API_KEY": key},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert not ended.returncode, f"{code}\n{ended.stderr}"
        return ended.stdout.splitlines()[-1]

    last = "probabilities" if dataset.target.classes else "predict"
    shown = f"\nprint(result.as_numpy('{last}').ravel().tolist())"
    return {
        "curl": json.loads(run("curl", "bash", "-c")),
        "httpx": json.loads(run("httpx", sys.executable, "-c", more="\nprint(answer.text)")),
        "tritonclient": json.loads(run("tritonclient", str(CLIENTS), "-c", more=shown)),
    }


def answers_alike(answer: Any, expected: dict[str, Any]) -> bool:
    """Whether an answer of ``requests_of`` has the values of a prediction in flat JSON."""
    if isinstance(answer, list):
        return answer == pytest.approx(list(expected.get("probabilities", {"": expected.get("prediction")}).values()))
    return {**answer, "prediction_id": ""} == {**expected, "prediction_id": ""}
