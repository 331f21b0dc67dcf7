"""The report on drift: one HTML file that needs no other, worst first."""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, ListedColormap
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from contract import buckets
from contract.dataset import Dataset
from contract.deciles import DECILES
from contract.feature import Feature, Kind
from contract.table import FloatMatrix
from ledger.windows import RecentRows
from model.drift import (
    LEVEL,
    PREDICTION,
    PSI_LIMIT,
    REFUSED,
    REFUSED_LIMIT,
    SHIFT_LIMIT,
    Change,
    Drift,
    Method,
    Verdict,
)
from model.reference import Reference
from training import params
from training.evaluation import page
from training.evaluation.plots import BLUE, GREY, INK, ORANGE, canvas, heading, listed
from training.files import write_text
from training.params import MapParams

_TEMPLATE = "drift_report.html.j2"
_BINS = 40
_LABEL, _LEVEL = 20, 8
"""Most characters of a category's label, and most labels that stand level."""
_SHOWN_EFFECT = 4.0
"""Effects above this value have the same colour in the timeline."""
_MAP_CELLS = 26


@dataclass(frozen=True, eq=False)
class Search:
    """What was compared, and what was found."""

    dataset: Dataset
    reference: Reference
    window: RecentRows
    drift: Drift


@dataclass(frozen=True)
class _Picture:
    """A picture of the page: its anchor, its heading, the image as a data URI, and what it shows."""

    slug: str
    title: str
    source: str
    alt: str
    shows: str


@dataclass(frozen=True)
class _Row:
    """A line of the table."""

    name: str
    what: str
    verdict: str
    effect: str
    psi: str
    shift: str
    p_value: str
    recent: str
    reference: str
    rows: str
    since: str


def write(searches: Sequence[Search], path: Path) -> None:
    """Write the page of one or more models.

    Args:
        path: of the HTML file.
    """
    models = [
        {
            "search": one,
            "title": _title(one),
            "rows": [_row(one.dataset, change) for change in one.drift.changes],
            "facts": _facts(one),
            "pictures": list(_pictures(one)),
        }
        for one in searches
    ]
    limits = {"level": f"{LEVEL:.0%}".replace("%", " %"), "psi": PSI_LIMIT, "shift": SHIFT_LIMIT}
    limits["refused"] = f"{REFUSED_LIMIT:.0%}".replace("%", " %")
    write_text(
        path,
        page.templates(Path(__file__).parent)
        .get_template(_TEMPLATE)
        .render(models=models, limits=limits, Verdict=Verdict),
    )


def _title(search: Search) -> str:
    drift = search.drift
    if drift.verdict is Verdict.TOO_FEW_ROWS:
        return f"Too few rows to say: {drift.rows:,}, and {drift.minimum_rows} are needed."
    if drift.verdict is Verdict.NO_DRIFT:
        return f"No drift in {drift.rows:,} rows: every difference is small, or may be chance."
    names = listed([change.name for change in drift.drifted])
    begins = [change.since for change in drift.drifted if change.since]
    since = f", since {_time(min(begins))}" if begins else ""
    return f"Drift of {names}{since}."


def _row(dataset: Dataset, change: Change) -> _Row:
    return _Row(
        change.name,
        _what(dataset, change),
        "drift" if change.drift else "no drift",
        f"{change.effect:.2f}",
        "" if change.psi is None else f"{change.psi:.3f}",
        "" if change.shift is None else _signed(change.shift),
        "< 1e-12" if change.adjusted_p_value < 1e-12 else f"{change.adjusted_p_value:.2g}",
        _value(dataset, change, change.recent),
        _value(dataset, change, change.reference),
        f"{change.rows:,}",
        f"{datetime.fromisoformat(change.since):%b %d, %H:%M}" if change.since else "",
    )


def _what(dataset: Dataset, change: Change) -> str:
    if change.name == PREDICTION:
        return "predicted class" if change.test is Method.CHI_SQUARE else f"predicted value, {dataset.target.unit}"
    if change.name == REFUSED:
        return "share of requests that were refused"
    feature = _feature(dataset, change)
    return feature.unit or str(feature.kind)


def _feature(dataset: Dataset, change: Change) -> Feature:
    return next(feature for feature in dataset.features if feature.name == change.name)


def _value(dataset: Dataset, change: Change, value: float | None) -> str:
    if value is None:
        return ""
    if change.name not in (PREDICTION, REFUSED):
        feature = _feature(dataset, change)
        if feature.kind in (Kind.DATE, Kind.DATETIME):
            return feature.show(round(value))
    return f"{value:.2%}".replace("%", " %") if change.name == REFUSED else f"{value:,.4g}".replace("-", "−")


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _time(text: str) -> str:
    return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M} UTC"


