"""The page on batching: its figure and its tables, from measured curves."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from pydantic import BaseModel, ConfigDict

from load_tests.benchmark.report import replace_section, table
from load_tests.benchmark.result import Machine
from local_service import PROJECT

PAGE = PROJECT / "docs" / "batching.md"
MEASURED = Path(__file__).with_name("results") / "batching.json"
"""The result that the page shows."""
ONNX = "ONNX model"
SLOW = "slow model"
ON, OFF, LIMIT = "#0072B2", "#E69F00", "#D55E00"
STYLE = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}


@dataclass(frozen=True)
class Point:
    """One offered load: ``share`` of capacity, ``offered`` and ``accepted`` requests/s.

    ``refused`` is the share of shed requests. Latencies are of the accepted ones, from their time of arrival;
    ``delay_ms`` is the p99 of the part before the runner had them. ``mean_batch`` is in rows.
    """

    share: float
    offered: float
    accepted: float
    refused: float
    p50_ms: float
    p99_ms: float
    delay_ms: float
    mean_batch: float

    def __str__(self) -> str:
        return (
            f"{self.share:4.0%} {self.offered:8,.0f}/s: accepted {self.accepted:8,.0f}/s, shed {self.refused:5.1%}, "
            f"p50 {self.p50_ms:7.2f} ms, p99 {self.p99_ms:7.2f} ms ({self.delay_ms:.2f} before the runner), "
            f"{self.mean_batch:6.1f} rows a batch"
        )


@dataclass(frozen=True)
class Curve:
    """One model with one batch size. ``alone_ms``: the median of a request without others."""

    model: str
    request_rows: int
    max_batch_size: int
    max_latency_ms: float
    alone_ms: float
    capacity: float
    points: list[Point]

    @property
    def batching(self) -> bool:
        """Whether a batch may contain more than one request."""
        return self.max_batch_size > self.request_rows

    @property
    def label(self) -> str:
        """The name in legends."""
        return "with the runner" if self.batching else "batching off"


class BatchingResult(BaseModel):
    """The curves, and where they were measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    machine: Machine
    curves: list[Curve]


@dataclass(frozen=True)
class Claim:
    """A demand on batching, what was measured, and whether it holds."""

    subject: str
    demand: str
    measured: str
    holds: bool


def claims(curves: Sequence[Curve]) -> list[Claim]:
    """The demands on idle latency, capacity and shedding."""
    on = {curve.model: curve for curve in curves if curve.batching}
    off = {curve.model: curve for curve in curves if not curve.batching}
    found = []
    for model, curve in on.items():
        slower = curve.alone_ms / off[model].alone_ms
        measured = f"{curve.alone_ms:.3g} ms against {off[model].alone_ms:.3g} ms"
        # Two medians of the same thing differ by a few per cent on a machine that does other things too.
        found.append(Claim(f"{model}: idle, a request is not slower", "at most 1.1 ×", measured, slower <= 1.1))
    gain = on[SLOW].capacity / off[SLOW].capacity
    measured = f"{gain:,.0f} × ({on[SLOW].capacity:,.0f} against {off[SLOW].capacity:,.0f} requests/s)"
    found.append(Claim(f"{SLOW}: capacity", "at least 5 ×", measured, gain >= 5))
    for curve in curves:
        worst = max(point.p99_ms for point in curve.points if point.share > 1)
        limit = curve.max_latency_ms
        subject = f"{curve.model}, {curve.label}: p99 of accepted requests past capacity"
        found.append(Claim(subject, f"at most {limit:.0f} ms", f"{worst:.0f} ms", worst <= limit))
    return found


