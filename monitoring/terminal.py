"""The dashboards' figures live in the terminal, without Grafana. ``make monitor`` starts it.

With ``PROMETHEUS_URL`` they come from Prometheus, over its last minute, and drift over its last 15. Without, they come
straight from ``/metrics`` of ``API_URL`` (http://localhost:8000), over the time between two scrapes at most a minute
apart, and drift since the start. A service that asks for a key gets ``METRICS_KEY``, or else ``API_KEY``.
"""

import argparse
import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import httpx
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from local_service import bypass_proxies
from monitoring import figures
from monitoring.drift import ALERT, WATCH
from monitoring.errors import MonitoringError
from monitoring.prometheus import Prometheus
from monitoring.snapshot import Change, Snapshot, ask, scrape

WINDOW, DRIFT_WINDOW = 60.0, 900.0
DRIFT_ROWS = 500
"""Minimum rows for a drift alert."""
LINES = 10
"""Maximum lines of a table: the busiest routes, or the most drifted features."""
SLOW = 0.1
"""The latency objective's limit, in seconds."""


@dataclass(frozen=True)
class Look:
    """Data of one frame: recent changes, changes for drift, and firing alerts (None: unknown)."""

    source: str
    recent: Change
    drift: Change
    alerts: Sequence[Mapping[str, Mapping[str, str]]] | None


@contextmanager
def looks(environment: Mapping[str, str]) -> Iterator[Callable[[], Look]]:
    """Yield a function that takes a new look each time it is called.

    Raises:
        MonitoringError: when the function is called and the source does not answer.
    """
    if url := environment.get("PROMETHEUS_URL"):
        with Prometheus(url) as prometheus:
            yield lambda: _from_prometheus(prometheus)
    else:
        key = environment.get("METRICS_KEY") or environment.get("API_KEY")
        headers = {"authorization": f"Bearer {key}"} if key else {}
        url = environment.get("API_URL") or "http://localhost:8000"
        with httpx.Client(base_url=url, headers=headers, timeout=10) as client:
            seen: deque[Snapshot] = deque([scrape(client)])
            yield lambda: _from_service(client, seen)


def _from_prometheus(prometheus: Prometheus) -> Look:
    now = time.time()
    latest, long_before = ask(prometheus, now), ask(prometheus, now - DRIFT_WINDOW)
    # A Prometheus that started less than a minute ago has a shorter history.
    earlier = (ask(prometheus, now - ago) for ago in (WINDOW, WINDOW / 2, WINDOW / 4))
    before = next((snapshot for snapshot in earlier if snapshot.series), latest)
    firing = [alert for alert in prometheus.alerts() if alert["state"] == "firing"]
    return Look(prometheus.url, Change(before, latest), Change(long_before, latest), firing)


def _from_service(client: httpx.Client, seen: deque[Snapshot]) -> Look:
    seen.append(scrape(client))
    while len(seen) > 2 and seen[-1].at - seen[1].at >= WINDOW:
        seen.popleft()
    return Look(
        f"{client.base_url}/metrics".replace("//metrics", "/metrics"),
        Change(seen[0], seen[-1]),
        Change(Snapshot(0, {}), seen[-1]),
        None,
    )


def _or_why_not(look: Callable[[], Look]) -> RenderableType:
    """A frame, or the error in its place: the view survives a restart of the service."""
    try:
        return frame(look())
    except MonitoringError as error:
        return Text(str(error), "bold red")


def frame(look: Look) -> Group:
    """Render one frame."""
    clock = time.strftime("%H:%M:%S", time.localtime(look.recent.after.at))
    starts = figures.worker_starts(look.recent.after)
    seconds = look.recent.seconds
    if not look.recent.after.series:
        window = "waiting for a first scrape"
    elif math.isnan(seconds):
        window = "waiting for a second scrape"
    else:
        window = f"last {seconds:.0f} s"
    title = Text.assemble((clock, "bold"), f"  {look.source}, {window}, {_number(starts, 0)} worker starts")
    return Group(
        title,
        *_alerts(look),
        _routes(look.recent),
        _models(look.recent),
        _quality(look.recent.after),
        _drift(look.drift),
        _refused(look),
    )


def _alerts(look: Look) -> list[Text]:
    if look.alerts is None:
        return [Text("alerts: only with PROMETHEUS_URL", "dim")]
    if not look.alerts:
        return [Text("no alert fires", "green")]
    return [
        Text(f"{alert['labels']['alertname']}: {alert['annotations'].get('summary', '')}", _severity(alert["labels"]))
        for alert in look.alerts
    ]


def _severity(labels: Mapping[str, str]) -> str:
    return "bold red" if labels.get("severity") == "page" else "yellow"


