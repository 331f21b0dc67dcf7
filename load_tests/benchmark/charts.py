"""The chart of a report."""

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from load_tests.benchmark.results import Figure as Value
from load_tests.benchmark.results import LineNote, Report
from load_tests.benchmark.tables import quietness, title_of

# Okabe and Ito's colours, which every kind of colour vision tells apart; texts and hatches say the same.
OURS, PEER, FLOOR = "#0072B2", "#E69F00", "#999999"
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid.axis": "x",
    "hatch.linewidth": 0.4,
}


def draw(report: Report, path: Path) -> None:
    """Draw requests/s, CPU a request, latency and rows/s of every line into a PNG."""
    lines = [line for line in report.lines if report.taken(line.key, 64)]
    most_rows = max(report.rows)
    batches = [line for line in report.lines if report.taken(line.key, report.rows_connections, most_rows)]
    height = 0.27 * (2 * len(lines) + len(batches) + 1) / 2 + 4.2
    with mpl.rc_context(dict(STYLE)):  # type: ignore[arg-type]  # the stubs want a literal of each of 300 keys
        figure = Figure(figsize=(13, max(height, 6)), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(2, 2, height_ratios=(max(len(lines), 2), max(len(batches) + 1, len(lines), 2)))
        _bars(axes[0][0], report, lines, [report.requests_per_second(line.key) for line in lines])
        axes[0][0].set_title("Requests a second (more is better)", loc="left")
        axes[0][0].set_xlabel("requests/s, one row each, 64 connections")
        _bars(axes[0][1], report, lines, [report.cpu_ms(line.key) for line in lines], digits=2)
        axes[0][1].set_title("CPU a request (less is better)", loc="left")
        axes[0][1].set_xlabel("CPU-milliseconds of all processes of the server")
        _latencies(axes[1][0], report, lines)
        rows = max(report.rows)
        _bars(axes[1][1], report, batches, [report.rows_per_second(line.key, rows) for line in batches])
        axes[1][1].set_title(f"Rows a second, {rows:,} a request (more is better)", loc="left")
        axes[1][1].set_xlabel(f"rows/s, {report.rows_connections} connections; dashed: onnxruntime itself")
        direct = report.direct_rows_per_second()
        if direct is not None:
            axes[1][1].axvline(direct.median, color="black", linestyle="--", linewidth=1)
            axes[1][1].set_xlim(0, max(axes[1][1].get_xlim()[1], direct.median * 1.05))
        rounds = len({sample.round for sample in report.samples})
        figure.suptitle(
            f"One model, {report.workers} workers, {report.machine.cores} cores: {report.machine.cpu}; medians of "
            f"{rounds} rounds, whiskers: lowest and highest\n{quietness(report)}",
            x=0.01,
            ha="left",
            fontsize=10,
        )
        figure.savefig(path, dpi=130)


def _colour(report: Report, line: LineNote) -> str:
    if line.server == "ours":
        return OURS
    return FLOOR if next(server.floor for server in report.servers if server.key == line.server) else PEER


def _bars(
    axes: Axes, report: Report, lines: Sequence[LineNote], values: Sequence[Value | None], digits: int = 0
) -> None:
    # A floor that is much faster than all else would squeeze the others: its bar is cut off, its figure is not.
    compared = [
        value.high for line, value in zip(lines, values, strict=True) if value and _colour(report, line) != FLOOR
    ]
    every = [value.high for value in values if value]
    most = min(max(every, default=1.0), 3 * max(compared, default=1.0) if compared else math.inf)
    for position, (line, value) in enumerate(zip(lines, values, strict=True)):
        if value is None:
            axes.text(0, position, " no valid measure", va="center", color="#D55E00")
            continue
        whisker = [[value.median - value.low], [value.high - value.median]]
        hatch = "////" if _colour(report, line) == FLOOR else None
        axes.barh(
            position,
            value.median,
            xerr=whisker,
            color=_colour(report, line),
            hatch=hatch,
            edgecolor="white" if hatch else None,
            error_kw={"elinewidth": 1, "capsize": 2},
        )
        cut = value.high > most
        text = f"{value.median:,.{digits}f}" + " →" * cut
        axes.text(
            most * 1.13 if cut else value.high + most * 0.01,
            position,
            text,
            va="center",
            ha="right" if cut else "left",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1} if cut else None,
        )
    axes.set_xlim(0, most * 1.14)
    axes.xaxis.set_major_formatter("{x:,g}")
    _names(axes, report, lines)


def _latencies(axes: Axes, report: Report, lines: Sequence[LineNote]) -> None:
    for position, line in enumerate(lines):
        p50, p99 = report.latency(line.key, "p50_ms"), report.latency(line.key, "p99_ms")
        if p50 is None or p99 is None:
            continue
        colour = _colour(report, line)
        axes.plot([p50.median, p99.median], [position, position], color=colour, linewidth=2, zorder=1)
        axes.scatter(p50.median, position, color=colour, marker="o", s=28, zorder=2)
        axes.scatter(p99.median, position, color=colour, marker="|", s=90, linewidth=2.5, zorder=2)
        axes.text(p99.median * 1.12, position, f"{p50.median:,.1f} – {p99.median:,.0f}", va="center")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    low, high = axes.get_xlim()
    axes.set_xlim(low, high * 4)
    axes.set_title("Latency (less is better)", loc="left")
    axes.set_xlabel("ms, p50 (dot) to p99 (bar), 64 connections; logarithmic")
    _names(axes, report, lines)


def _names(axes: Axes, report: Report, lines: Sequence[LineNote]) -> None:
    axes.set_yticks(range(len(lines)), [title_of(report, line) for line in lines])
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.grid(visible=True, axis="x", alpha=0.3)
    axes.set_axisbelow(True)
