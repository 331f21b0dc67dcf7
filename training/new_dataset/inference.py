"""What a table holds: the kind of each column, its range or vocabulary, and which columns tell nothing."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from math import floor, log10
from typing import Any

from contract.dataset import Dataset, Target, Task
from contract.errors import Reason, cut
from contract.feature import (
    MISSING,
    OTHER_CATEGORY,
    REST,
    Feature,
    Kind,
    Refusal,
    Unknown,
    as_datetime,
    datetime_text,
    days,
    days_and_time,
)
from contract.row import LARGEST_WHOLE
from training.errors import PipelineError
from training.new_dataset import names
from training.new_dataset.table import RawTable, is_number, without_thousands
from training.splits import FROM_FEEDBACK, WEIGHT

MINIMUM_ROWS, MINIMUM_ROWS_PER_CLASS = 50, 10
"""Of a table: fewer cannot be split, cross-validated and judged."""
MOST_CLASSES = 50
MOST_CATEGORIES = 100
"""Most categories of a vocabulary; gradient boosting takes up to 254."""
FEW_ROWS = 20
"""With fewer values, it is chance that all are different."""
FEW_DIFFERENT = 10
"""Most different whole numbers of a target that is taken for classes."""
FREE_TEXT = 60
"""Characters from which texts, on average, are sentences."""
ROOM = 0.5
"""How far a plausible range goes beyond the values of the table, as a share of their span."""
LARGEST_NUMBER = 1e100
"""The squares of larger numbers, and their sums, are no doubles."""
_SMALLEST_SPAN = 1e-300
"""A smaller one cannot be divided."""
DIGITS = 6
"""Digits that single precision holds, which some clients send."""
_TRUE, _FALSE = {"true", "t", "yes", "y"}, {"false", "f", "no", "n"}
_YEARS = range(1900, 2101)
_OTHER_DATES = {
    "31.12.2024": (re.compile(r"\d{1,2}\.\d{1,2}\.\d{4}").fullmatch, ("%d.%m.%Y",)),
    "2024/12/31": (re.compile(r"\d{4}/\d{1,2}/\d{1,2}").fullmatch, ("%Y/%m/%d",)),
    "12/31/2024": (re.compile(r"\d{1,2}/\d{1,2}/\d{4}").fullmatch, ("%d/%m/%Y", "%m/%d/%Y")),
    "31-Dec-2024": (re.compile(r"\d{1,2}-[A-Za-z]{3}-\d{4}").fullmatch, ("%d-%b-%Y",)),
}
"""Dates that are not written as ISO 8601 does: an example, what they look like, and which they can be."""


@dataclass(frozen=True)
class Column:
    """A feature, as a column of the table has it.

    Args:
        feature: what the contract says.
        field: its name in Python.
        cells: ``[N]``, as the copy of the table has them.
        decimals: to which a number is rounded; None where it is not.
    """

    feature: Feature
    field: str
    cells: list[str]
    decimals: int | None = None


@dataclass(frozen=True)
class Found:
    """What is known of a table.

    Args:
        target: what is predicted, and ``target_cells`` its column ``[N]``.
        columns: the features, in the order of the table.
        left_out: the other columns, and why.
        notes: what was assumed, in sentences.
        warnings: what looks wrong, likewise.
    """

    target: Target
    target_cells: list[str]
    columns: list[Column]
    left_out: dict[str, str]
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def task(self) -> Task:
        """As a dataset has it."""
        return Task.CLASSIFICATION if self.target.classes else Task.REGRESSION


class _LeftOut(Exception):
    """A column that tells nothing, or cannot be taken: ``str(error)`` says why."""


@dataclass
class _Values:
    """A column's cells that have a value."""

    name: str
    present: list[str]
    different: Counter[str]
    missing: int


