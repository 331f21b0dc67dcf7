"""Rows of the ledger whose truth is known: those to train on, and those to judge models on."""

import hashlib
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from contract.dataset import Dataset, Task
from contract.table import FloatMatrix, good_rows
from ledger.reader import Reader
from training.splits import WEIGHT, Split, Splits, row_keys


@dataclass(frozen=True, eq=False)
class Labelled:
    """Rows in order of time; of equal rows, only the newest.

    Args:
        features: ``[N, F]``.
        target: ``[N]``: the value, or the index of the class.
        time_us: when they were predicted, ``[N]``.
        found: labelled rows of the window, before equal rows were merged and unusable ones dropped.
    """

    features: FloatMatrix
    target: FloatMatrix
    time_us: NDArray[np.int64]
    found: int

    def __len__(self) -> int:
        return len(self.target)

    def take(self, rows: NDArray[np.intp]) -> "Labelled":
        """Some of the rows."""
        return Labelled(self.features[rows], self.target[rows], self.time_us[rows], self.found)


@dataclass(frozen=True, eq=False)
class Division:
    """Labelled rows, divided. No row is in two parts, whatever precision it was sent in.

    Args:
        train: to train on.
        held_back: to judge models on; no model has learned from them.
        in_test: rows of the test split, which are left out.
        in_training: rows of the training split with the same truth, which would add nothing.
    """

    train: Labelled
    held_back: Labelled
    in_test: int
    in_training: int


def read(reader: Reader, dataset: Dataset, since_us: int, until_us: int) -> Labelled:
    """The labelled rows of a model, in whatever version, that were predicted in a window.

    Rows whose features are not kept, or break the present contract, are left out.

    Raises:
        sqlalchemy.exc.DBAPIError: the database is away.
    """
    features, target, times = [np.empty((0, len(dataset.features)))], [np.empty(0)], [np.empty(0, dtype=np.int64)]
    found = 0
    for chunk in reader.rows_for(dataset.name, since_us=since_us, until_us=until_us, labelled=True):
        known = np.isfinite(chunk.actuals)
        found += int(known.sum())
        if not chunk.model.has_features_of(dataset):
            continue
        known &= hold_the_contract(dataset, chunk.features)
        if dataset.task is Task.CLASSIFICATION:
            known &= np.isin(chunk.actuals, np.arange(len(dataset.target.classes)))
        else:
            known &= (chunk.actuals >= dataset.target.minimum) & (chunk.actuals <= dataset.target.maximum)
        features.append(chunk.features[known])
        target.append(chunk.actuals[known])
        times.append(chunk.time_us[known])
    every = Labelled(np.concatenate(features), np.concatenate(target), np.concatenate(times), found)
    every = every.take(np.argsort(every.time_us, kind="stable"))
    last = {key: row for row, key in enumerate(row_keys(every.features))}
    return every.take(np.array(sorted(last.values()), dtype=np.intp))


def hold_the_contract(dataset: Dataset, features: FloatMatrix) -> NDArray[np.bool_]:
    """Which rows ``[N, F]`` fit the present contract; rows without features do not."""
    return good_rows(dataset, features) & ~np.isnan(features).all(axis=1)


def divide(labelled: Labelled, splits: Splits, held_back: float) -> Division:
    """Divide labelled rows.

    A hash of its features decides whether a row is held back: it always is, or never. A row that a model has learned
    from is not.

    Args:
        splits: the rows that the models were trained on, with those of the ledger, and the test split.
        held_back: share of the rows.
    """
    test = set(row_keys(splits.test.features))
    learned = dict(zip(row_keys(splits.train.features), splits.train.target.tolist(), strict=True))
    known = splits.train.from_feedback
    raw = splits.train if known is None else splits.train.take(np.flatnonzero(~known))
    original = _pairs(raw)
    train, back = [], []
    in_test = in_training = 0
    for row, (key, truth) in enumerate(zip(row_keys(labelled.features), labelled.target.tolist(), strict=True)):
        if key in test:
            in_test += 1
        elif (key, truth) in original:
            in_training += 1
        elif key not in learned and _share(key) < held_back:
            back.append(row)
        else:
            train.append(row)
    learning, judging = (labelled.take(np.array(rows, dtype=np.intp)) for rows in (train, back))
    return Division(learning, judging, in_test, in_training)


def frame(dataset: Dataset, labelled: Labelled, weight: float) -> pd.DataFrame:
    """The rows as ``feature_engineering`` reads them."""
    table = pd.DataFrame(labelled.features, columns=list(dataset.feature_names))
    whole = dataset.task is Task.CLASSIFICATION
    table[dataset.target.name] = labelled.target.astype(np.int64 if whole else np.float64)
    table[WEIGHT] = weight
    return table


def _pairs(split: Split) -> set[tuple[bytes, float]]:
    return set(zip(row_keys(split.features), split.target.tolist(), strict=True))


def _share(key: bytes) -> float:
    """A number from 0 to 1, evenly distributed, that depends on the row alone."""
    return int.from_bytes(hashlib.sha256(key).digest()[:8]) / 2**64
