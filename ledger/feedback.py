"""What came true: checked against the prediction that it belongs to, and kept beside what was predicted."""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import Connection, Engine, Table, bindparam, delete, func, insert, select, update

from contract import DATASETS
from contract.table import FloatMatrix
from ledger import database, values
from ledger.schema import CORRECTIONS, FEEDBACK, MODELS, PREDICTIONS, QUALITY, WAITING
from ledger.sums import MINUTE_US, add_labels
from ledger.times import now_us

WAIT_SECONDS = 3600
"""Seconds that feedback waits for its prediction, which may still be in a spool."""
MAXIMUM_WAITING = 100_000
"""Maximum entries that wait: anyone can send ids that never existed."""
_CHUNK = 500
"""Keys in one statement."""
_CHUNK_ROWS = 100_000
"""Rows of predictions that are read at a time, unless one prediction has more."""
_LOCK = 0x6665_6564
"""Key of PostgreSQL's advisory lock for writers of feedback: two at a time would not see each other's rows."""

T = TypeVar("T")
_Key = tuple[str, int]
"""Prediction id and row."""


class Truth(NamedTuple):
    """What came true for one row of a prediction.

    Args:
        prediction_id: as ``canonical_id`` gives it.
        row: its index in the prediction, from 0.
        actual: a number for regression; the name or the index of a class for classification.
    """

    prediction_id: str
    row: int
    actual: float | str


class Outcome(StrEnum):
    """What became of an entry of feedback."""

    TAKEN = "taken"
    REPLACED = "replaced"
    """Another value was there, and is kept in ``CORRECTIONS``."""
    UNCHANGED = "unchanged"
    """The same value was there."""
    WAITING = "waiting"
    """There is no such prediction yet."""
    REFUSED = "refused"


class Problem(NamedTuple):
    """Why an entry is refused: its field, and a sentence."""

    field: str
    message: str


@dataclass(frozen=True)
class Answer:
    """What became of each entry, in their order; ``problems`` has the reason of each refusal, by position."""

    outcomes: Sequence[Outcome]
    problems: Mapping[int, Problem]

    @property
    def counts(self) -> dict[str, int]:
        """How many entries had each outcome; every outcome is there."""
        found = Counter(self.outcomes)
        return {outcome.value: found[outcome] for outcome in Outcome}


@dataclass(frozen=True)
class Applied:
    """What became of feedback that waited."""

    applied: int = 0
    refused: tuple[str, ...] = ()
    """One sentence for each."""
    expired: int = 0


ID_PATTERN = "^([0-9a-fA-F]{32}|[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})$"
"""How a prediction id may be written, as JSON Schema has it."""
_ID = re.compile(ID_PATTERN.strip("^$")).fullmatch


def canonical_id(written: str) -> str:
    """A prediction id as 32 hexadecimal digits in lower case; it may be written with hyphens.

    Raises:
        ValueError: it is no UUID.
    """
    if _ID(written) is None:
        raise ValueError("is not a prediction id: 32 hexadecimal digits")
    return written.replace("-", "").lower()


def give(engine: Engine, truths: Sequence[Truth], *, written: bool = False) -> Answer:
    """Keep what came true, each entry after the ones before it; one transaction.

    Args:
        engine: of the ledger's database.
        truths: the entries.
        written: the values are text, as a CSV file has them: "4.2" is a number, "2" the class of this name or index.

    Raises:
        sqlalchemy.exc.DBAPIError: the database is away; nothing was kept.
    """
    now = now_us()
    with engine.connect() as connection:
        judged = _judge(connection, truths, written=written)
    with _writing(engine) as connection:
        entries = [_Entry(truth, found, now) for truth, found in zip(truths, judged, strict=True)]
        return _keep(connection, entries, now)