def infer(table: RawTable, target: str, task: Task | None = None, present: Dataset | None = None) -> Found:
    """Find out what the columns of a table are.

    Args:
        table: as it was read.
        target: the column to predict.
        task: what to predict of it; found out without it.
        present: the dataset as it is declared now: what it says of a column is kept, where the values hold it.

    Raises:
        PipelineError: nothing can be learned from it.
    """
    if target not in table.columns:
        near = [name for name in table.columns if name.casefold() == target.casefold()]
        raise PipelineError(
            f"There is no column {cut(target)!r}; {f'did you mean {near[0]!r}? ' if near else ''}"
            f"there is {', '.join(map(cut, list(table.columns)[:30]))}."
        )
    notes = list(table.notes)
    rows = [row for row, cell in enumerate(table.columns[target]) if cell]
    lost = len(table.columns[target]) - len(rows)
    if lost:
        notes.append(f"{_counted(lost, 'row')} without {target} {'is' if lost == 1 else 'are'} left out.")
    if len(rows) < MINIMUM_ROWS:
        raise PipelineError(
            f"{_counted(len(rows), 'row')} with a value of {target}: at least {MINIMUM_ROWS} are needed."
        )
    cells = {name: [column[row] for row in rows] for name, column in table.columns.items()} if lost else table.columns
    found_target, target_cells = _target(target, cells[target], task, notes, present)
    fields = names.field_names(name for name in cells if name != target)
    declared = {each.name: each for each in present.features} if present else {}
    left_out, columns = dict(table.left_out), []
    for name, its_field in fields.items():
        try:
            columns.append(_column(name, its_field, cells[name], declared.get(name), notes))
        except _LeftOut as reason:
            left_out[name] = str(reason)
    if not columns:
        why = "; ".join(f"{name}: {reason}" for name, reason in left_out.items()) or f"there is nothing but {target}"
        raise PipelineError(f"No column tells {target}: {why}.")
    notes += _marks({name: marks for name, marks in table.marks.items() if name not in left_out})
    columns = _with_examples(columns, declared)
    warnings = _tell_tales(columns, found_target, target_cells)
    if found_target.classes and (marks := table.marks.get(target)):
        words = " or ".join(map(repr, sorted(marks)))
        warnings.append(
            f"Rows whose {target} is {words} are left out. If that is a class, give it another name in the table, "
            "and run this again."
        )
    return Found(found_target, target_cells, columns, left_out, notes, warnings)


def _marks(found: Mapping[str, Counter[str]]) -> list[str]:
    """Which words are taken for missing values, and in which columns."""
    words = sorted({word for marks in found.values() for word in marks})
    lines = []
    for word in words:
        where = ", ".join(f"{name} ({marks[word]:,})" for name, marks in found.items() if marks[word])
        lines.append(f"{word!r} says that a value is missing: {where}.")
    return lines


def _target(
    name: str, cells: list[str], task: Task | None, notes: list[str], present: Dataset | None
) -> tuple[Target, list[str]]:
    if len(name) > names.LONGEST_NAME:
        raise PipelineError(f"{name[:40]}…: a column's name has at most {names.LONGEST_NAME} characters; rename it.")
    different = Counter(cells)
    if len(different) == 1:
        raise PipelineError(f"{name} has the same value in all rows, {cut(cells[0])!r}: there is nothing to predict.")
    plain = without_thousands(cells)
    numbers = None if plain is None else [float(cell) for cell in plain]
    kept = present.target if present else None
    if task is None:
        task = present.task if present else _task(name, different, numbers, notes)
    if task is Task.REGRESSION:
        if numbers is None or plain is None:
            wrong = next(cell for cell in different if not is_number(cell))
            raise PipelineError(f"{name} cannot be predicted as a number: {cut(wrong)!r} is none.")
        if max(map(abs, numbers)) > LARGEST_NUMBER:
            raise PipelineError(f"{name} has numbers beyond {LARGEST_NUMBER:g}: give it a larger unit.")
        low, high = _room(min(numbers), max(numbers))
        if kept and kept.minimum <= min(numbers) and max(numbers) <= kept.maximum:
            return kept, plain
        unit, description = (kept.unit, kept.description) if kept else (names.unit(name), f"{names.for_people(name)}.")
        return Target(name, unit, description, low, high), plain
    if len(different) > MOST_CLASSES:
        raise PipelineError(
            f"{name} has {len(different):,} different values; up to {MOST_CLASSES} can be classes."
            + ("" if numbers is None else " TASK=regression takes it for a number.")
        )
    few = {value: count for value, count in different.items() if count < MINIMUM_ROWS_PER_CLASS}
    if few:
        said = ", ".join(f"{cut(value)} ({count})" for value, count in few.items())
        raise PipelineError(
            f"{name}: at least {MINIMUM_ROWS_PER_CLASS} rows of each class are needed. There are fewer of {said}: take "
            "these rows out, or put classes together."
            + ("" if numbers is None else " TASK=regression takes it for a number.")
        )
    if long := [value for value in different if len(value) > names.LONGEST_CATEGORY]:
        raise PipelineError(
            f"{name}: a class has at most {names.LONGEST_CATEGORY} characters, unlike {cut(long[0])!r}."
        )
    classes = tuple(sorted(different, key=(lambda cell: float(cell)) if numbers and plain == cells else str))
    if kept and set(kept.classes) == set(classes):
        return kept, cells
    description = kept.description if kept else f"{names.for_people(name)}."
    return Target(name, "class", description, classes=classes), cells