def _routes(change: Change) -> Table:
    table = _table(
        "Service", "protocol", "route", "requests/s", "refused/s", "failed/s", "p50 ms", "p99 ms", "in progress"
    )
    for route in islice(figures.routes(change), LINES):
        table.add_row(
            route.protocol,
            route.route,
            _number(route.requests),
            _number(route.refused),
            _marked(route.failed, 0, "bold red", _number(route.failed)),
            _milliseconds(route.p50),
            _marked(route.p99, SLOW, "yellow", _milliseconds(route.p99)),
            _number(route.in_progress, 0),
        )
    return table


def _models(change: Change) -> Table:
    table = _table(
        "Models",
        "model",
        "version",
        "algorithm",
        "age",
        "test metrics",
        "rows/s",
        "rows/batch",
        "wait p99 ms",
        "inference p99 ms",
        "confidence",
        "shed/s",
        "last",
    )
    for model in sorted(figures.models(change), key=lambda figures: figures.name):
        table.add_row(
            model.name,
            model.version,
            model.algorithm,
            _age(model.age),
            " ".join(f"{name} {value:.3f}" for name, value in sorted(model.metrics.items())),
            _number(model.predictions),
            _number(model.batch_rows),
            _milliseconds(model.queue_p99),
            _milliseconds(model.inference_p99),
            _number(model.confidence, 2),
            _marked(model.shed, 0, "bold red", _number(model.shed)),
            _age(model.last_prediction),
        )
    return table


def _quality(snapshot: Snapshot) -> Table:
    table = _table("Live quality", "model", "version", "window", "labelled rows", "metrics (on the test split)")
    for window in figures.quality(snapshot):
        metrics = "  ".join(
            f"{name} {live:.3f}" + ("" if math.isnan(test) else f" ({test:.3f})")
            for name, (live, test) in sorted(window.metrics.items())
        )
        table.add_row(
            window.model,
            window.version,
            window.window,
            _number(window.rows, 0),
            metrics or Text("too few labelled rows", "dim"),
        )
    return table


def _drift(change: Change) -> Table:
    table = _table("Drift", "model", "feature", "PSI", "rows", "")
    for subject in islice(figures.drift(change), LINES):
        colour = "red" if subject.index > ALERT else "yellow" if subject.index > WATCH else "green"
        few = subject.rows < DRIFT_ROWS
        bar = "█" * round(min(1.0, subject.index) * 40) if math.isfinite(subject.index) else ""
        table.add_row(
            subject.model,
            subject.subject,
            Text(_number(subject.index, 3), "dim" if few else colour),
            _number(subject.rows, 0),
            Text("too few rows to tell" if few else bar, "dim" if few else colour),
        )
    return table


def _refused(look: Look) -> Table:
    table = _table("Refused rows", "model", "feature", "reason", "rows/s")
    for key, rate in sorted(figures.refused(look.recent).items(), key=lambda item: -item[1]):
        table.add_row(*key, _number(rate))
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, expand=False)
    numeric = ("/s", "ms", "PSI", "rows", "age", "last", "progress", "confidence", "/batch")
    for column in columns:
        table.add_column(column, justify="right" if column.endswith(numeric) else "left", header_style="dim")
    return table


def _number(value: float, digits: int = 1) -> str:
    return "–" if math.isnan(value) else f"{value:,.{digits}f}"


def _milliseconds(seconds: float) -> str:
    return _number(seconds * 1000, 2 if seconds < 0.01 else 0)


def _marked(value: float, above: float, style: str, text: str) -> Text:
    return Text(text, style if value > above else "")


def _age(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return "–" if math.isnan(seconds) else f"{max(seconds, 0):.0f} s"


def main(arguments: Sequence[str] | None = None) -> int:
    """Show frames until Ctrl-C, or one with ``--once``. Return 1 if the source does not answer."""
    parser = argparse.ArgumentParser(description="Watch the service in the terminal.")
    parser.add_argument("--interval", type=float, default=2, help="seconds between two frames (default: 2)")
    parser.add_argument("--once", action="store_true", help="print one frame and exit")
    options = parser.parse_args(arguments)
    console = Console()
    bypass_proxies(os.environ)
    try:
        with looks(os.environ) as look:
            time.sleep(options.interval)
            if options.once:
                console.print(frame(look()))
                return 0
            with Live(frame(look()), console=console, screen=True, auto_refresh=False) as live:
                while True:
                    time.sleep(options.interval)
                    live.update(_or_why_not(look), refresh=True)
    except KeyboardInterrupt:
        return 0
    except MonitoringError as error:
        sys.stderr.write(f"{error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
