"""Which labelled rows are trained on, and which judge: no row is in two places."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine

from contract.dataset import Dataset
from contract.datasets.housing import HOUSING
from contract.datasets.iris import IRIS
from contract.table import FloatMatrix
from ledger import database, feedback
from ledger.feedback import Truth
from ledger.reader import Reader
from ledger.store import Store
from ledger.times import now_us
from ledger.values import pack
from loop import labelled
from loop.labelled import Division, Labelled
from tests.ledger.records import a_record
from tests.serving import tiny_models
from training.feature_engineering import add_feedback
from training.splits import FROM_FEEDBACK, WEIGHT, Split, Splits, row_keys

MINUTE_US = 60_000_000
DAY_US = 24 * 60 * MINUTE_US


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = database.connect(database.default_url(tmp_path))
    database.migrate(engine)
    yield engine
    engine.dispose()


def predict(engine: Engine, dataset: Dataset, rows: FloatMatrix, truths: list[object], minutes_ago: float) -> None:
    """One call with these rows; what came true of each, None where nothing did."""
    classes = len(dataset.target.classes)
    outputs = np.full((len(rows), classes or 1), 1 / (classes or 1))
    record = a_record(now_us() - int(minutes_ago * MINUTE_US), model=dataset.name, outputs=outputs)
    record.feature_bytes = pack(rows)
    Store(engine).insert(f"segment {record.id}", 1, [record], [])
    told = [Truth(record.id, row, truth) for row, truth in enumerate(truths) if truth is not None]  # type: ignore[arg-type]
    if told:
        feedback.give(engine, told)


def read(engine: Engine, dataset: Dataset, days: float = 90) -> Labelled:
    now = now_us()
    return labelled.read(Reader(engine), dataset, now - int(days * DAY_US), now)


def test_labelled_rows_of_the_window_are_read_and_the_newest_of_the_same_rows_counts(engine: Engine) -> None:
    rows = tiny_models.table(HOUSING).features[:4]
    predict(engine, HOUSING, rows[:3], [1.0, None, 3.0], minutes_ago=30)
    predict(engine, HOUSING, rows[[0, 3]].astype(np.float32).astype(np.float64), [1.5, 4.0], minutes_ago=20)
    predict(engine, HOUSING, rows[1:2], [9.0], minutes_ago=3 * 24 * 60)
    found = read(engine, HOUSING, days=1)
    assert found.found == 4
    assert found.target.tolist() == [3.0, 1.5, 4.0]
    np.testing.assert_allclose(found.features, rows[[2, 0, 3]], rtol=1e-6)
    assert (np.diff(found.time_us) >= 0).all()
    assert len(read(engine, HOUSING, days=4)) == 4


def test_classes_are_their_index(engine: Engine) -> None:
    predict(engine, IRIS, tiny_models.table(IRIS).features[:2], ["virginica", 0], minutes_ago=1)
    assert read(engine, IRIS).target.tolist() == [2, 0]


def test_rows_that_do_not_hold_the_contract_any_more_are_left_out(engine: Engine) -> None:
    rows = tiny_models.table(IRIS).features[:3].copy()
    rows[1, 0] = 1e6
    predict(engine, IRIS, rows, [0, 1, 2], minutes_ago=1)
    found = read(engine, IRIS)
    assert (found.found, found.target.tolist()) == (3, [0, 2])


def splits(dataset: Dataset, seed: int = 0) -> Splits:
    table = tiny_models.table(dataset)
    order = np.random.default_rng(seed).permutation(len(table.target))
    train, test = order[len(order) // 5 :], order[: len(order) // 5]
    return Splits(Split(table.features[train], table.target[train]), Split(table.features[test], table.target[test]))


def new_rows(dataset: Dataset, count: int, seed: int) -> Labelled:
    """Rows near those of the table, some of them the very same, some as float32; in any order."""
    random = np.random.default_rng(seed)
    table = tiny_models.table(dataset)
    chosen = random.integers(0, len(table.target), count)
    features, target = table.features[chosen].copy(), table.target[chosen].copy()
    kind = random.integers(0, 4, count)
    features[kind == 1] *= 1 + random.uniform(0, 0.01, (int((kind == 1).sum()), 1))
    features[kind == 2] = features[kind == 2].astype(np.float32)
    if not dataset.target.classes:
        target[kind == 3] += 0.5
    last = {key: row for row, key in enumerate(row_keys(features))}
    kept = np.array(sorted(last.values()))
    return Labelled(features[kept], target[kept], np.arange(len(kept)), count)


def keys(rows: Labelled | Split) -> set[bytes]:
    return set(row_keys(rows.features))


def check(division: Division, known: Splits, given: Labelled) -> None:
    """No row in two places, none of the test split anywhere, none of the training split among the judges."""
    assert not keys(division.train) & keys(division.held_back)
    assert not (keys(division.train) | keys(division.held_back)) & keys(known.test)
    assert not keys(division.held_back) & keys(known.train)
    taken = len(division.train) + len(division.held_back) + division.in_test + division.in_training
    assert taken == len(given)


@pytest.mark.parametrize("dataset", [HOUSING, IRIS], ids=lambda dataset: dataset.name)
@pytest.mark.parametrize("seed", range(5))
def test_no_row_is_in_two_places(dataset: Dataset, seed: int) -> None:
    known, given = splits(dataset, seed), new_rows(dataset, 300, seed)
    division = labelled.divide(given, known, 0.3)
    check(division, known, given)
    assert division.in_test
    assert division.in_training


def test_a_row_is_held_back_in_every_round_or_never() -> None:
    """The second round has the first one's rows in its training split, and more rows of the ledger."""
    known = splits(HOUSING)
    first = labelled.divide(new_rows(HOUSING, 300, 1), known, 0.3)
    weight = np.ones(len(known.train.target) + len(first.train))
    learned = Split(
        np.concatenate([known.train.features, first.train.features]),
        np.concatenate([known.train.target, first.train.target]),
        weight,
        np.arange(len(weight)) >= len(known.train.target),
    )
    again = Splits(learned, known.test)
    both = [new_rows(HOUSING, 300, seed) for seed in (1, 2)]
    second = labelled.divide(both[0], again, 0.3)
    assert keys(second.held_back) == keys(first.held_back)
    assert keys(second.train) == keys(first.train)
    # If more are held back than before, none that a model has learned from is.
    more = labelled.divide(both[1], again, 0.9)
    check(more, again, both[1])