def _task(name: str, different: Counter[str], numbers: list[float] | None, notes: list[str]) -> Task:
    if numbers is None:
        return Task.CLASSIFICATION
    whole = all(number.is_integer() for number in numbers)
    if len(different) == 2 or (whole and len(different) <= FEW_DIFFERENT):
        if len(different) > 2:
            notes.append(
                f"{name} has {len(different)} different whole numbers, which are taken for classes; TASK=regression "
                "takes them for numbers."
            )
        return Task.CLASSIFICATION
    return Task.REGRESSION


def _column(name: str, its_field: str, cells: list[str], declared: Feature | None, notes: list[str]) -> Column:
    """One column.

    Raises:
        _LeftOut: it is no feature.
    """
    if name in (WEIGHT, FROM_FEEDBACK):
        raise _LeftOut("the pipeline has a column of that name; rename it to keep it")
    if len(name) > names.LONGEST_NAME:
        raise _LeftOut(f"its name is longer than {names.LONGEST_NAME} characters")
    values = _values(name, cells)
    feature: Feature | None
    try:
        feature, read = _found(values, cells, notes)
    except _LeftOut:
        feature, read = None, cells
        if declared is None:
            raise
    if declared is not None:
        for written in (cells, read):
            if (kept := _kept(declared, _values(name, written))) is not None:
                feature, read = kept, written
                break
    if feature is None:
        raise _LeftOut(f"it holds no {declared.kind if declared else 'value'} any more")
    decimals = _decimals(values) if feature.kind is Kind.NUMBER else None
    return Column(replace(feature, optional=feature.optional or values.missing > 0), its_field, read, decimals)


def _values(name: str, cells: list[str]) -> _Values:
    present = [cell for cell in cells if cell]
    return _Values(name, present, Counter(present), len(cells) - len(present))


def _found(values: _Values, cells: list[str], notes: list[str]) -> "_Read":
    """What a column is, and its cells as the copy has them.

    Raises:
        _LeftOut: it is no feature.
    """
    if not values.present:
        raise _LeftOut("it is empty")
    if len(values.different) == 1 and values.missing < len(cells) / 100:
        raise _LeftOut(f"it has the same value in all rows, {cut(values.present[0])!r}")
    for find in (_numbers, _flag, _dates):
        found = find(values, cells, notes)
        if found is not None:
            return found
    return _category(values, notes), cells


def _feature(values: _Values, kind: Kind, minimum: float, maximum: float, **others: Any) -> Feature:
    unit = (others.pop("unit", "") or names.unit(values.name)) if kind in (Kind.NUMBER, Kind.INTEGER) else ""
    description = f"{names.for_people(values.name)}." + (f" Unit: {unit}." if unit else "")  # as a row declares it
    return Feature(values.name, unit, minimum, maximum, description, None, kind, **others)


_Read = tuple[Feature, list[str]]


def _numbers(values: _Values, cells: list[str], _: list[str]) -> _Read | None:
    plain = without_thousands(cells)
    if plain is None or any(re.match(r"[+-]?0\d", cell) for cell in values.different):
        return None  # text, or codes such as 01234
    numbers = [float(cell) for cell in plain if cell]
    low, high = min(numbers), max(numbers)
    if max(abs(low), abs(high)) > LARGEST_NUMBER:
        raise _LeftOut(f"it has numbers beyond {LARGEST_NUMBER:g}")
    whole = all(number.is_integer() for number in numbers)
    unique = len(values.different) == len(numbers) >= FEW_ROWS
    # Rows without a target are gone, and their numbers with them.
    if whole and unique and high - low < 2 * len(numbers) and numbers == sorted(numbers):
        raise _LeftOut("it numbers the rows")
    if whole and names.is_identifier(values.name) and len(values.different) > len(numbers) / 2:
        raise _LeftOut("it looks like an identifier")
    if whole and max(abs(low), abs(high)) > LARGEST_WHOLE / 4:
        raise _LeftOut("its whole numbers are too large for a double: identifiers?")
    if whole and {low, high} == {0, 1}:
        return _feature(values, Kind.INTEGER, 0, 1), plain
    years = whole and low in _YEARS and high in _YEARS
    minimum, maximum = _room(low, high, years=years)
    if names.is_latitude(values.name) and -90 <= low <= high <= 90:
        minimum, maximum = max(minimum, -90), min(maximum, 90)
    if names.is_longitude(values.name) and -180 <= low <= high <= 180:
        minimum, maximum = max(minimum, -180), min(maximum, 180)
    if whole:
        unit = "year" if years else ""
        feature = _feature(values, Kind.INTEGER, floor(minimum), -floor(-maximum), unit=unit)
        return feature, plain
    return _feature(values, Kind.NUMBER, minimum, maximum), plain


