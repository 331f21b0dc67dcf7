"""A row's answer has the same bits alone and in any batch, also where the model's kernels would not have it so.

Kernels for matrix products and exponentials treat the last few values of an array apart, so that a row's answer would
differ in its last bits with the rows that share its batch. A model that has such kernels gets its rows in a multiple of
``VECTOR_ROWS``, filled up with copies of the last one. The service and batch prediction do it alike, so that they
answer alike.
"""

from collections.abc import Callable

import numpy as np

from contract.table import FloatMatrix
from model.card import ModelCard

VECTOR_ROWS = 8
"""In a multiple of so many rows, vectorised kernels leave no remainder: AVX-512 takes 8 doubles at once."""

Predict = Callable[[FloatMatrix], FloatMatrix]
"""Rows ``[N, F]`` to outputs ``[N, K]``."""


def row_multiple(predict: Predict, card: ModelCard) -> int:
    """The multiple of rows that a model needs: 1, or ``VECTOR_ROWS``.

    It is 1 if rows drawn from the training ranges have the same bits in odd batches as all together.
    """
    low = np.array([feature.deciles[0] if feature.deciles else feature.minimum for feature in card.features])
    high = np.array([feature.deciles[-1] if feature.deciles else feature.maximum for feature in card.features])
    codes = [column for column, feature in enumerate(card.features) if not feature.deciles]
    draw = np.random.default_rng(0)
    # A percent of the answers differs, where any do: among this many rows some will.
    rows = draw.uniform(low, high, (600, len(low)))
    # Flags and categories have no deciles, and are whole.
    rows[:, codes] = rows[:, codes].round()
    together = predict(rows)
    independent = all(
        np.array_equal(predict(rows[start : start + size]), together[start : start + size])
        for size in (1, 3)
        for start in range(0, len(rows), size)
    )
    return 1 if independent else VECTOR_ROWS


def filled_up(predict: Predict, rows: FloatMatrix, multiple: int) -> FloatMatrix:
    """The outputs ``[N, K]`` for rows ``[N, F]``, N at least 1, of a model that needs a multiple of rows."""
    missing = -len(rows) % multiple
    if not missing:
        return predict(rows)
    return predict(np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)]))[: len(rows)]