def test_the_share_that_is_held_back() -> None:
    random = np.random.default_rng(0)
    features = tiny_models.table(HOUSING).features[random.integers(0, 400, 2000)] * (
        1 + random.uniform(0, 0.01, (2000, 1))
    )
    given = Labelled(features, np.ones(2000), np.arange(2000), 2000)
    division = labelled.divide(given, splits(HOUSING), 0.3)
    assert len(division.held_back) == pytest.approx(600, abs=80)


@pytest.mark.parametrize("dataset", [HOUSING, IRIS], ids=lambda dataset: dataset.name)
def test_the_training_split_never_gets_a_row_of_the_test_split(dataset: Dataset) -> None:
    """Not even where the file was written before the raw table, and so the split, has changed."""
    before, now = splits(dataset, 0), splits(dataset, 1)
    division = labelled.divide(new_rows(dataset, 300, 3), before, 0.3)
    # As many clients send them: some of the new test split's rows among them.
    mixed = Labelled(
        np.concatenate([division.train.features, now.test.features[:5].astype(np.float32)]),
        np.concatenate([division.train.target, now.test.target[:5]]),
        np.zeros(len(division.train) + 5, np.int64),
        0,
    )
    frames = [
        labelled.frame(dataset, Labelled(one.features, one.target, np.zeros(len(one.target), np.int64), 0), 1.0)
        for one in (now.train, now.test)
    ]
    before_it, test = (frame.drop(columns=WEIGHT) for frame in frames)
    train = add_feedback(dataset, before_it, test, labelled.frame(dataset, mixed, 2.0))
    names = list(dataset.feature_names)
    added = train[train[FROM_FEEDBACK]]
    assert not set(row_keys(added[names].to_numpy(dtype=float))) & keys(now.test)
    assert 0 < len(added) <= len(division.train)
    assert set(added[WEIGHT]) == {2.0}
    assert set(train[~train[FROM_FEEDBACK]][WEIGHT]) == {1.0}
    assert train.dtypes[dataset.target.name] == before_it.dtypes[dataset.target.name]
