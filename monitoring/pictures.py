"""Draw the dashboards' panels from Prometheus' data, without Grafana: ``python -m monitoring.pictures``.

The panels, their places, units and thresholds are those of the JSON that Grafana loads; the drawing is matplotlib's.
"""

import argparse
import math
import os
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from local_service import bypass_proxies
from monitoring.errors import MonitoringError
from monitoring.panels import DASHBOARDS, Panel, headings, load, panels, substitute
from monitoring.prometheus import Course, Prometheus

POINTS = 240
BACKGROUND, CARD, INK, FAINT = "#f4f5f5", "#ffffff", "#24292e", "#8a9199"
COLOURS = ["#3274d9", "#e0752d", "#56a64b", "#a352cc", "#e02f44", "#c9a227", "#37a2b7", "#8f3bb8", "#7a7a7a", "#b877d9"]
LIMIT_COLOURS = {"green": "#56a64b", "orange": "#ff9830", "red": "#e02f44"}
RATES = {"reqps": " req/s", "rowsps": " rows/s"}
SMALLEST = 1e-9
"""Smaller values are rounding errors."""
LEGEND_LINES = 6
LETTER = 0.0034
"""Width of a letter beside a bar, as a share of the figure's."""
GAP = 0.25
"""Gap between panels, in cells of the grid."""


def draw(prometheus: Prometheus, name: str, *, start: float, end: float, interval: str, **variables: str) -> Figure:
    """Draw one dashboard.

    Args:
        prometheus: has the data.
        name: of the dashboard's file.
        start, end: seconds since the epoch.
        interval: for ``$__rate_interval``.
        variables: values of the dashboard's variables; a regular expression where several may be chosen.

    Raises:
        MonitoringError: Prometheus does not answer.
    """
    found = panels(name)
    height = max(y + h for _, y, _, h in (panel.place for panel in found))
    with mpl.rc_context({"font.size": 7.5, "text.color": INK, "axes.labelcolor": INK, "font.family": "DejaVu Sans"}):
        figure = Figure(figsize=(15, height * 0.36 + 0.5), facecolor=BACKGROUND)
        title = load(name)["title"]
        figure.text(0.008, 1 - 0.18 / figure.get_figheight(), title, fontsize=13, weight="bold", va="top")
        usable = 1 - 0.5 / figure.get_figheight()
        for line, heading in headings(name).items():
            figure.text(0.008, usable * (1 - (line + 0.6) / height), heading, fontsize=9, color=FAINT, va="center")
        for panel in found:
            courses = [
                (target.name(course.labels), course)
                for target in panel.targets
                for course in prometheus.range(
                    substitute(target.query, interval=interval, **variables), start, end, (end - start) / POINTS
                )
            ]
            title = substitute(panel.title, interval=interval, **variables)
            axes = _panel(figure, height, panel, title, courses)
            if axes is not None and panel.kind == "timeseries":
                axes.set_xlim(start, end)
    return figure


def _panel(figure: Figure, rows: int, panel: Panel, title: str, courses: Sequence[tuple[str, Course]]) -> Axes | None:
    x, y, width, height = panel.place
    usable = 1 - 0.5 / figure.get_figheight()
    left, bottom = (x + GAP / 2) / 24, usable * (1 - (y + height - GAP / 2) / rows)
    wide, high = (width - GAP) / 24, usable * (height - GAP) / rows
    card = figure.add_axes((left, bottom, wide, high), facecolor=CARD)
    card.set(xticks=[], yticks=[])
    card.spines[:].set_color("#dce0e3")
    inch = 1 / figure.get_figheight()
    figure.text(left + 0.005, bottom + high - 0.08 * inch, title, weight="bold", va="top")
    if not courses:
        card.text(0.5, 0.5, panel.nothing, ha="center", va="center", color=FAINT)
        return None
    lines = min(len(courses), LEGEND_LINES) if panel.kind == "timeseries" else 0
    legend = (0.16 * lines + 0.2) * inch if lines else 0.08 * inch
    longest = max(len(label) for label, _ in courses)
    beside = min(0.012 + LETTER * longest, wide * 0.55)
    indent = {"timeseries": 0.034, "bargauge": beside, "stat": 0.006, "table": 0.006}[panel.kind]
    area = (left + indent, bottom + legend, wide - indent - 0.01, high - legend - 0.32 * inch)
    axes = figure.add_axes(area)
    {"timeseries": _lines, "stat": _numbers, "bargauge": _bars, "table": _table}[panel.kind](axes, panel, courses)
    if lines:
        _legend(figure, left + 0.006, bottom + legend - 0.22 * inch, 0.16 * inch, panel, courses)
    return axes