def apply_waiting(engine: Engine) -> Applied:
    """Keep the feedback whose prediction has come, and drop what has waited for too long. For one process at a time.

    Raises:
        sqlalchemy.exc.DBAPIError: the database is away; what waits goes on waiting.
    """
    now = now_us()
    applied = 0
    refused: list[str] = []
    while come := _come(engine):
        truths = [Truth(row.prediction_id, row.row, json.loads(row.actual)) for row in come]
        with engine.connect() as connection:
            judged = _judge(connection, truths)
        entries = [
            _Entry(truth, found, row.received_us) for truth, found, row in zip(truths, judged, come, strict=True)
        ]
        with _writing(engine) as connection:
            # Entries that were sent again meanwhile are left for the next round.
            here = _of_keys(connection, WAITING, [entry.key for entry in entries])
            still = {(row.prediction_id, row.row, row.received_us) for row in here}
            entries = [entry for entry in entries if (*entry.key, entry.received_us) in still]
            answer = _keep(connection, entries, now)
            _forget_waiting(connection, [entry.key for entry in entries])
        refused += [
            f"{entries[position].truth.prediction_id}: {problem.message}"
            for position, problem in answer.problems.items()
        ]
        applied += len(entries) - len(answer.problems)
    with database.transaction(engine) as connection:
        late = delete(WAITING).where(WAITING.c.received_us < now - WAIT_SECONDS * 1_000_000)
        expired = connection.execute(late).rowcount
    return Applied(applied, tuple(refused), expired)


class _Judged(NamedTuple):
    """An entry beside its prediction, as ``FEEDBACK`` keeps it."""

    model_id: int
    predicted_us: int
    actual: float
    predicted: float
    probability: float | None


class _Entry(NamedTuple):
    """An entry, its prediction or its problem, and when it came. ``found`` is None if there is no prediction."""

    truth: Truth
    found: _Judged | Problem | None
    received_us: int

    @property
    def key(self) -> _Key:
        return self.truth.prediction_id, self.truth.row


_Good = dict[_Key, list[tuple[int, _Judged, int]]]
"""Position, prediction and time of the entries of each key."""


@dataclass
class _Model:
    """A version that has predicted."""

    name: str
    outputs: Sequence[str]
    """Names of the classes, or of the target."""
    classes: Mapping[str, int] = field(init=False)
    """Index of each class by name; empty for regression."""

    def __post_init__(self) -> None:
        regression = len(self.outputs) == 1
        self.classes = {} if regression else {name: index for index, name in enumerate(self.outputs)}

    def actual(self, value: float | str, *, written: bool) -> float | Problem:
        """A value as ``FEEDBACK`` keeps it: the number, or the index of the class."""
        if self.classes:
            return self._class_index(value, written=written)
        number = _number(value) if written and isinstance(value, str) else value
        if not isinstance(number, int | float) or not math.isfinite(number):
            return Problem("actual", f"should be a finite number, not {_shown(value)}")
        dataset = DATASETS.get(self.name)
        if dataset is not None and not dataset.target.minimum <= number <= dataset.target.maximum:
            target = dataset.target
            return Problem(
                "actual",
                f"{_shown(value)} is outside the range of {target.name}, {target.minimum:g} to {target.maximum:g} "
                f"{target.unit}",
            )
        return float(number)

    def _class_index(self, value: float | str, *, written: bool) -> float | Problem:
        if isinstance(value, str):
            if value in self.classes:
                return float(self.classes[value])
            number = _number(value) if written else None
        else:
            number = value
        if number is not None and number in range(len(self.classes)):
            return float(number)
        names = ", ".join(self.outputs)
        last = len(self.outputs) - 1
        return Problem("actual", f"{_shown(value)} is neither a class ({names}) nor an index from 0 to {last}")


def _judge(connection: Connection, truths: Sequence[Truth], *, written: bool = False) -> list[_Judged | Problem | None]:
    """Each entry beside its prediction; None where there is no such prediction."""
    by_id: dict[str, list[int]] = {}
    for position, truth in enumerate(truths):
        by_id.setdefault(truth.prediction_id, []).append(position)
    judged: list[_Judged | Problem | None] = [None] * len(truths)
    models = {
        row.id: _Model(row.model, json.loads(row.outputs))
        for row in connection.execute(select(MODELS.c.id, MODELS.c.model, MODELS.c.outputs))
    }
    for ids in _portions(connection, by_id):
        found = select(PREDICTIONS.c.id, PREDICTIONS.c.time_us, PREDICTIONS.c.model_id, PREDICTIONS.c.outputs)
        for identifier, time_us, model_id, outputs in connection.execute(found.where(PREDICTIONS.c.id.in_(ids))):
            # A version that was added after `models` was read.
            model = models.get(model_id) or models.setdefault(model_id, _read_model(connection, model_id))
            matrix = values.unpack(outputs, len(model.outputs))
            for position in by_id[identifier]:
                judged[position] = _judge_one(model, matrix, model_id, time_us, truths[position], written=written)
    return judged


