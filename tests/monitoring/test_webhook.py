import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from local_service import free_port
from monitoring import webhook
from tests.waiting import wait_until

ALERT = {
    "status": "firing",
    "labels": {"alertname": "NoTraffic"},
    "annotations": {"summary": "No request has arrived."},
    "startsAt": "2026-01-01T00:00:00Z",
}


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Its URL, and the file of its output."""
    port, output = free_port(), tmp_path / "alerts.jsonl"
    with (
        output.open("wb") as sink,
        subprocess.Popen([sys.executable, str(webhook.__file__), "--port", str(port)], stdout=sink) as process,
    ):
        url = f"http://127.0.0.1:{port}"
        with socket.socket() as probe:
            wait_until(lambda: probe.connect_ex(("127.0.0.1", port)) == 0, "the webhook listens")
        try:
            yield url, output
        finally:
            process.terminate()


def test_each_alert_is_a_line(receiver: tuple[str, Path]) -> None:
    url, output = receiver
    message = {"receiver": "tickets", "alerts": [ALERT, ALERT | {"status": "resolved"}]}
    assert httpx.post(f"{url}/tickets", json=message).status_code == 204
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [(line["receiver"], line["status"], line["labels"]["alertname"]) for line in lines] == [
        ("tickets", "firing", "NoTraffic"),
        ("tickets", "resolved", "NoTraffic"),
    ]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"receiver": "x", "alerts": [{}]}'])
def test_what_is_no_message_is_refused(receiver: tuple[str, Path], body: bytes) -> None:
    url, output = receiver
    assert httpx.post(url, content=body).status_code == 400
    assert output.read_text() == ""