def _lines(axes: Axes, panel: Panel, courses: Sequence[tuple[str, Course]]) -> None:
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="y", color="#e6e8ea", linewidth=0.6)
    axes.tick_params(length=0, labelcolor=FAINT)
    below: dict[float, float] = {}
    for position, (_, course) in enumerate(courses):
        colour = COLOURS[position % len(COLOURS)]
        values = list(course.values)
        if panel.stacked:
            grounds = [below.get(moment, 0.0) for moment in course.times]
            values = [ground + value for ground, value in zip(grounds, values, strict=True)]
            below.update(zip(course.times, values, strict=True))
            axes.fill_between(course.times, grounds, values, color=colour, alpha=0.3, linewidth=0)
        axes.plot(course.times, values, color=colour, linewidth=1.3, clip_on=False, zorder=3)
    low, high = axes.get_ylim()
    axes.set_ylim(0, max(high, 1e-9))
    for value, colour in panel.limits:
        if low <= value <= high:
            axes.axhline(value, color=LIMIT_COLOURS[colour], linewidth=0.8, linestyle="--")
    # As many labels as a panel of this width has room for.
    axes.xaxis.set_major_locator(MaxNLocator(min(5, max(2, panel.place[2] * 5 // 8))))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda moment, _: time.strftime("%H:%M:%S", time.gmtime(moment))))
    # The unit of a rate is in the title: it would not fit beside each tick.
    unit = "none" if panel.unit in RATES else panel.unit
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: human(value, unit)))
    axes.locator_params(axis="y", nbins=5)


def _legend(
    figure: Figure, left: float, top: float, step: float, panel: Panel, courses: Sequence[tuple[str, Course]]
) -> None:
    shown = courses[: LEGEND_LINES if len(courses) <= LEGEND_LINES else LEGEND_LINES - 1]
    for position, (label, course) in enumerate(shown):
        last, most = (human(value, panel.unit) for value in (course.values[-1], _largest(course.values)))
        text = f"{label or 'value'}   last {last}, max {most}"
        height = top - position * step
        figure.text(left, height, "━", color=COLOURS[position % len(COLOURS)], va="center", fontsize=7)
        figure.text(left + 0.012, height, text, color=INK, va="center", fontsize=6.5)
    if len(shown) < len(courses):
        rest = f"… and {len(courses) - len(shown)} more"
        figure.text(left + 0.012, top - len(shown) * step, rest, color=FAINT, va="center", fontsize=6.5)


def _numbers(axes: Axes, panel: Panel, courses: Sequence[tuple[str, Course]]) -> None:
    axes.set_axis_off()
    for position, (label, course) in enumerate(courses):
        value = float(course.values[-1])
        middle = 1 - (position + 0.5) / len(courses)
        axes.text(
            0.5, middle, human(value, panel.unit), ha="center", va="center", fontsize=15, color=_colour(panel, value)
        )
        if label and len(courses) > 1:
            axes.text(0.5, middle - 0.3 / len(courses), label, ha="center", va="center", fontsize=7, color=FAINT)
    axes.set(xlim=(0, 1), ylim=(0, 1))


def _bars(axes: Axes, panel: Panel, courses: Sequence[tuple[str, Course]]) -> None:
    values = [float(course.values[-1]) for _, course in courses]
    colours = [_colour(panel, value) for value in values]
    ends = [value if math.isfinite(value) else 0 for value in values]
    axes.barh(range(len(values)), ends, color=colours, height=0.7)
    axes.set_yticks(range(len(values)), [label for label, _ in courses], fontsize=6.5)
    axes.invert_yaxis()
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_xticks([])
    axes.set_xlim(0, max(*ends, SMALLEST) * 1.18)
    for position, (value, end) in enumerate(zip(values, ends, strict=True)):
        axes.text(end, position, f" {human(value, panel.unit)}", va="center", fontsize=6.5)


def _table(axes: Axes, _: Panel, courses: Sequence[tuple[str, Course]]) -> None:
    axes.set_axis_off()
    columns = sorted({label for _, course in courses for label in course.labels})
    cells = [[course.labels.get(column, "")[:32] for column in columns] for _, course in courses]
    lengths = [max(map(len, column)) + 3 for column in zip(columns, *cells, strict=True)]
    widths = [length / sum(lengths) for length in lengths]
    drawn = axes.table(cells, colLabels=columns, colWidths=widths, loc="upper left", cellLoc="left", edges="horizontal")
    drawn.auto_set_font_size(value=False)
    drawn.set_fontsize(6)
    drawn.scale(1, 1.4)


def _largest(values: Iterable[float]) -> float:
    """The largest finite value; NaN if there is none."""
    return max((value for value in values if math.isfinite(value)), default=math.nan)


def _colour(panel: Panel, value: float) -> str:
    colour = panel.base
    for limit, its_colour in panel.limits:
        if value >= limit:
            colour = its_colour
    return LIMIT_COLOURS[colour]


def human(value: float, unit: str) -> str:
    """Format a value as Grafana does, in one of the units of the dashboards."""
    if math.isnan(value):
        return "–"
    if abs(value) < SMALLEST:
        value = 0.0
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    if unit == "s":
        for size, name in ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"), (1e-3, "ms"), (1e-6, "µs")):
            if abs(value) >= size:
                return f"{value / size:.3g} {name}"
        return "0 s"
    if unit == "bytes":
        for size, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
            if abs(value) >= size:
                return f"{value / size:.3g} {name}"
        return f"{value:.0f} B"
    number = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return number + RATES.get(unit, "")


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw every dashboard into a folder."""
    parser = argparse.ArgumentParser(description="Draw the dashboards' panels from Prometheus' data.")
    parser.add_argument("folder", type=Path, help="where the pictures go")
    parser.add_argument("--prometheus", default="http://localhost:9090", help="its URL (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=60, help="how far back (default: %(default)s)")
    parser.add_argument("--end", type=float, default=None, help="seconds since the epoch (default: now)")
    parser.add_argument("--interval", default="1m", help="for $__rate_interval (default: %(default)s)")
    parser.add_argument("--feature", default="Longitude", help="shown in detail (default: %(default)s)")
    options = parser.parse_args(arguments)
    bypass_proxies(os.environ)
    end = options.end or time.time()
    options.folder.mkdir(parents=True, exist_ok=True)
    try:
        with Prometheus(options.prometheus) as prometheus:
            for path in sorted(DASHBOARDS.glob("*.json")):
                figure = draw(
                    prometheus,
                    path.stem,
                    start=end - options.minutes * 60,
                    end=end,
                    interval=options.interval,
                    model=".+",
                    version=".+",
                    feature=options.feature,
                )
                target = options.folder / f"{path.stem}.png"
                figure.savefig(target, dpi=90, metadata={"Software": None})
                sys.stdout.write(f"{target}\n")
    except MonitoringError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
