"""Features computed from one row. They are a step of the fitted pipeline, so what is trained is what is served."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_array, check_is_fitted

from contract.dataset import Dataset
from contract.errors import PipelineError
from training.params import RowFeatureParams

FloatMatrix = NDArray[np.float64]


class RotationTable(NamedTuple):
    """Rotated column ``k`` is column ``first[k]`` times ``cos[k]`` plus column ``second[k]`` times ``sin[k]``."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    cos: FloatMatrix
    sin: FloatMatrix


class RowFeatures(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """The row as it is, then its rotated coordinates, then its ratios.

    A row needs no other row: nothing is learned but the number of columns.

    Args:
        rotations: ``(x, y, degrees)``: two column indices, read as coordinates in a plane, and the angle by which the
            axes turn. Each gives two columns, ``x cos + y sin`` and ``y cos - x sin``.
        ratios: ``(numerator, denominator)``: two column indices. A denominator must not be zero; ``row_features``
            checks that the contract rules it out.
    """

    def __init__(
        self,
        rotations: Sequence[tuple[int, int, float]] = (),
        ratios: Sequence[tuple[int, int]] = (),
    ) -> None:
        self.rotations = rotations
        self.ratios = ratios

    def fit(self, X: ArrayLike, y: object = None) -> Self:  # noqa: N803, ARG002 # scikit-learn's signature
        """Remember the number of columns."""
        self.n_features_in_ = check_array(X, dtype=np.float64).shape[1]
        return self

    def transform(self, X: ArrayLike) -> FloatMatrix:  # noqa: N803 # scikit-learn's signature
        """``[N, F]`` to ``[N, F + 2 · rotations + ratios]``.

        Written as single products and sums, one rounding each, as ``training/onnx/features.py`` writes them too:
        the results are equal to the last bit, and no row falls on the other side of a tree's threshold. A matrix
        product would be free to sum in another order.
        """
        check_is_fitted(self)
        rows = check_array(X, dtype=np.float64)
        if rows.shape[1] != self.n_features_in_:
            raise ValueError(f"{rows.shape[1]} columns, fitted on {self.n_features_in_}.")
        rotations, ratios = self.rotation_table(), self.ratio_table()
        rotated = rows[:, rotations.first] * rotations.cos + rows[:, rotations.second] * rotations.sin
        return np.column_stack([rows, rotated, rows[:, ratios[:, 0]] / rows[:, ratios[:, 1]]])

    def rotation_table(self) -> RotationTable:
        """The rotations, one entry for each output column they give."""
        x, y = ([int(rotation[axis]) for rotation in self.rotations] for axis in (0, 1))
        angles = np.deg2rad(np.array([rotation[2] for rotation in self.rotations], dtype=np.float64))
        cos, sin = np.cos(angles), np.sin(angles)
        return RotationTable(
            first=_interleaved(x, y, np.int64),
            second=_interleaved(y, x, np.int64),
            cos=_interleaved(cos, cos, np.float64),
            sin=_interleaved(sin, -sin, np.float64),
        )

    def ratio_table(self) -> NDArray[np.int64]:
        """Column indices of shape ``[ratios, 2]``: numerator, denominator."""
        return np.array(self.ratios, dtype=np.int64).reshape(-1, 2)

    def get_feature_names_out(self, input_features: Sequence[str] | None = None) -> NDArray[Any]:
        """The names of the output columns, of shape ``[F + 2 · rotations + ratios]``."""
        check_is_fitted(self)
        names = list(input_features if input_features is not None else (f"x{i}" for i in range(self.n_features_in_)))
        rotated = [
            f"{axis} of {names[x]}, {names[y]} turned {degrees:g}°"
            for x, y, degrees in self.rotations
            for axis in ("x", "y")
        ]
        ratios = [f"{names[numerator]} / {names[denominator]}" for numerator, denominator in self.ratios]
        return np.array([*names, *rotated, *ratios], dtype=object)


class SinglePrecision(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Round each value to single precision, and keep it as a double.

    A scikit-learn forest rounds its input so before it compares; onnxruntime's does not. With this step before the
    forest both compare the same number, also for a row that lies on a threshold.
    """

    def fit(self, X: ArrayLike, y: object = None) -> Self:  # noqa: N803, ARG002 # scikit-learn's signature
        """Remember the number of columns."""
        self.n_features_in_ = check_array(X, dtype=np.float64).shape[1]
        return self

    def transform(self, X: ArrayLike) -> FloatMatrix:  # noqa: N803 # scikit-learn's signature
        """``[N, F]`` to ``[N, F]``."""
        check_is_fitted(self)
        rows: FloatMatrix = check_array(X, dtype=np.float64)
        return rows.astype(np.float32).astype(np.float64)

    def get_feature_names_out(self, input_features: Sequence[str] | None = None) -> NDArray[Any]:
        """The names of the input columns."""
        check_is_fitted(self)
        names = input_features if input_features is not None else [f"x{i}" for i in range(self.n_features_in_)]
        return np.array(names, dtype=object)


def _interleaved(even: ArrayLike, odd: ArrayLike, dtype: Any) -> NDArray[Any]:
    return np.stack([np.asarray(even, dtype=dtype), np.asarray(odd, dtype=dtype)], axis=1).ravel()


def row_features(dataset: Dataset, params: RowFeatureParams) -> RowFeatures:
    """The features that ``params`` names, by the dataset's column indices.

    Raises:
        PipelineError: for a column the dataset does not have, and for a denominator that its contract allows to be
            zero.
    """
    rotations: list[tuple[int, int, float]] = []
    if params.rotations is not None:
        x, y = (_index(dataset, name) for name in params.rotations.columns)
        rotations = [(x, y, degrees) for degrees in params.rotations.degrees]
    ratios = [(_index(dataset, numerator), _index(dataset, denominator)) for numerator, denominator in params.ratios]
    for _, denominator in ratios:
        feature = dataset.features[denominator]
        if feature.minimum <= 0 <= feature.maximum:
            raise PipelineError(
                f"train.{dataset.name}.features.ratios: {feature.name} may be zero (its range is {feature.minimum:g} "
                f"to {feature.maximum:g}), so it cannot be a denominator. Narrow its range in the contract or take "
                "the ratio out."
            )
    return RowFeatures(rotations=rotations, ratios=ratios)


def _index(dataset: Dataset, name: str) -> int:
    if name not in dataset.feature_names:
        raise PipelineError(
            f"train.{dataset.name}.features: {name} is no feature of {dataset.name}; it has "
            f"{', '.join(dataset.feature_names)}."
        )
    return dataset.feature_names.index(name)
