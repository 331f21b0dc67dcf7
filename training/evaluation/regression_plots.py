"""Figures of a regression model on its test split."""

from pathlib import Path

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.ticker import StrMethodFormatter

from contract.dataset import Dataset
from contract.table import FloatMatrix
from training.evaluation.plots import BLUE, DASHES, GREY, INK, ORANGE, Figure, canvas, heading, signed, write_csv

_DENSITY = LinearSegmentedColormap.from_list("density", ["#D6E6F2", "#6BAED6", BLUE, "#08306B"])


def predicted_against_actual(
    dataset: Dataset, actual: FloatMatrix, predicted: FloatMatrix, directory: Path, *, cutoff: float | None, points: int
) -> Figure:
    """Density of the rows over actual and predicted value, both of shape ``[N]``, in the target's unit.

    Args:
        cutoff: the value at which the source cut the target off, if it did.
        points: the most rows that the CSV holds, evenly taken.
    """
    slug = "predicted_against_actual"
    target = dataset.target
    low, high = min(actual.min(), predicted.min(), 0.0), 1.04 * max(actual.max(), predicted.max())
    image, data = directory / f"{slug}.png", directory / f"{slug}.csv"
    cut = (
        f" {100 * np.mean(actual >= cutoff):.1f} % of the rows lie at the cut-off of {cutoff:g}."
        if cutoff is not None
        else ""
    )
    with canvas(image, 6.2) as figure:
        axes = figure.add_subplot(aspect="equal")
        cells = axes.hexbin(
            actual, predicted, gridsize=48, extent=(low, high, low, high), mincnt=1, norm=LogNorm(), cmap=_DENSITY,
            linewidths=0.15, edgecolors="white",
        )  # fmt: skip
        axes.plot([low, high], [low, high], color=INK, linewidth=1, linestyle=DASHES, label="predicted = actual")
        axes.legend(loc="upper left")
        if cutoff is not None:
            axes.axvline(cutoff, color=ORANGE, linewidth=1.2)
            axes.annotate(
                f"cut-off at {cutoff:g}:\nthe true value is\nthis or more", (cutoff, low), xytext=(-7, 8),
                textcoords="offset points", ha="right", va="bottom", color=ORANGE, fontsize=9.5,
            )  # fmt: skip
        bar = figure.colorbar(cells, ax=axes, shrink=0.75, aspect=28, label="test rows in a cell")
        bar.outline.set_visible(False)
        bar.ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.set(xlim=(low, high), ylim=(low, high))
        axes.set_xlabel(f"actual {target.name} ({target.unit})")
        axes.set_ylabel(f"predicted {target.name} ({target.unit})")
        axes.set_title(f"{dataset.name}: predicted against actual, {len(actual):,} test rows")
    kept = np.linspace(0, len(actual) - 1, min(points, len(actual))).round().astype(int)
    write_csv(data, {"actual": actual[kept], "predicted": predicted[kept]})
    correlation = np.corrcoef(actual, predicted)[0, 1]
    return Figure(
        slug,
        "Predicted against actual",
        image,
        data,
        f"Density of {len(actual):,} test rows around the line where prediction and actual value agree; correlation "
        f"{correlation:.2f}.",
        f"Each test row by its actual and its predicted {target.name}; the darker a cell, the more rows.{cut}",
        "Rows on the dashed line are predicted exactly; below it the model is too low, above it too high."
        + (" At the cut-off the true value is unknown, so misses there say little." if cutoff is not None else ""),
    )