def _judge_one(
    model: _Model, outputs: FloatMatrix, model_id: int, time_us: int, truth: Truth, *, written: bool
) -> _Judged | Problem:
    if truth.row >= len(outputs):
        return Problem("row", f"the prediction {truth.prediction_id} has {len(outputs)} rows, and no row {truth.row}")
    actual = model.actual(truth.actual, written=written)
    if isinstance(actual, Problem):
        return actual
    output = outputs[truth.row]
    if not model.classes:
        return _Judged(model_id, time_us, actual, float(output[0]), None)
    return _Judged(model_id, time_us, actual, float(output.argmax()), float(output[int(actual)]))


def _read_model(connection: Connection, model_id: int) -> _Model:
    row = connection.execute(select(MODELS.c.model, MODELS.c.outputs).where(MODELS.c.id == model_id)).one()
    return _Model(row.model, json.loads(row.outputs))


def _portions(connection: Connection, ids: Iterable[str]) -> Iterator[list[str]]:
    """The ids that were predicted, in portions whose outputs fit into memory."""
    portion: list[str] = []
    total = 0
    for chunk in _chunks(sorted(ids)):
        sizes = connection.execute(select(PREDICTIONS.c.id, PREDICTIONS.c.rows).where(PREDICTIONS.c.id.in_(chunk)))
        for identifier, rows in sizes.all():
            if portion and (total + rows > _CHUNK_ROWS or len(portion) == _CHUNK):
                yield portion
                portion, total = [], 0
            portion.append(identifier)
            total += rows
    if portion:
        yield portion


def _keep(connection: Connection, entries: Sequence[_Entry], now: int) -> Answer:
    """Write the entries that are good; those without a prediction wait."""
    outcomes = [Outcome.REFUSED] * len(entries)
    problems: dict[int, Problem] = {}
    good: _Good = {}
    unknown: dict[int, _Entry] = {}
    for position, entry in enumerate(entries):
        if isinstance(entry.found, Problem):
            problems[position] = entry.found
        elif entry.found is None:
            unknown[position] = entry
        else:
            good.setdefault(entry.key, []).append((position, entry.found, entry.received_us))
    changed: set[int] = set()
    for keys in _chunks(sorted(good)):
        changed |= _keep_good(connection, {key: good[key] for key in keys}, outcomes, now)
    # Waiting entries were sent before, so they are older.
    _forget_waiting(connection, good)
    _mark(connection, changed, now)
    waiting = _let_wait(connection, unknown.values()) if unknown else set()
    for position, entry in unknown.items():
        if entry.key in waiting:
            outcomes[position] = Outcome.WAITING
        else:
            identifier = entry.truth.prediction_id
            message = f"there is no prediction {identifier}, and {MAXIMUM_WAITING:,} others wait for theirs already"
            problems[position] = Problem("prediction_id", message)
    return Answer(outcomes, problems)


