"""What a right answer is: the status, as many predictions as rows, all finite. A fast wrong answer is a failure."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from contract.dataset import Dataset, Task

LONGEST_REASON = 200
"""Characters of a server's sentence that are told."""


@dataclass(frozen=True)
class Asked:
    """What a request asks for: predictions of so many rows, or, with a ``feature``, to be refused for its bad value."""

    dataset: Dataset
    rows: int
    feature: str | None = None


class WrongAnswer(Exception):
    """An answer that is none, or not to what was asked. Its sentence is what Locust counts as a kind of failure."""


@contextmanager
def well_formed() -> Iterator[None]:
    """A block that reads an answer.

    Raises:
        WrongAnswer: a field was missing or of another type.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise WrongAnswer(f"the answer is malformed: {error!r}") from error


def check_prediction(dataset: Dataset, answer: Mapping[str, Any]) -> None:
    """One prediction of ``/predict``: a finite number, or a known class with finite probabilities.

    Raises:
        WrongAnswer: it is none.
    """
    _check_finite("the prediction", answer["prediction"])
    if dataset.task is Task.CLASSIFICATION:
        classes = dataset.target.classes
        if (answer["prediction"], answer["label"]) not in enumerate(classes):
            raise WrongAnswer("the prediction and its label are no class")
        if set(answer["probabilities"]) != set(classes):
            raise WrongAnswer("the probabilities are not those of the classes")
        for probability in answer["probabilities"].values():
            _check_finite("a probability", probability)


def check_tensors(tensors: Sequence[tuple[str, Sequence[int], Any]], rows: int) -> None:
    """The outputs of an inference: each with a row for each row that was sent, and all numbers finite.

    Args:
        tensors: name, shape and values of each output; values are numbers, or text.
        rows: how many were sent.

    Raises:
        WrongAnswer: names the output.
    """
    if not tensors:
        raise WrongAnswer("there is no output")
    for name, shape, values in tensors:
        array = np.asarray(values)
        if list(shape[:1]) != [rows] or array.size != math.prod(shape):
            raise WrongAnswer(f"the output {name} has not as many rows as were sent")
        if array.dtype.kind in "fiu" and not np.isfinite(array).all():
            raise WrongAnswer(f"the output {name} has a number that is not finite")


def check_refusal(sentence: str, feature: str) -> None:
    """The sentence with which a bad row was refused: it must name the feature.

    Raises:
        WrongAnswer: it does not.
    """
    if feature not in sentence:
        raise WrongAnswer("the refusal does not name the feature")


def shortened(sentence: str) -> str:
    """A server's sentence, not longer than is worth telling."""
    return sentence[:LONGEST_REASON]


def _check_finite(what: str, value: object) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise WrongAnswer(f"{what} is no finite number")
