"""Transformers of one row: rounding, rotated coordinates, ratios; categories and missing values as numbers.

They are steps of the fitted pipeline.

MLflow stores this file with each model, so that a model loads without the project: it may import only NumPy and
scikit-learn.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_array, check_is_fitted

FloatMatrix = NDArray[np.float64]


class RotationTable(NamedTuple):
    """Rotated column ``k`` is column ``first[k]`` times ``cos[k]`` plus column ``second[k]`` times ``sin[k]``."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    cos: FloatMatrix
    sin: FloatMatrix


class RoundingTable(NamedTuple):
    """Output column ``k`` is rounded to a multiple of ``1 / scale[k]`` where ``rounded[k]``."""

    rounded: NDArray[np.bool_]
    scale: FloatMatrix


class RowFeatures(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """The input columns, followed by rotated coordinates and ratios computed from them.

    Columns are rounded first, and what is computed from them is rounded again. Trees compare each value with
    thresholds that often lie exactly on a training value. Without rounding, a value that is off by the error of a
    float32 (37.880001 for 37.88) falls on the other side, and the prediction jumps.

    Each row is transformed by itself; ``fit`` learns only the number of columns.

    Args:
        rotations: ``(x, y, degrees)``: two column indices, read as coordinates in a plane, and the angle by which the
            axes turn. Each gives two columns, ``x cos + y sin`` and ``y cos - x sin``.
        ratios: ``(numerator, denominator)``: two column indices. A denominator must not be zero after rounding.
        decimals: decimal places of each input column; None leaves a column as it is. Empty: none is rounded.
        derived_decimals: the same for each computed column, rotated coordinates first.
    """

    _finite: ClassVar[Literal["allow-nan"] | bool] = True

    def __init__(
        self,
        rotations: Sequence[tuple[int, int, float]] = (),
        ratios: Sequence[tuple[int, int]] = (),
        decimals: Sequence[int | None] = (),
        derived_decimals: Sequence[int | None] = (),
    ) -> None:
        self.rotations = rotations
        self.ratios = ratios
        self.decimals = decimals
        self.derived_decimals = derived_decimals

    def fit(self, X: ArrayLike, y: object = None) -> Self:  # noqa: N803, ARG002 # scikit-learn's signature
        """Remember the number of columns."""
        self.n_features_in_ = check_array(X, dtype=np.float64, ensure_all_finite=self._finite).shape[1]
        for name, columns in (("decimals", self.n_features_in_), ("derived_decimals", self._derived_columns())):
            if len(getattr(self, name)) not in (0, columns):
                raise ValueError(f"{name} has {len(getattr(self, name))} entries for {columns} columns.")
        return self

    def transform(self, X: ArrayLike) -> FloatMatrix:  # noqa: N803 # scikit-learn's signature
        """``[N, F]`` to ``[N, F + 2 · rotations + ratios]``.

        Every product, sum and quotient is a separate operation, in the same order as in ``training/onnx/features.py``:
        both give the same bits. A matrix product could sum in another order.
        """
        check_is_fitted(self)
        rows = check_array(X, dtype=np.float64, ensure_all_finite=self._finite)
        if rows.shape[1] != self.n_features_in_:
            raise ValueError(f"{rows.shape[1]} columns, fitted on {self.n_features_in_}.")
        rotations, ratios = self.rotation_table(), self.ratio_table()
        rows = _rounded(rows, self.column_rounding())
        rotated = rows[:, rotations.first] * rotations.cos + rows[:, rotations.second] * rotations.sin
        derived = np.column_stack([rotated, rows[:, ratios[:, 0]] / rows[:, ratios[:, 1]]])
        return np.column_stack([rows, _rounded(derived, self.derived_rounding())])

    def column_rounding(self) -> RoundingTable:
        """How the input columns are rounded."""
        return _rounding_table(self.decimals, self.n_features_in_)

    def derived_rounding(self) -> RoundingTable:
        """How the rotated coordinates and the ratios are rounded."""
        return _rounding_table(self.derived_decimals, self._derived_columns())

    def _derived_columns(self) -> int:
        return 2 * len(self.rotations) + len(self.ratios)

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
        names = _names(input_features, self.n_features_in_)
        rotated = [
            f"{axis} of {names[x]}, {names[y]} turned {degrees:g}°"
            for x, y, degrees in self.rotations
            for axis in ("x", "y")
        ]
        ratios = [f"{names[numerator]} / {names[denominator]}" for numerator, denominator in self.ratios]
        return np.array([*names, *rotated, *ratios], dtype=object)


class OptionalRowFeatures(RowFeatures):
    """The same of rows in which values may be missing (NaN): what is computed from a missing value is missing too."""

    _finite = "allow-nan"


class BoostingRows(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Rows as gradient boosting can be fitted on: with at most 255 categories a column, and no column without values.

    The rarest categories become missing values (NaN), as those are that it does not know. A column without a value in
    the training rows becomes zeros. Trees do not look at either, so the fitted trees answer alike without this step.

    Args:
        categories: columns that hold codes of categories.
        most: how many categories of a column are kept: those with most training rows.
    """

    def __init__(self, categories: Sequence[int] = (), most: int = 255) -> None:
        self.categories = categories
        self.most = most

    def fit(self, X: ArrayLike, y: object = None) -> Self:  # noqa: N803, ARG002 # scikit-learn's signature
        """Find the categories to keep, and the columns without values."""
        rows = check_array(X, dtype=np.float64, ensure_all_finite="allow-nan")
        self.n_features_in_ = rows.shape[1]
        self.kept_ = [_commonest(rows[~np.isnan(rows[:, column]), column], self.most) for column in self.categories]
        self.empty_ = np.flatnonzero(np.isnan(rows).all(axis=0))
        return self

    def transform(self, X: ArrayLike) -> FloatMatrix:  # noqa: N803 # scikit-learn's signature
        """``[N, F]`` to ``[N, F]``."""
        check_is_fitted(self)
        rows: FloatMatrix = check_array(X, dtype=np.float64, ensure_all_finite="allow-nan", copy=True)
        for column, kept in zip(self.categories, self.kept_, strict=True):
            rows[~np.isin(rows[:, column], kept), column] = np.nan
        rows[:, self.empty_] = 0.0
        return rows

    def get_feature_names_out(self, input_features: Sequence[str] | None = None) -> NDArray[Any]:
        """The names of the input columns."""
        check_is_fitted(self)
        return _names(input_features, self.n_features_in_)


class KindEncoder(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Codes of categories, and values that may be missing (NaN), as numbers that every estimator takes.

    A missing number becomes the median of the training rows, and a column of its own says that it was missing. A
    missing category is one more category, with the code -1. A category without training rows has no column in the
    one-hot coding: it is all zeros there.

    Args:
        categories: columns that hold codes of categories.
        optional: columns of numbers that may be missing.
        one_hot: whether each category becomes a column of zeros and ones; otherwise the code is a number, which serves
            trees.
        most: the most columns of one category; the rarest categories have none.
    """

    def __init__(
        self, categories: Sequence[int] = (), optional: Sequence[int] = (), *, one_hot: bool = False, most: int = 255
    ) -> None:
        self.categories = categories
        self.optional = optional
        self.one_hot = one_hot
        self.most = most

    def fit(self, X: ArrayLike, y: object = None) -> Self:  # noqa: N803, ARG002 # scikit-learn's signature
        """Find the medians and, for the one-hot coding, the categories."""
        rows = check_array(X, dtype=np.float64, ensure_all_finite="allow-nan")
        self.n_features_in_ = rows.shape[1]
        self.instead_ = np.zeros(self.n_features_in_)
        self.instead_[list(self.categories)] = MISSING_CODE
        for column in self.optional:
            present = rows[~np.isnan(rows[:, column]), column]
            self.instead_[column] = np.median(present) if len(present) else 0.0
        filled = np.where(np.isnan(rows), self.instead_, rows)
        codes = [_commonest(filled[:, column], self.most) for column in self.categories if self.one_hot]
        sizes = [len(some) for some in codes]
        self.code_ = np.concatenate(codes) if codes else np.zeros(0)
        self.code_column_ = np.repeat(np.array(self.categories[: len(sizes)], dtype=np.int64), sizes)
        return self

    def transform(self, X: ArrayLike) -> FloatMatrix:  # noqa: N803 # scikit-learn's signature
        """``[N, F]`` to ``[N, kept + optional + one-hot columns]``."""
        check_is_fitted(self)
        rows = check_array(X, dtype=np.float64, ensure_all_finite="allow-nan")
        missing = np.isnan(rows)
        filled = np.where(missing, self.instead_, rows)
        return np.column_stack(
            [
                filled[:, self.kept_columns()],
                missing[:, list(self.optional)].astype(np.float64),
                (filled[:, self.code_column_] == self.code_).astype(np.float64),
            ]
        )

    def kept_columns(self) -> NDArray[np.int64]:
        """The input columns that stay columns: all but those in the one-hot coding."""
        dropped = set(self.categories) if self.one_hot else set()
        return np.array([column for column in range(self.n_features_in_) if column not in dropped], dtype=np.int64)

    def get_feature_names_out(self, input_features: Sequence[str] | None = None) -> NDArray[Any]:
        """The names of the output columns."""
        check_is_fitted(self)
        names = _names(input_features, self.n_features_in_)
        missing = [f"{names[column]} is missing" for column in self.optional]
        codes = [f"{names[column]} is {code:g}" for column, code in zip(self.code_column_, self.code_, strict=True)]
        return np.array([*names[self.kept_columns()], *missing, *codes], dtype=object)


MISSING_CODE = -1.0
"""The code of a missing category."""


class SinglePrecision(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Round each value to single precision, as a double.

    scikit-learn's forests round their input to single precision before they compare it; onnxruntime's do not. With
    this step in front, both compare the same numbers.
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
        return _names(input_features, self.n_features_in_)


def _names(given: Sequence[str] | None, columns: int) -> NDArray[Any]:
    return np.array(given if given is not None else [f"x{column}" for column in range(columns)], dtype=object)


def _commonest(values: FloatMatrix, most: int) -> FloatMatrix:
    """The values that are there most often, at most ``most`` of them, in ascending order."""
    found, counts = np.unique(values, return_counts=True)
    return np.sort(found[np.argsort(-counts, kind="stable")[:most]])


def _rounding_table(decimals: Sequence[int | None], columns: int) -> RoundingTable:
    every = decimals or [None] * columns
    return RoundingTable(
        rounded=np.array([places is not None for places in every], dtype=np.bool_),
        scale=np.array([10.0 ** (places or 0) for places in every], dtype=np.float64),
    )


def _rounded(values: FloatMatrix, table: RoundingTable) -> FloatMatrix:
    # `np.round` is free to compute this in other ways; ONNX must do the same.
    return np.where(table.rounded, np.rint(values * table.scale) / table.scale, values)


def _interleaved(even: ArrayLike, odd: ArrayLike, dtype: Any) -> NDArray[Any]:
    return np.stack([np.asarray(even, dtype=dtype), np.asarray(odd, dtype=dtype)], axis=1).ravel()