def residuals(dataset: Dataset, actual: FloatMatrix, predicted: FloatMatrix, directory: Path, *, bins: int) -> Figure:
    """Histogram of actual minus predicted, with its 5 %, 50 % and 95 % quantiles."""
    slug = "residuals"
    unit = dataset.target.unit
    residual = actual - predicted
    low, middle, high = np.quantile(residual, [0.05, 0.5, 0.95])
    # A few far misses would squeeze the rest: the outermost bins take all that lies beyond.
    edge = float(np.quantile(np.abs(residual), 0.995)) or 1.0
    edges = np.linspace(-edge, edge, bins + 1)
    counts, _ = np.histogram(np.clip(residual, -edge, edge), edges)
    centres = (edges[:-1] + edges[1:]) / 2
    image, data = directory / f"{slug}.png", directory / f"{slug}.csv"
    with canvas(image, 4.0) as figure:
        axes = figure.add_subplot()
        colours = [BLUE if low <= centre <= high else GREY for centre in centres]
        axes.bar(centres, counts, width=0.92 * (edges[1] - edges[0]), color=colours)
        top = 1.22 * counts.max()
        axes.set_ylim(0, top)
        for value, label, side in ((low, "5 %", "right"), (middle, "median", "center"), (high, "95 %", "left")):
            axes.axvline(value, color=INK, linewidth=1, linestyle=DASHES, ymax=0.86)
            axes.text(value, 0.88 * top, f"{label}\n{signed(value)}", ha=side, va="bottom", fontsize=9.5)
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.set_xlabel(f"residual: actual − predicted ({unit})")
        axes.set_ylabel("test rows")
        axes.set_title(f"{dataset.name}: how far off, {len(actual):,} test rows")
    write_csv(data, {"residual": centres, "rows": counts})
    return Figure(
        slug,
        "Residuals",
        image,
        data,
        f"Histogram of residuals; nine of ten lie between {signed(low)} and {signed(high)} (in {unit}).",
        f"Actual minus predicted {dataset.target.name}: nine of ten predictions (blue) miss by {signed(low)} to "
        f"{signed(high)} (in {unit}), half of them fall on either side of {signed(middle)}.",
        "A model without bias is centred at zero; a long right tail means rows whose value is higher than predicted. "
        "The outermost bars hold all misses beyond them.",
    )


def calibration(dataset: Dataset, actual: FloatMatrix, predicted: FloatMatrix, directory: Path, *, bins: int) -> Figure:
    """Mean actual against mean predicted value in groups of equal size, in order of the prediction."""
    slug = "calibration"
    unit = dataset.target.unit
    groups = np.array_split(np.argsort(predicted, kind="stable"), min(bins, len(predicted)))
    means = np.array([[predicted[group].mean(), actual[group].mean()] for group in groups])
    # Two standard errors of the mean: about 95 %.
    spread = np.array([2 * actual[group].std() / np.sqrt(len(group)) for group in groups])
    worst = int(np.abs(means[:, 1] - means[:, 0]).argmax())
    gap = means[worst, 1] - means[worst, 0]
    image, data = directory / f"{slug}.png", directory / f"{slug}.csv"
    with canvas(image, 4.0) as figure:
        axes, beside = figure.subplots(1, 2)
        low, high = min(0.0, means.min()), 1.08 * float((means[:, 1] + spread).max())
        axes.plot([low, high], [low, high], color=INK, linewidth=1, linestyle=DASHES, label="perfectly calibrated")
        axes.plot(means[:, 0], means[:, 1], "o", color=BLUE, label=f"{len(groups)} groups of equal size")
        axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
        axes.set_ylabel(f"mean actual ({unit})")
        axes.legend(loc="upper left", fontsize=9)
        beside.axhline(0, color=INK, linewidth=1, linestyle=DASHES)
        beside.errorbar(
            means[:, 0], means[:, 1] - means[:, 0], yerr=spread, fmt="o", color=BLUE, elinewidth=1.5,
            label="± 2 standard errors",
        )  # fmt: skip
        beside.set_xlim(low, high)
        beside.set_ylabel(f"actual − predicted ({unit})")
        beside.legend(loc="upper left", fontsize=9)
        for panel in (axes, beside):
            panel.grid(visible=True)
            panel.set_xlabel(f"mean predicted ({unit})")
        heading(figure, f"{dataset.name}: are predictions of {dataset.target.name} right on average?")
    write_csv(data, {"predicted": means[:, 0], "actual": means[:, 1], "two_standard_errors": spread})
    return Figure(
        slug,
        "Calibration",
        image,
        data,
        f"{len(groups)} points along the diagonal; the largest gap is {signed(gap)} (in {unit}).",
        f"Test rows in {len(groups)} groups of equal size by their prediction: the group with the largest gap, around "
        f"{means[worst, 0]:.2f}, is {means[worst, 1]:.2f} on average, a gap of {signed(gap)} (in {unit}).",
        "Points on the dashed line: among rows predicted at a value, the average is that value. Above it the model "
        "is too low for such rows, below it too high. The right panel is the same, magnified: a bar that crosses zero "
        "is no measurable error.",
    )