def _keep_good(connection: Connection, good: _Good, outcomes: list[Outcome], now: int) -> set[int]:
    """Write the entries of some keys and set their outcomes; the models whose feedback has changed."""
    former = {
        (row.prediction_id, row.row): (row.actual, row.received_us)
        for row in _of_keys(connection, FEEDBACK, list(good))
    }
    new: list[dict[str, Any]] = []
    replaced: list[dict[str, Any]] = []
    corrections: list[dict[str, Any]] = []
    for key, entries in good.items():
        identity = {"prediction_id": key[0], "row": key[1]}
        current = former.get(key)
        kept: dict[str, Any] = {}
        for position, found, received_us in entries:
            if current is None:
                outcomes[position] = Outcome.TAKEN
            elif current[0] == found.actual:
                outcomes[position] = Outcome.UNCHANGED
                continue
            else:
                outcomes[position] = Outcome.REPLACED
                was = {"actual": current[0], "received_us": current[1], "replaced_us": now}
                corrections.append({**identity, **was})
            current = found.actual, received_us
            kept = {**identity, "received_us": received_us, **found._asdict()}
        if kept:
            (replaced if key in former else new).append(kept)
    if new:
        connection.execute(insert(FEEDBACK), new)
    if replaced:
        # SQLAlchemy keeps the names of columns for the values that are set.
        one = (FEEDBACK.c.prediction_id == bindparam("of_id")) & (FEEDBACK.c.row == bindparam("of_row"))
        parameters = [{**kept, "of_id": kept["prediction_id"], "of_row": kept["row"]} for kept in replaced]
        connection.execute(update(FEEDBACK).where(one), parameters)
    if corrections:
        connection.execute(insert(CORRECTIONS), corrections)
    labels = Counter((kept["predicted_us"] // MINUTE_US, kept["model_id"]) for kept in new)
    add_labels(connection, labels)
    return {kept["model_id"] for kept in (*new, *replaced)}


def _mark(connection: Connection, models: Iterable[int], now: int) -> None:
    """Note that the live quality of these models has changed."""
    for model_id in sorted(models):
        new = database.insert(connection, QUALITY).values(model_id=model_id, feedback_us=now)
        connection.execute(new.on_conflict_do_update(index_elements=["model_id"], set_={"feedback_us": now}))


def _come(engine: Engine) -> Sequence[Any]:
    """Some of the waiting feedback whose prediction has arrived."""
    both = WAITING.join(PREDICTIONS, PREDICTIONS.c.id == WAITING.c.prediction_id)
    with engine.connect() as connection:
        return connection.execute(select(WAITING).select_from(both).limit(10_000)).all()


def _let_wait(connection: Connection, entries: Iterable[_Entry]) -> set[_Key]:
    """Keep entries until their prediction comes; the keys of those that there is room for."""
    waiting = {entry.key: entry for entry in entries}
    _forget_waiting(connection, waiting)
    free = MAXIMUM_WAITING - connection.execute(select(func.count()).select_from(WAITING)).scalar_one()
    kept = list(waiting.values())[: max(free, 0)]
    rows = [
        {**entry.truth._asdict(), "actual": json.dumps(entry.truth.actual), "received_us": entry.received_us}
        for entry in kept
    ]
    if rows:
        connection.execute(insert(WAITING), rows)
    return {entry.key for entry in kept}


def _forget_waiting(connection: Connection, keys: Iterable[_Key]) -> None:
    wanted = list(keys)
    if not connection.scalar(select(WAITING.c.row).limit(1).exists().select()):
        return
    waiting = {(row.prediction_id, row.row) for row in _of_keys(connection, WAITING, wanted)}
    gone = [{"of_id": key[0], "of_row": key[1]} for key in waiting.intersection(wanted)]
    if gone:
        one = (WAITING.c.prediction_id == bindparam("of_id")) & (WAITING.c.row == bindparam("of_row"))
        connection.execute(delete(WAITING).where(one), gone)


def _of_keys(connection: Connection, table: Table, keys: Sequence[_Key]) -> Iterator[Any]:
    """The rows of a table with these prediction ids and rows, and maybe some more of the same predictions."""
    for chunk in _chunks(keys):
        ids, rows = ({key[part] for key in chunk} for part in (0, 1))
        some = table.c.prediction_id.in_(ids) & table.c.row.in_(rows)
        yield from connection.execute(select(table).where(some)).all()


@contextmanager
def _writing(engine: Engine) -> Iterator[Connection]:
    """A transaction with exclusive access for writers of feedback."""
    with database.transaction(engine) as connection:
        # SQLite has one writer anyway.
        if connection.dialect.name == "postgresql":
            connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))
        yield connection


def _chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    return (items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK))


def _number(written: str) -> float | None:
    """Text as a number; None if it is none, or one that only Python would read so, such as "1_000"."""
    if "_" in written or not written.isascii():
        return None
    try:
        return float(written)
    except ValueError:
        return None


def _shown(value: object) -> str:
    return repr(value)[:60]
