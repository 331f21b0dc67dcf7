"""How many answers change when features change by no more than rounding does."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contract.dataset import Dataset, Task
from contract.table import FloatMatrix
from training.evaluation.scores import percent
from training.params import StabilityParams


@dataclass(frozen=True)
class Stability:
    """The share of rows whose answer changes by more than ``change``.

    Attributes:
        change: the smallest change that counts: in the target's unit, or of a class probability.
        float32: the share of rows that change when all features are rounded to float32.
        perturbed: by feature, the share of rows that change when it alone grows or shrinks by ``params.perturbation``.
        params: how it was measured, and the limits.
    """

    change: float
    float32: float
    perturbed: Mapping[str, float]
    params: StabilityParams

    @property
    def worst(self) -> str:
        """The feature whose perturbation changes the most rows."""
        return max(self.perturbed, key=lambda name: self.perturbed[name])

    @property
    def metrics(self) -> dict[str, float]:
        """The shares for MLflow; ``perturbed`` is that of the worst feature."""
        return {"float32": self.float32, "perturbed": self.perturbed[self.worst]}

    @property
    def excess(self) -> str:
        """What is over its limit, as the end of a sentence that starts with the model; empty if nothing is."""
        share, limit, cause = self.float32, self.params.float32_limit, "all features are rounded to float32"
        if share <= limit:
            share, limit = self.perturbed[self.worst], self.params.perturbed_limit
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

    return Stability(
        change=change,
        float32=float(changed(features.astype(np.float32).astype(np.float64)).mean()),
        perturbed={name: perturbed(column) for column, name in enumerate(dataset.feature_names)},
        params=params,
    )
