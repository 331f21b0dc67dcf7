"""Check answers: the status, one prediction for each row, all finite. A wrong answer is a failure, however fast."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from contract.dataset import Dataset, Task

LONGEST_REASON = 200
"""Maximum characters of a server's error message in the statistics."""


@dataclass(frozen=True)
class Asked:
    """The expected answer: predictions for ``rows`` rows, or with a ``feature`` a refusal of its bad value."""

    dataset: Dataset
    rows: int
    feature: str | None = None


class WrongAnswer(Exception):
    """An answer is missing or wrong. Locust counts failures by the message."""


@contextmanager
def well_formed() -> Iterator[None]:
    """Turn errors while reading an answer into ``WrongAnswer``.

    Raises:
        WrongAnswer: a field was missing or of another type.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise WrongAnswer(f"the answer is malformed: {error!r}") from error


def check_prediction(dataset: Dataset, answer: Mapping[str, Any]) -> None:
    """Check one prediction of ``/predict``: a finite number, or a known class with finite probabilities.

    Raises:
        WrongAnswer: it is not.
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
    """Check the outputs of an inference: each has a row for each row that was sent, all numbers finite.

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
    """Check the message with which a bad row was refused: it must name the feature.

    Raises:
        WrongAnswer: it does not.
    """
    if feature not in sentence:
        raise WrongAnswer("the refusal does not name the feature")


def shortened(sentence: str) -> str:
    """A server's error message, cut to ``LONGEST_REASON``."""
    return sentence[:LONGEST_REASON]


def _check_finite(what: str, value: object) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise WrongAnswer(f"{what} is no finite number")
