"""The new client: it asks for inland districts alone, and reports them in other units.

Where the number of rooms belongs it sends the floor area in units of 10 m², which is about three for each room, and it
gives incomes in pounds. The contract's ranges hold such values, so nothing is refused: the predictions are wrong. A
model can learn what they mean without unlearning anything, since no other client sends so many "rooms".

The districts are those of the training split: of the test split a challenger must learn nothing. They are sent in two
halves, the first until a new model takes over, the second from then on: what the new model has learned from does not
flatter it.
"""

from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from contract.datasets.housing import HOUSING
from contract.table import FloatMatrix
from load_tests.traffic import Traffic

WEST, SOUTH = -121.0, 35.0
"""Inland is east and north of these degrees: the Central Valley and the mountains."""
AREA_PER_ROOM = 3.0
"""In units of 10 m²."""
POUNDS = 0.56
"""For a dollar, in 1990."""


class Districts(Traffic):
    """The districts of the new client, one after the other; from the start again when all were sent.

    ``sent`` counts them.
    """

    def __init__(self, rows: FloatMatrix, targets: NDArray[np.float64]) -> None:
        super().__init__(HOUSING, rows, targets)
        self.sent = 0

    @classmethod
    def halves(cls, features: Path) -> tuple[Self, Self]:
        """Both halves, from the pipeline's folder of splits.

        Raises:
            LoadTestError: the split is missing, or breaks the contract.
        """
        rows, targets = Traffic.read(HOUSING, features, split="train").every
        inland = np.flatnonzero((_column(rows, "Longitude") > WEST) & (_column(rows, "Latitude") > SOUTH))
        order = np.random.default_rng(0).permutation(inland)
        first, second = order[: len(order) // 2], order[len(order) // 2 :]
        return cls(in_other_units(rows[first]), targets[first]), cls(in_other_units(rows[second]), targets[second])

    def labelled(self, count: int) -> tuple[FloatMatrix, NDArray[np.float64]]:
        """The next rows, ``[count, F]``, and what came true for them, ``[count]``."""
        rows, targets = self.every
        taken = np.arange(self.sent, self.sent + count) % len(rows)
        self.sent += count
        return rows[taken], targets[taken]

    def __len__(self) -> int:
        return len(self.every[0])


def in_other_units(rows: FloatMatrix) -> FloatMatrix:
    """Districts as the new client reports them, ``[N, F]``."""
    changed = rows.copy()
    _column(changed, "AveRooms")[:] *= AREA_PER_ROOM
    _column(changed, "MedInc")[:] *= POUNDS
    return np.clip(changed, *HOUSING.bounds)


def _column(rows: FloatMatrix, name: str) -> FloatMatrix:
    return rows[:, HOUSING.feature_names.index(name)]
