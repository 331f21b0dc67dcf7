"""Figures of a training run, for MLflow: how the candidates compare, and what each got right and wrong."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from contract.dataset import Dataset, Task
from contract.table import FloatMatrix
from training.evaluation.scores import label
from training.selection import CrossValidation


def comparison(results: Mapping[str, CrossValidation], metric: str) -> Figure:
    """Each candidate's score by fold, its mean as a bar."""
    figure = Figure(figsize=(7, 1.2 + 0.5 * len(results)), layout="constrained")
    axes = figure.add_subplot()
    for position, (name, result) in enumerate(results.items()):
        values = result.folds[metric]
        axes.barh(position, np.mean(values), color="#0072B2", alpha=0.35)
        axes.plot(values, [position] * len(values), "|", color="#222222", markersize=12, label=name)
    axes.set_yticks(range(len(results)), list(results))
    axes.invert_yaxis()
    axes.set_xlabel(f"cross-validated {label(metric)}: a mark a fold, the bar is their mean")
    return figure


def out_of_fold(dataset: Dataset, target: FloatMatrix, result: CrossValidation) -> Figure:
    """Actual against predicted on rows the model did not see: density for numbers, counts for classes."""
    figure = Figure(figsize=(5, 4.4), layout="constrained")
    axes = figure.add_subplot()
    if dataset.task is Task.CLASSIFICATION:
        classes = dataset.target.classes
        counts = np.zeros((len(classes), len(classes)), dtype=int)
        np.add.at(counts, (target.astype(int), result.out_of_fold.argmax(axis=1)), 1)
        axes.imshow(counts, cmap="Blues")
        for (actual, predicted), count in np.ndenumerate(counts):
            dark = count > counts.max() / 2
            axes.text(predicted, actual, str(count), ha="center", va="center", color="white" if dark else "black")
        axes.set_xticks(range(len(classes)), classes)
        axes.set_yticks(range(len(classes)), classes)
        axes.set_xlabel("predicted")
        axes.set_ylabel("actual")
    else:
        axes.hexbin(result.out_of_fold, target, gridsize=50, bins="log", mincnt=1, cmap="Blues")
        ends = [float(target.min()), float(target.max())]
        axes.plot(ends, ends, "--", color="#D55E00", linewidth=1)
        axes.set_xlabel(f"predicted {dataset.target.name} ({dataset.target.unit})")
        axes.set_ylabel(f"actual {dataset.target.name} ({dataset.target.unit})")
    axes.set_title("rows held out in cross-validation", fontsize=10, loc="left")
    return figure
