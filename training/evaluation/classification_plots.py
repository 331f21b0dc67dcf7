"""Figures of a classification model."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix

from contract.dataset import Dataset
from contract.table import FloatMatrix
from training.evaluation.plots import BLUE, DASHES, GREY, INK, Figure, canvas, heading, write_csv


@dataclass(frozen=True)
class Answers:
    """Class probabilities and the truth for some rows.

    Attributes:
        rows: which rows, for people: "the test split", "cross-validated".
        actual: class indices of shape ``[N]``.
        probabilities: shape ``[N, C]``.
    """

    rows: str
    actual: FloatMatrix
    probabilities: FloatMatrix

    @property
    def likeliest(self) -> NDArray[np.int64]:
        """The class with the largest probability, of shape ``[N]``."""
        return np.asarray(self.probabilities.argmax(axis=1), dtype=np.int64)


def confusion(dataset: Dataset, panels: Sequence[Answers], directory: Path) -> Figure:
    """Counts and shares of predicted by actual class: one matrix for each of one or two ``panels``.

    The CSV holds the rows of the last panel, the one with most rows.
    """
    slug = "confusion_matrix"
    classes = dataset.target.classes
    image, data = directory / f"{slug}.png", directory / f"{slug}.csv"
    with canvas(image, 1.3 + 6.0 / max(2, len(panels))) as figure:
        for place, answers in enumerate(panels, start=1):
            matrix = confusion_matrix(answers.actual.astype(int), answers.likeliest, labels=range(len(classes)))
            totals = matrix.sum(axis=1, keepdims=True)
            shares = np.divide(matrix, totals, out=np.zeros(matrix.shape), where=totals > 0)
            axes = figure.add_subplot(1, len(panels), place)
            axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.15)
            for row, column in np.ndindex(matrix.shape):
                count, share = matrix[row, column], shares[row, column]
                colour = "white" if share > 0.6 else INK if count else "#767676"
                axes.text(column, row, f"{count:,}\n{100 * share:.0f} %", ha="center", va="center", color=colour)
            axes.set_xticks(range(len(classes)), classes)
            axes.set_yticks(range(len(classes)), classes if place == 1 else [""] * len(classes))
            axes.tick_params(length=0)
            for spine in axes.spines.values():
                spine.set_visible(False)
            axes.set_xticks(np.arange(0.5, len(classes) - 1), minor=True)
            axes.set_yticks(np.arange(0.5, len(classes) - 1), minor=True)
            axes.grid(visible=True, which="minor", color="white", linewidth=2)
            axes.tick_params(which="minor", length=0)
            axes.set_xlabel(f"predicted {dataset.target.name}")
            if place == 1:
                axes.set_ylabel(f"actual {dataset.target.name}")
            axes.set_title(f"{answers.rows}: {len(answers.actual):,} rows", fontsize=10.5)
        heading(figure, f"{dataset.name}: which classes are confused")
    last = panels[-1]
    names = np.array(classes)
    write_csv(data, {"actual": names[last.actual.astype(int)], "predicted": names[last.likeliest]})
    wrong = [int((answers.likeliest != answers.actual).sum()) for answers in panels]
    told = " and ".join(
        f"{count} of {len(answers.actual):,} rows are wrong ({answers.rows})"
        for count, answers in zip(wrong, panels, strict=True)
    )
    return Figure(
        slug,
        "Confusion matrix",
        image,
        data,
        f"Matrix of {len(classes)} actual by {len(classes)} predicted classes: {told}.",
        f"How often each actual class (a row) was given each predicted class (a column): {told}.",
        "Counts on the diagonal are right. Percentages are shares of the actual class: each row adds up to 100 %.",
    )


def reliability(dataset: Dataset, answers: Answers, directory: Path, *, bins: int) -> Figure:
    """Observed frequency against predicted probability, over all classes, and how many rows speak at each."""
    slug = "calibration"
    classes = len(dataset.target.classes)
    predicted = answers.probabilities.ravel()
    happened = (answers.actual.astype(int)[:, None] == np.arange(classes)).ravel()
    edges = np.linspace(0, 1, bins + 1)
    index = np.clip(np.digitize(predicted, edges) - 1, 0, bins - 1)
    filled = [number for number in range(bins) if (index == number).any()]
    counts = np.array([(index == number).sum() for number in filled])
    means = np.array([predicted[index == number].mean() for number in filled])
    observed = np.array([happened[index == number].mean() for number in filled])
    low, high = _wilson(observed, counts)
    image, data = directory / f"{slug}.png", directory / f"{slug}.csv"
    with canvas(image, 6.0) as figure:
        axes, below = figure.subplots(2, 1, sharex=True, height_ratios=[3.4, 1])
        axes.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=DASHES, label="perfectly calibrated")
        axes.errorbar(
            means, observed, yerr=[np.maximum(observed - low, 0), np.maximum(high - observed, 0)], fmt="o", color=BLUE,
            markersize=6, elinewidth=1.5, label="observed, with 95 % interval",
        )  # fmt: skip
        axes.grid(visible=True)
        axes.set_ylim(-0.03, 1.03)
        axes.set_ylabel("share of rows that are of the class")
        axes.legend(loc="upper left")
        axes.set_title(f"{dataset.name}: are probabilities right? {len(answers.actual):,} rows, {answers.rows}")
        below.bar((edges[:-1] + edges[1:])[filled] / 2, counts, width=0.92 / bins, color=GREY)
        for number, count in zip(filled, counts, strict=True):
            below.text(edges[number] + 0.5 / bins, count, f"{count:,}", ha="center", va="bottom", fontsize=9)
        below.set_ylim(0, 1.3 * counts.max())
        below.set_xlim(-0.03, 1.03)
        below.set_yticks([])
        below.spines["left"].set_visible(False)
        below.set_xlabel("predicted probability of a class")
        below.set_ylabel("probabilities")
    write_csv(data, {"predicted": means, "observed": observed, "low": low, "high": high, "probabilities": counts})
    return Figure(
        slug,
        "Calibration",
        image,
        data,
        f"Reliability diagram with {len(filled)} points and their 95 % intervals.",
        f"Predicted probabilities against how often they came true, over all {classes} classes of "
        f"{len(answers.actual):,} rows ({answers.rows}).",
        "Points on the dashed line are honest probabilities. Above it the model is too timid, below it too sure. Long "
        "intervals have few rows behind them: the bars count the probabilities.",
    )


def _wilson(share: FloatMatrix, count: NDArray[np.int64]) -> tuple[FloatMatrix, FloatMatrix]:
    """The 95 % interval of an observed share (Wilson, 1927): sound for few rows and for shares of 0 and 1."""
    z = 1.96
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return np.clip(centre - half, 0, 1), np.clip(centre + half, 0, 1)