def text(result: BatchingResult) -> str:
    """What must hold, and every point: the measured part of the page."""
    machine, curves = result.machine, result.curves
    rows = [(claim.subject, claim.demand, claim.measured, "yes" if claim.holds else "NO") for claim in claims(curves)]
    parts = [
        f"Measured on {machine.cores} cores: {machine.cpu}; Python {machine.python}; in one process.\n",
        table("What must hold", ("", "demand", "measured", "holds"), rows, words=True),
    ]
    columns = ("offered", "requests/s", "accepted/s", "shed", "p50 ms", "p99 ms", "before the runner, p99 ms")
    for curve in curves:
        cells = [
            (
                f"{point.share:.0%}",
                f"{point.offered:,.0f}",
                f"{point.accepted:,.0f}",
                f"{point.refused:.1%}",
                f"{point.p50_ms:.2f}",
                f"{point.p99_ms:.1f}",
                f"{point.delay_ms:.1f}",
                f"{point.mean_batch:.1f}",
            )
            for point in curve.points
        ]
        asked = "a row" if curve.request_rows == 1 else f"{curve.request_rows} rows"
        title = f"{curve.model}, {asked} a request, {curve.label} (`MAX_BATCH_SIZE={curve.max_batch_size}`)"
        parts.append(table(f"{title}: capacity {curve.capacity:,.0f} requests/s", (*columns, "rows a batch"), cells))
    return "\n".join(parts)


def write(result: BatchingResult, page: Path = PAGE) -> list[Path]:
    """Draw the figure and write the tables of the page; return both paths."""
    figure = page.parent / "img" / "batching.png"
    figure.parent.mkdir(parents=True, exist_ok=True)
    draw(result.curves, figure)
    page.write_text(replace_section(page.read_text(), "measured", text(result)))
    return [figure, page]


def draw(curves: Sequence[Curve], path: Path) -> None:
    """Latency, batch size and what is shed, against offered load; a row of panels a model."""
    models = list(dict.fromkeys(curve.model for curve in curves))
    with mpl.rc_context(dict(STYLE)):  # type: ignore[arg-type]  # the stubs want a literal of each of 300 keys
        figure = Figure(figsize=(13, 3.7 * len(models)), layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(len(models), 3, squeeze=False)
        for row, model in zip(panels, models, strict=True):
            latency, batch, shed = row
            limit: str | None = "max_latency_ms"
            for curve in (curve for curve in curves if curve.model == model):
                offered = [point.offered for point in curve.points]
                colour, marker = (ON, "o") if curve.batching else (OFF, "s")
                style = {"color": colour, "marker": marker, "markersize": 4}
                latency.plot(offered, [point.p50_ms for point in curve.points], label=f"p50 {curve.label}", **style)
                latency.plot(
                    offered,
                    [point.p99_ms for point in curve.points],
                    linestyle="--",
                    label=f"p99 {curve.label}",
                    **style,
                )
                batch.plot(offered, [point.mean_batch for point in curve.points], label=curve.label, **style)
                shed.plot(offered, [point.refused * 100 for point in curve.points], label=curve.label, **style)
                for panel in row:
                    panel.axvline(curve.capacity, color=colour, linestyle=":", linewidth=1)
                latency.axhline(curve.max_latency_ms, color=LIMIT, linewidth=1.5, label=limit)
                limit = None
            latency.set_yscale("log")
            latency.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
            latency.yaxis.set_major_formatter("{x:g}")
            latency.yaxis.set_minor_formatter(NullFormatter())
            latency.set_title(f"{model}: latency of accepted requests", loc="left")
            latency.set_ylabel("ms")
            batch.set_title("Rows a batch", loc="left")
            batch.set_yscale("log")
            batch.yaxis.set_major_formatter("{x:g}")
            batch.set_ylabel("rows, mean")
            shed.set_title("Shed with 429", loc="left")
            shed.set_ylabel("% of requests")
            shed.set_ylim(-2, 102)
            for panel in row:
                panel.set_xscale("log")
                panel.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
                panel.xaxis.set_major_formatter("{x:,.0f}")
                panel.xaxis.set_minor_formatter(NullFormatter())
                panel.set_xlabel("offered requests/s, logarithmic; dotted: capacity")
                panel.grid(visible=True, alpha=0.3)
                panel.legend(fontsize=8)
        figure.savefig(path, dpi=120)