def _facts(search: Search) -> list[tuple[str, str]]:
    drift, window = search.drift, search.window
    facts = [("Model", f"{drift.model}, version {drift.version}")]
    if drift.since and drift.until:
        facts.append(("Window", f"{_time(drift.since)} to {_time(drift.until)}"))
    compared = f"{drift.rows:,}"
    if window.total_rows > drift.rows:
        compared += f" of {window.total_rows:,}, spread over the window as its traffic is"
    facts += [
        ("Rows", compared),
        ("Reference", f"{drift.reference_rows:,} rows of the training split"),
        ("Requests", f"{window.requests:,}, of which {window.refused:,} were refused"),
    ]
    if window.features is None:
        facts.append(("Features", "not compared: the ledger does not keep them (LEDGER_FEATURES=off)"))
    return facts


def _pictures(search: Search) -> Iterator[_Picture]:
    drift, dataset = search.drift, search.dataset
    if drift.verdict is Verdict.TOO_FEW_ROWS:
        return
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "picture.png"
        if len(drift.parts) > 1:
            _draw_timeline(drift, image)
            yield _Picture(
                "since",
                "Since when",
                page.data_uri(image),
                f"Table of {len(drift.changes)} names by {len(drift.parts)} parts of the window, coloured by effect.",
                "The window in parts of equal numbers of rows, each compared with training. White is as in training, "
                "the darkest colour four times what counts as large or more. A dot marks what is drift in that part "
                "alone.",
            )
        area = _map(dataset)
        if area is not None and search.window.features is not None:
            _draw_map(search, area, image)
            yield _Picture(
                "map",
                "Where the rows are",
                page.data_uri(image),
                "Two maps: recent rows over those of training, and hexagons coloured by how much more or less frequent "
                "recent rows are.",
                "Left, the recent rows over those of training. Right, the share of the recent rows in each hexagon "
                "minus the share of the training rows: orange places send more than they did, blue ones less.",
            )
        for change in drift.changes:
            if change.name == REFUSED:
                continue
            if change.test is Method.CHI_SQUARE:
                _draw_classes(search, change, image)
            else:
                _draw_numbers(search, change, image)
            yield _Picture(
                change.name,
                change.name,
                page.data_uri(image),
                f"Distribution of {change.name}: training and recent rows over each other.",
                _told(search.dataset, change),
            )


def _told(dataset: Dataset, change: Change) -> str:
    parts = [f"{change.rows:,} rows."]
    if change.recent is not None and change.shift is not None:
        parts.append(
            f"The mean is {_value(dataset, change, change.recent)}, in training "
            f"{_value(dataset, change, change.reference)}: a shift of "
            f"{_signed(change.shift)} standard deviations."
        )
    parts.append(f"Population stability index {change.psi:.3f}.")
    if not change.drift:
        parts.append("No drift: " + ("the difference is small." if change.effect < 1 else "it may be chance."))
    elif change.since:
        parts.append(f"Drift since {_time(change.since)}.")
    return " ".join(parts)


def _draw_timeline(drift: Drift, path: Path) -> None:
    names = [change.name for change in drift.changes if change.name != REFUSED]
    effects = np.array([[part.effects.get(name, np.nan) for part in drift.parts] for name in names])
    edges = [part.since for part in drift.parts] + [drift.parts[-1].until]
    times = date2num([datetime.fromisoformat(edge) for edge in edges])
    # Parts that took only a moment still get a width.
    times = np.maximum.accumulate(times + np.arange(len(times)) * max((times[-1] - times[0]) * 1e-6, 1e-9))
    colours = LinearSegmentedColormap.from_list("effect", ["#FFFFFF", "#FBE3D2", "#F0A070", ORANGE, "#7A2F00"])
    with canvas(path, 1.1 + 0.34 * len(names)) as figure:
        axes = figure.add_subplot()
        mesh = axes.pcolormesh(
            times,
            np.arange(len(names) + 1) - 0.5,
            effects,
            cmap=colours,
            vmin=0,
            vmax=_SHOWN_EFFECT,
            edgecolors="#FFFFFF",
            linewidth=1,
        )
        middle = (times[:-1] + times[1:]) / 2
        for line, name in enumerate(names):
            marked = [when for when, part in zip(middle, drift.parts, strict=True) if name in part.drift]
            axes.plot(marked, [line] * len(marked), "o", color=INK, markersize=3.5, markeredgecolor="white")
        axes.set_yticks(range(len(names)), names)
        axes.tick_params(axis="y", length=0)
        axes.invert_yaxis()
        axes.spines[:].set_visible(False)
        _time_axis(axes)
        bar = figure.colorbar(mesh, ax=axes, pad=0.015, aspect=12, extend="max")
        bar.outline.set_visible(False)
        bar.set_label("effect")
        axes.set_title(f"{drift.model}: effect in each part of the window")


