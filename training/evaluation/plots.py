"""Figures: each an image, the numbers behind it, and the words that go with it.

One restrained style: the colours of Okabe and Ito (2008), which people with every kind of colour vision tell apart;
thin axes; 7.2 inches wide, so that the text reads at 800 pixels.
"""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure as Canvas
from numpy.typing import NDArray

from contract.dataset import Dataset
from contract.table import FloatMatrix
from training.evaluation.diagnostics import LearningCurve
from training.evaluation.scores import label, with_unit
from training.files import replaced_file, write_text

BLUE, ORANGE, GREEN, GREY, INK = "#0072B2", "#D55E00", "#009E73", "#9A9A9A", "#222222"
DASHES = (0, (5, 4))
WIDTH = 7.2
"""Inches."""

_STYLE: Mapping[str, Any] = {
    "figure.dpi": 150,
    "savefig.dpi": 150,
    "figure.facecolor": "white",
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same image on every machine
    "font.size": 10.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#777777",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 12,
    "axes.grid": False,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.7,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "legend.frameon": False,
    "legend.fontsize": 10,
    "lines.linewidth": 2,
}


@dataclass(frozen=True)
class Figure:
    """A figure on disk.

    Attributes:
        slug: its name in files and anchors.
        title: its heading.
        image, data: the PNG, and the CSV with what it draws.
        alt: what the image shows, for who cannot see it.
        shows, reading: a sentence on what it shows, and one on how to read it.
    """

    slug: str
    title: str
    image: Path
    data: Path
    alt: str
    shows: str
    reading: str


@contextmanager
def canvas(path: Path, height: float) -> Iterator[Canvas]:
    """A figure in the common style, ``height`` inches high, written to ``path`` when the block succeeds.

    The object interface of matplotlib needs no display and keeps no global list of figures.
    """
    with mpl.rc_context(dict(_STYLE)):  # type: ignore[arg-type]  # the stubs want a literal of each of 300 keys
        figure = Canvas(figsize=(WIDTH, height), layout="constrained")
        yield figure
        with replaced_file(path) as partial:
            # Without the version of matplotlib in the metadata, equal inputs give equal bytes.
            figure.savefig(partial, format="png", metadata={"Software": None})


def heading(figure: Canvas, text: str) -> None:
    """A title above several panels, as the title of one panel looks."""
    figure.suptitle(text, x=0.012, horizontalalignment="left", fontsize=11.5)


def write_csv(path: Path, columns: Mapping[str, Sequence[object] | NDArray[np.generic]]) -> None:
    """A table of columns, for ``dvc plots``; floats with six significant digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(value) for value in row] for row in zip(*columns.values(), strict=True))
    write_text(path, text.getvalue())


def _cell(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def importances(dataset: Dataset, rises: FloatMatrix, directory: Path, *, metric: str, rows: int) -> Figure:
    """Permutation importances of shape ``[F, repeats]``, the most important feature on top."""
    slug = "permutation_importances"
    order = np.argsort(rises.mean(axis=1), kind="stable")
    names = [dataset.feature_names[index] for index in order]
    means = rises.mean(axis=1)[order]
    image, data = directory / f"{slug}.png", directory / f"{slug}.csv"
    with canvas(image, 1.3 + 0.36 * len(names)) as figure:
        axes = figure.add_subplot()
        axes.barh(names, means, color=BLUE, alpha=0.3, height=0.62)
        for position, index in enumerate(order):
            axes.plot(
                rises[index], np.full(rises.shape[1], position), "|", color=BLUE, markersize=11, markeredgewidth=1.5
            )
        axes.axvline(0, color="#777777", linewidth=0.8)
        axes.set_xlabel(f"rise of the {with_unit(metric, dataset)} when the feature is shuffled")
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=True, axis="x")
        axes.spines["left"].set_visible(False)
        axes.set_title(f"{dataset.name}: what the model leans on, {rows:,} test rows")
    write_csv(
        data,
        {"feature": names[::-1], "importance": means[::-1], "deviation": rises.std(axis=1)[order][::-1]},
    )
    return Figure(
        slug,
        "Permutation importances",
        image,
        data,
        f"Bar chart of {len(names)} features; the longest bars are {listed(names[::-1][:3])}.",
        f"How much worse the {label(metric)} on the test split gets when the values of one feature are shuffled among "
        f"the rows: most for {listed(names[::-1][:2])}.",
        f"A long bar is a feature that the model leans on. Ticks are {rises.shape[1]} shuffles each: ticks on both "
        "sides of zero mean no measurable use. Features that tell the same story share their importance.",
    )


def learning_curve(dataset: Dataset, curve: LearningCurve, directory: Path, *, metric: str) -> Figure:
    """Loss by number of training rows: mean and range over the splits."""
    slug = "learning_curve"
    image, data = directory / f"{slug}.png", directory / f"{slug}.csv"
    splits = curve.training.shape[1]
    with canvas(image, 4.2) as figure:
        axes = figure.add_subplot()
        for values, colour, marker, name in (
            (curve.validation, BLUE, "o", "held-out rows"),
            (curve.training, ORANGE, "s", "rows it was fitted on"),
        ):
            axes.fill_between(curve.rows, values.min(axis=1), values.max(axis=1), color=colour, alpha=0.15, linewidth=0)
            axes.plot(curve.rows, values.mean(axis=1), color=colour, marker=marker, markersize=5, label=name)
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.set_xlabel("training rows")
        axes.set_ylabel(with_unit(metric, dataset))
        axes.grid(visible=True, axis="y")
        axes.legend(loc="best")
        axes.set_title(f"{dataset.name}: would more rows help?")
    first, last = curve.validation.mean(axis=1)[[0, -1]]
    write_csv(
        data,
        {"rows": curve.rows, "held_out": curve.validation.mean(axis=1), "fitted": curve.training.mean(axis=1)},
    )
    return Figure(
        slug,
        "Learning curve",
        image,
        data,
        f"Line chart: from {curve.rows[0]:,} to {curve.rows[-1]:,} training rows the {label(metric)} on held-out rows "
        f"goes from {first:#.3g} to {last:#.3g}.",
        f"The {label(metric)} of the same algorithm fitted on parts of the training split: on held-out "
        f"rows {first:#.3g} when it had {curve.rows[0]:,} rows, {last:#.3g} when it had {curve.rows[-1]:,}.",
        "While the held-out line still falls, more rows would help; where it is flat, better features would. The gap "
        "between the lines is what the model learned by heart."
        + (f" Bands span {splits} random splits." if splits > 1 else ""),
    )


def listed(names: Sequence[str]) -> str:
    """Names as a sentence has them: a, b and c."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def signed(value: float) -> str:
    """A number with its sign and two decimals; the minus is the one that matplotlib's axes have."""
    return f"{value:+.2f}".replace("-", "−")
