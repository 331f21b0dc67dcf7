"""How many answers change when features change by no more than rounding does."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contract.dataset import Dataset, Task
from contract.feature import Kind
from contract.table import FloatMatrix
from training.evaluation.scores import percent
from training.params import StabilityParams


@dataclass(frozen=True)
class Stability:
    """The share of rows whose answer changes by more than ``change``.

    Attributes:
        change: the smallest change that counts: in the target's unit, or of a class probability.
        float32: the share of rows that change when all numbers are rounded to float32.
        perturbed: by feature that is a number with decimals, the share of rows that change when it alone grows or
            shrinks by ``params.perturbation``.
        params: how it was measured, and the limits.
    """

    change: float
    float32: float
    perturbed: Mapping[str, float]
    params: StabilityParams

    @property
    def worst(self) -> str:
        """The feature whose perturbation changes the most rows; "" if none was perturbed."""
        return max(self.perturbed, key=lambda name: self.perturbed[name], default="")

    @property
    def metrics(self) -> dict[str, float]:
        """The shares for MLflow; ``perturbed`` is that of the worst feature."""
        return {"float32": self.float32, "perturbed": self.perturbed.get(self.worst, 0.0)}

    @property
    def excess(self) -> str:
        """What is over its limit, as the end of a sentence that starts with the model; empty if nothing is."""
        share, limit, cause = self.float32, self.params.float32_limit, "all numbers are rounded to float32"
        if share <= limit:
            share, limit = self.metrics["perturbed"], self.params.perturbed_limit
            cause = f"{self.worst} changes by {percent(self.params.perturbation)}"
        if share <= limit:
            return ""
        return (
            f"gives {percent(share)} of the test rows another answer (by more than {self.change:.2g}) when {cause}; "
            f"at most {percent(limit)} is allowed"
        )


def measure(
    dataset: Dataset,
    predict: Callable[[FloatMatrix], FloatMatrix],
    features: FloatMatrix,
    target: FloatMatrix,
    params: StabilityParams,
) -> Stability:
    """Compare the answers to rows with the answers to the same rows, slightly changed.

    Only numbers change: nobody sends a category or a date as a float32, and a whole number up to 2²⁴ is exact in it.

    Args:
        predict: ``[N, F]`` to predictions ``[N]`` or probabilities ``[N, C]``.
        features: the rows, ``[N, F]``.
        target: their targets, ``[N]``; a regression's change is measured in their standard deviation.
    """
    spread = float(target.std()) if dataset.task is Task.REGRESSION else 1.0
    change = getattr(params.change, dataset.task) * spread
    answers = predict(features)

    def changed(rows: FloatMatrix) -> NDArray[np.bool_]:
        difference = np.abs(predict(rows) - answers).reshape(len(rows), -1).max(axis=1)
        small: NDArray[np.bool_] = difference <= change
        return ~small  # NaN counts as changed

    def perturbed(column: int) -> float:
        either = np.zeros(len(features), dtype=np.bool_)
        for factor in (1 - params.perturbation, 1 + params.perturbation):
            rows = features.copy()
            rows[:, column] *= factor
            either |= changed(rows)
        return float(either.mean())

    single = features.copy()
    numbers = [column for column, feature in enumerate(dataset.features) if feature.kind is Kind.NUMBER]
    single[:, numbers] = single[:, numbers].astype(np.float32)
    return Stability(
        change=change,
        float32=float(changed(single).mean()),
        perturbed={dataset.feature_names[column]: perturbed(column) for column in numbers},
        params=params,
    )