def _time_axis(axes: Axes) -> None:
    locator = AutoDateLocator(maxticks=7)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axes.set_xlabel("time (UTC)")


def _columns(search: Search, change: Change) -> tuple[FloatMatrix, FloatMatrix]:
    """Recent values and those of training, of a change that is of numbers."""
    newest = slice(len(search.window.time_us) - change.rows, None)
    if change.name == PREDICTION:
        return search.window.outputs[newest, 0], search.reference.outputs[:, 0]
    features = search.window.features
    column = search.dataset.feature_names.index(change.name)
    if features is None:
        raise RuntimeError("a feature was compared that is not there")
    return features[newest, column], search.reference.features[:, column]


def _draw_numbers(search: Search, change: Change, path: Path) -> None:
    recent, reference = _columns(search, change)
    with canvas(path, 3.0) as figure:
        left, right = figure.subplots(1, 2, width_ratios=[1.55, 1])
        edges = _bins(recent, reference)
        for values, colour, name, filled in (
            (reference, GREY, "training", True),
            (recent, ORANGE if change.drift else BLUE, "recent", False),
        ):
            # Of all rows: where values are missing, the heights sum to less.
            present = np.clip(values[~np.isnan(values)], edges[0], edges[-1])
            heights = np.histogram(present, edges)[0] / len(values)
            left.stairs(heights, edges, color=colour, fill=filled, alpha=0.45 if filled else 1, label=name, linewidth=2)
        left.set_xlabel(f"{change.name} ({_what(search.dataset, change).removeprefix('predicted value, ')})")
        left.set_ylabel("share of rows")
        left.set_ylim(bottom=0)
        left.legend(loc="best")
        left.grid(visible=True, axis="y")
        deciles = np.arange(len(change.recent_shares)) + 1
        right.bar(deciles, change.reference_shares, color=GREY, alpha=0.45, width=0.86)
        right.plot(
            deciles, change.recent_shares, "o", color=ORANGE if change.drift else BLUE, markersize=5, linestyle="none"
        )
        right.vlines(deciles, change.reference_shares, change.recent_shares, color=ORANGE if change.drift else BLUE)
        names = [str(place) if place <= DECILES else "missing" for place in deciles.tolist()]
        right.set_xticks(deciles, names)
        right.set_ylim(bottom=0)
        right.set_xlabel("decile of training")
        right.grid(visible=True, axis="y")
        heading(figure, _headline(change))


def _headline(change: Change) -> str:
    shift = "" if change.shift is None else f", shift {_signed(change.shift)}"
    verdict = "drift" if change.drift else "no drift"
    return f"{change.name}: {verdict}, effect {change.effect:.2f} (PSI {change.psi:.3f}{shift})"


def _bins(recent: FloatMatrix, reference: FloatMatrix) -> NDArray[np.float64]:
    """Edges that hold 99 % of both; what is beyond is in the outermost bins, what is missing in none."""
    recent, reference = (values[~np.isnan(values)] for values in (recent, reference))
    both = [np.quantile(values, (0.005, 0.995)) for values in (recent, reference) if len(values)]
    if not both:
        return np.array([-0.5, 0.5])
    low, high = min(one[0] for one in both), max(one[1] for one in both)
    if low == high:
        return np.array([low - 0.5, low + 0.5])
    distinct = np.unique(np.concatenate([recent, reference]))
    distinct = distinct[(distinct >= low) & (distinct <= high)]
    if 1 < len(distinct) <= 2 * _BINS:
        # Few values, such as whole years: one bin each, or every second would look empty.
        middle = (distinct[:-1] + distinct[1:]) / 2
        edges = [2 * distinct[0] - middle[0], *middle, 2 * distinct[-1] - middle[-1]]
        return np.array(edges, dtype=np.float64)
    return np.linspace(low, high, _BINS + 1)