def _flag(values: _Values, cells: list[str], _: list[str]) -> _Read | None:
    words = {cell.lower() for cell in values.different}
    if not words <= _TRUE | _FALSE or (len(values.different) > 1 and (not words & _TRUE or not words & _FALSE)):
        return None
    return _feature(values, Kind.BOOLEAN, 0, 1), [cell and str(cell.lower() in _TRUE).lower() for cell in cells]


def _dates(values: _Values, cells: list[str], notes: list[str]) -> _Read | None:
    """Dates and times, which the copy has as ISO 8601."""
    other = _other_dates(values)
    if other is not None:
        example, read = other
        notes.append(f"{values.name}: dates such as {example} are written as ISO 8601 in the copy, and in requests.")
    else:
        read = {}
        try:
            for cell in values.different:
                read[cell] = as_datetime(cell)
        except Refusal:
            return None
    low, high = min(read.values()), max(read.values())
    if all(len(cell) == len("2024-12-31") for cell in read) or other is not None:
        first, last = date(max(_some_years(low, -1).year, 1), 1, 1), date(_some_years(high, 1).year, 12, 31)
        text = {cell: found.date().isoformat() for cell, found in read.items()}
        return _feature(values, Kind.DATE, days(first), days(last)), [cell and text[cell] for cell in cells]
    # The first and the last year have no room.
    start = min(datetime(_some_years(low, -1).year, 1, 1, tzinfo=UTC), low)
    end = max(datetime(_some_years(high, 1).year, 12, 31, tzinfo=UTC), high)
    if not all(isinstance(datetime_text(days_and_time(each)), str) for each in (start, end)):
        raise _LeftOut("its times are not all in the years 1 to 9999, in UTC")
    return _feature(values, Kind.DATETIME, days_and_time(start), days_and_time(end)), cells


def _some_years(moment: datetime, sign: int) -> datetime:
    """A year before the first, ten years after the last: what is predicted comes later than the table."""
    with suppress(OverflowError):
        return moment + sign * timedelta(days=365 if sign < 0 else 3653)
    return moment


def _other_dates(values: _Values) -> tuple[str, dict[str, datetime]] | None:
    for looks_like, formats in _OTHER_DATES.values():
        if not all(map(looks_like, values.different)):
            continue
        possible = []
        for each in formats:
            with suppress(ValueError):
                possible.append({cell: datetime.strptime(cell, each).replace(tzinfo=UTC) for cell in values.different})
        if len(possible) > 1:
            raise _LeftOut("day and month of its dates may be either; write them as ISO 8601, such as 2024-12-31")
        if possible:
            return values.present[0], possible[0]
    return None


def _category(values: _Values, notes: list[str]) -> Feature:
    count, different = len(values.present), len(values.different)
    numeric = sum(map(is_number, values.present))
    if numeric > count * 0.5 and different > FEW_ROWS:
        text = next(cell for cell in values.present if not is_number(cell))
        raise _LeftOut(f"it mixes numbers with text such as {cut(text)!r}; clean it to keep it")
    if sum(map(len, values.present)) > count * FREE_TEXT:
        raise _LeftOut("it is free text")
    if different == count >= FEW_ROWS:
        raise _LeftOut("it has another text in each row: an identifier or free text")
    if different > FEW_ROWS and different > count / 2:
        raise _LeftOut("it has another text in most rows: an identifier or free text")
    kept = [
        name
        for name, _ in sorted(values.different.items(), key=lambda each: (-each[1], each[0]))
        if len(name) <= names.LONGEST_CATEGORY and name not in {MISSING, OTHER_CATEGORY, REST}
    ]
    if len(kept) > MOST_CATEGORIES:
        kept = kept[:MOST_CATEGORIES]
        share = sum(values.different[name] for name in kept) / count
        if share < 0.5:
            raise _LeftOut(f"it has {different:,} texts; the commonest {MOST_CATEGORIES} are {share:.0%} of the rows")
        notes.append(
            f"{values.name}: the commonest {len(kept)} of {different:,} texts are categories, the rest is one."
        )
    else:
        kept.sort()
    if not kept:
        raise _LeftOut(f"its texts are longer than {names.LONGEST_CATEGORY} characters")
    # How often a text comes that is not there yet: as often as there are some that came once (Good, 1953).
    once = any(number == 1 for number in values.different.values())
    unknown = Unknown.OTHER if once or len(kept) < different else Unknown.REFUSE
    last = len(kept) - (unknown is Unknown.REFUSE)
    return _feature(values, Kind.CATEGORY, 0, last, vocabulary=tuple(kept), unknown=unknown)


