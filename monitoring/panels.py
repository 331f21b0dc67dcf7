"""The panels of the committed dashboards, read from the JSON that Grafana loads, to be drawn and tested."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DASHBOARDS = Path(__file__).resolve().parent / "grafana" / "dashboards"


@dataclass(frozen=True)
class Target:
    """A query of a panel, and the legend of its series: ``{{label}}`` becomes the label's value."""

    query: str
    legend: str

    def name(self, labels: Mapping[str, str]) -> str:
        """The legend of one series."""
        return re.sub(r"\{\{(\w+)\}\}", lambda match: labels.get(match[1], ""), self.legend).strip()


@dataclass(frozen=True)
class Panel:
    """A panel.

    ``place`` is x, y, width and height on a grid of 24 columns; ``base`` is the colour below all ``limits``,
    which are thresholds and their colours; ``stacked`` series are drawn one on top of the other.
    """

    title: str
    kind: str
    unit: str
    description: str
    place: tuple[int, int, int, int]
    base: str
    limits: tuple[tuple[float, str], ...]
    targets: tuple[Target, ...]
    nothing: str
    stacked: bool


def panels(name: str) -> list[Panel]:
    """The panels of a dashboard, by the name of its file; headings of rows are not panels."""
    return [_panel(raw) for raw in load(name)["panels"] if raw["type"] != "row"]


def headings(name: str) -> dict[int, str]:
    """The headings of a dashboard's rows, by their line on the grid."""
    return {raw["gridPos"]["y"]: raw["title"] for raw in load(name)["panels"] if raw["type"] == "row"}


def load(name: str) -> dict[str, Any]:
    """A dashboard's JSON, by the name of its file."""
    loaded: dict[str, Any] = json.loads((DASHBOARDS / f"{name}.json").read_text(encoding="utf-8"))
    return loaded


def annotations(name: str) -> list[str]:
    """The queries of a dashboard's annotations."""
    return [raw["expr"] for raw in load(name).get("annotations", {}).get("list", []) if raw.get("expr")]


def substitute(text: str, *, interval: str, **variables: str) -> str:
    """A query or title with ``$__rate_interval`` and every variable replaced."""
    for name, value in {"__rate_interval": interval, **variables}.items():
        text = re.sub(rf"\${name}\b", value, text)
    return text


def _panel(raw: Mapping[str, Any]) -> Panel:
    defaults, grid = raw["fieldConfig"]["defaults"], raw["gridPos"]
    steps = defaults.get("thresholds", {}).get("steps", [])
    return Panel(
        title=raw["title"],
        kind=raw["type"],
        unit=defaults["unit"],
        description=raw["description"],
        place=(grid["x"], grid["y"], grid["w"], grid["h"]),
        base=next((step["color"] for step in steps if step["value"] is None), "green"),
        limits=tuple((step["value"], step["color"]) for step in steps if step["value"] is not None),
        targets=tuple(Target(raw["expr"], raw.get("legendFormat", "")) for raw in raw["targets"]),
        nothing=defaults["noValue"],
        stacked=defaults.get("custom", {}).get("stacking", {}).get("mode") == "normal",
    )