def _draw_classes(search: Search, change: Change, path: Path) -> None:
    dataset = search.dataset
    labels = dataset.target.classes if change.name == PREDICTION else buckets.labels(_feature(dataset, change))
    places = np.arange(len(labels))
    with canvas(path, 2.6) as figure:
        axes = figure.add_subplot()
        axes.bar(places - 0.2, change.reference_shares, 0.38, color=GREY, alpha=0.6, label="training")
        axes.bar(places + 0.2, change.recent_shares, 0.38, color=ORANGE if change.drift else BLUE, label="recent")
        axes.set_xticks(places, [label[:_LABEL] for label in labels], rotation=90 if len(labels) > _LEVEL else 0)
        axes.tick_params(axis="x", length=0)
        axes.set_ylabel("share of rows")
        axes.grid(visible=True, axis="y")
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
        heading(figure, _headline(change))


def _map(dataset: Dataset) -> MapParams | None:
    return params.load().model_evaluation.special(dataset.name).map


def _draw_map(search: Search, area: MapParams, path: Path) -> None:
    features = search.window.features
    if features is None:
        raise RuntimeError("without features there is no map")
    names = search.dataset.feature_names
    columns = [names.index(area.longitude), names.index(area.latitude)]
    # If only the newest rows have drifted, show those.
    count = min((change.rows for change in search.drift.drifted if change.name != REFUSED), default=len(features))
    recent, reference = features[-count:, columns], search.reference.features[:, columns]
    everywhere = np.concatenate([recent, reference])
    (west, south), (east, north) = everywhere.min(axis=0), everywhere.max(axis=0)
    margin = 0.03 * max(north - south, east - west, 0.01)
    # A degree of longitude is shorter than one of latitude by the cosine of the latitude.
    stretch = float(1 / np.cos(np.radians((south + north) / 2)))
    # West of the land there is room for the names of places.
    extent = (west - 0.2 * (east - west), east + margin, south - margin, north + margin)
    with canvas(path, 3.7) as figure:
        left, right = figure.subplots(1, 2, sharey=True)
        left.scatter(*reference.T, s=5, color="#C9C9C9", linewidths=0, label="training")
        left.scatter(*recent.T, s=5, color=ORANGE, linewidths=0, alpha=min(1.0, 1500 / len(recent)), label="recent")
        for handle in left.legend(loc="upper right", markerscale=2.5).legend_handles:
            if handle is not None:
                handle.set_alpha(1)
        height, width = extent[3] - extent[2], (extent[1] - extent[0]) / stretch
        grid = (_MAP_CELLS, max(1, round(_MAP_CELLS * height / width / np.sqrt(3))))
        # Each row counts as its share of all rows on its side.
        weights = np.concatenate([np.full(len(recent), 1 / len(recent)), np.full(len(reference), -1 / len(reference))])
        cells = right.hexbin(
            *everywhere.T,
            C=weights * 100,
            reduce_C_function=np.sum,
            gridsize=grid,
            extent=extent,
            cmap=_blue_to_orange(),
            linewidths=0.2,
            edgecolors="white",
            mincnt=1,
        )
        limit = max(float(np.quantile(np.abs(np.asarray(cells.get_array(), dtype=np.float64)), 0.97)), 0.2)
        cells.set_clim(-limit, limit)
        bar = figure.colorbar(cells, ax=right, shrink=0.75, aspect=26, extend="both")
        bar.outline.set_visible(False)
        bar.set_label("recent minus training share (%)")
        for axes in (left, right):
            axes.set(xlim=extent[:2], ylim=extent[2:], aspect=stretch)
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.xaxis.set_major_formatter("{x:g}°")
            axes.yaxis.set_major_formatter("{x:g}°")
            for name, (latitude, longitude) in area.places.items():
                if south <= latitude <= north and west <= longitude <= east:
                    axes.plot(longitude, latitude, "o", color=INK, markersize=3, markeredgecolor="white")
                    axes.annotate(
                        name, (longitude, latitude), xytext=(-5, 0), textcoords="offset points", va="center",
                        ha="right", fontsize=8, color=INK,
                    )  # fmt: skip
        left.set_xlabel("longitude, east")
        right.set_xlabel("longitude, east")
        left.set_ylabel("latitude, north")
        heading(figure, f"{search.dataset.name}: {len(recent):,} recent rows against {len(reference):,} of training")


def _blue_to_orange() -> ListedColormap:
    colours = LinearSegmentedColormap.from_list("difference", [BLUE, "#F4F4F4", ORANGE])
    return ListedColormap(colours(np.linspace(0, 1, 256)))