def _kept(declared: Feature, values: _Values) -> Feature | None:
    """A feature as it is declared, widened where values are outside; None if they are of another kind."""
    codes, new = [], []
    for cell in values.different:
        try:
            codes.append(declared.read(cell))
        except Refusal as refusal:
            if refusal.reason is Reason.UNKNOWN_CATEGORY:
                new.append(cell)
            elif refusal.reason is Reason.OUT_OF_RANGE and declared.kind is not Kind.BOOLEAN:
                codes.append(declared.encode_any(float(cell) if declared.numeric else cell))
            else:
                return None
    optional = declared.optional or values.missing > 0
    if declared.kind is Kind.CATEGORY:
        vocabulary = (*declared.vocabulary, *sorted(new))
        last = len(vocabulary) - (declared.unknown is Unknown.REFUSE)
        return replace(declared, vocabulary=vocabulary, maximum=last, optional=optional)
    if codes and declared.kind is not Kind.BOOLEAN:
        low, high = min(codes), max(codes)
        wide = _room(low, high) if declared.numeric else (low, high)
        declared = replace(
            declared,
            minimum=declared.minimum if low >= declared.minimum else wide[0],
            maximum=declared.maximum if high <= declared.maximum else wide[1],
        )
    return replace(declared, optional=optional)


def _room(low: float, high: float, *, years: bool = False) -> tuple[float, float]:
    """A range around values with room, in round numbers. What is never negative stays so."""
    if low >= 0 and high == 1:
        return 0.0, 1.0  # shares and probabilities
    span = high - low or max(abs(low), 1)
    if span < _SMALLEST_SPAN:
        return low, high
    room = max(span * ROOM, 10) if years else span * ROOM
    places = 1 - floor(log10(span))
    step = 10.0**-places
    bottom = round(floor((low - room) / step) * step, max(places, 0))
    top = round(-floor(-(high + room) / step) * step, max(places, 0))
    return (max(bottom, 0.0) if low >= 0 else bottom), (min(top, 0.0) if high <= 0 else top)


def _decimals(values: _Values) -> int | None:
    """To how many decimals a number is rounded, so that the same row in single precision gets the same answer."""
    plain = [cell for cell in without_thousands(values.present) or [] if cell]
    if not plain:
        return None
    written = max(len(cell.partition(".")[2]) if "e" not in cell.lower() else 12 for cell in plain)
    largest = max(abs(float(cell)) for cell in plain)
    before = floor(log10(largest)) + 1 if largest else 0
    return min(max(min(written, DIGITS - before), 0), 12)


def _with_examples(columns: list[Column], declared: Mapping[str, Feature]) -> list[Column]:
    """The columns with an example each: the row that has the most values, and common values where it has none."""
    count = len(columns[0].cells)
    best = max(range(count), key=lambda row: sum(1 for column in columns if column.cells[row]))

    def example(column: Column) -> Any:
        before = declared.get(column.feature.name)
        if before is not None:
            return before.example
        cell = column.cells[best] or Counter(filter(None, column.cells)).most_common(1)[0][0]
        return column.feature.decode(column.feature.read(cell))

    return [replace(each, feature=replace(each.feature, example=example(each))) for each in columns]


def _tell_tales(columns: Sequence[Column], target: Target, cells: Sequence[str]) -> list[str]:
    """Warnings of columns that tell the target by themselves."""
    found = []
    read: Callable[[str], object] = str if target.classes else float
    for column in columns:
        pairs: dict[str, set[object]] = {}
        for cell, truth in zip(column.cells, cells, strict=True):
            pairs.setdefault(cell, set()).add(read(truth))
        if len(pairs) <= len(cells) / 5 and all(len(truths) == 1 for truths in pairs.values()):
            found.append(
                f"{column.feature.name} tells {target.name} by itself: is it known before {target.name} is? If not: "
                "DROP=…"
            )
    return found


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
