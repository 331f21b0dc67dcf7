"""Prometheus and Alertmanager of Debian with the committed configuration, on loopback, in a time of their own."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from local_service import PROJECT, free_port
from monitoring.prometheus import Prometheus
from tests.waiting import answers, wait_until

MONITORING = PROJECT / "monitoring"
SCALE = 120
"""How many times faster than real time: an hour takes 30 seconds."""
SHORTEST_RANGE, SHORTEST_STARTS, SHORTEST_FOR, SHORTEST_PAUSE = 4.0, 90.0, 3.0, 1.0
"""Seconds. Rules and scrapes come once a second: a range needs some scrapes in it, and one that fails alerts nobody. A
worker takes its seconds to start in any time: ranges in which starts are counted have room for some."""
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
PAUSES = (
    "interval",
    "scrape_interval",
    "evaluation_interval",
    "refresh_interval",
    "group_wait",
    "group_interval",
    "repeat_interval",
)


def scaled(configuration: str) -> str:
    """A configuration of Prometheus or Alertmanager in the time of the test.

    Each range and offset of PromQL (``[1h]``) and each pause of YAML (``for: 10m``) becomes ``SCALE`` times shorter,
    but not shorter than a few scrapes. Thresholds and the labels that name windows stay.
    """

    def shorter(number: str, unit: str, shortest: float) -> str:
        return f"{max(int(number) * UNITS[unit] / SCALE, shortest) * 1000:.0f}ms"

    def range_of(match: re.Match[str]) -> str:
        starts = re.search(r"\w+_starts_total\{[^}]*\}$", configuration[: match.start()])
        return match[1] + shorter(match[2], match[3], SHORTEST_STARTS if starts else SHORTEST_RANGE)

    text = re.sub(r"(\[|offset )(\d+)([smhd])\b", range_of, configuration)
    text = re.sub(r"\b(for: )(\d+)([smhd])\b", lambda m: m[1] + shorter(m[2], m[3], SHORTEST_FOR), text)
    return re.sub(
        rf"\b((?:{'|'.join(PAUSES)}): )(\d+)([smhd])\b", lambda m: m[1] + shorter(m[2], m[3], SHORTEST_PAUSE), text
    )


def with_retraining(alertmanager: str) -> str:
    """The configuration of Alertmanager with its route to ``/retrain/alert``, which is committed as a comment."""
    return re.sub(
        r"^( *)# (- receiver: retraining|- name: retraining| {2,}[\w-])", r"\1\2", alertmanager, flags=re.MULTILINE
    )


@dataclass(frozen=True)
class Monitoring:
    """What runs: Prometheus, and what Alertmanager told the webhook."""

    prometheus: Prometheus
    told: Path

    def messages(self, status: str) -> list[dict[str, Any]]:
        """The alerts that the webhook was told of, ``firing`` or ``resolved``, in the order of their coming."""
        lines = [json.loads(line) for line in self.told.read_text().splitlines()]
        return [line for line in lines if line["status"] == status]

    def names(self, status: str) -> set[str]:
        """Their names."""
        return {message["labels"]["alertname"] for message in self.messages(status)}


@contextmanager
def local_monitoring(service: str, directory: Path, admin_key: str) -> Iterator[Monitoring]:
    """Watch a service at ``host:port``; its alerts ask for retraining with this key."""
    webhook, alertmanager, prometheus = (free_port() for _ in range(3))
    (directory / "rules").mkdir()
    for source in (MONITORING / "alerts.yml", *(MONITORING / "rules").glob("*.yml")):
        (directory / source.relative_to(MONITORING)).write_text(scaled(source.read_text()))
    addresses = {
        "localhost:8000": service,
        "localhost:9093": f"127.0.0.1:{alertmanager}",
        "localhost:9090": f"127.0.0.1:{prometheus}",
        "localhost:9095": f"127.0.0.1:{webhook}",
        "/etc/alertmanager/admin.key": str(directory / "admin.key"),
    }
    (directory / "admin.key").write_text(admin_key)
    for target in ("prometheus.yml", "alertmanager.yml"):
        committed = MONITORING / target.replace(".", "-local.")
        text = scaled(with_retraining(committed.read_text()))
        for place, address in addresses.items():
            text = text.replace(place, address)
        (directory / target).write_text(text)
    with ExitStack() as stack:

        def start(name: str, *command: str) -> None:
            stack.enter_context(_running(command, directory / f"{name}.log"))

        start("webhook", sys.executable, str(MONITORING / "webhook.py"), "--port", str(webhook))
        start(
            "alertmanager",
            "prometheus-alertmanager",
            f"--config.file={directory / 'alertmanager.yml'}",
            f"--storage.path={directory / 'alertmanager'}",
            f"--web.listen-address=127.0.0.1:{alertmanager}",
            "--cluster.listen-address=",
        )
        start(
            "prometheus",
            "prometheus",
            f"--config.file={directory / 'prometheus.yml'}",
            f"--storage.tsdb.path={directory / 'prometheus'}",
            f"--web.listen-address=127.0.0.1:{prometheus}",
        )
        url = f"http://127.0.0.1:{prometheus}"
        for ready in (f"{url}/-/ready", f"http://127.0.0.1:{alertmanager}/-/ready"):
            wait_until(partial(answers, ready), f"{ready} answers", 30)
        client = stack.enter_context(Prometheus(url))
        wait_until(lambda: client.instant('up{job="ml-api"} == 1'), "Prometheus scrapes the service", 30)
        yield Monitoring(client, directory / "webhook.log")


@contextmanager
def _running(command: tuple[str, ...], log: Path) -> Iterator[None]:
    with log.open("wb") as sink, subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT) as process:
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
