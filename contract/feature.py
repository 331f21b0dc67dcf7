"""One feature of a row: its kind, what it accepts, and its values as the numbers that a model takes."""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from functools import cached_property
from math import isfinite, isnan, nan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.errors import Reason

Value = float | bool | str | None
"""A value in JSON: a number, true or false, a category, an ISO 8601 date; null where it is missing."""

MISSING = "(missing)"
"""How a missing value is shown."""
OTHER_CATEGORY = "(other)"
"""How a category outside of the vocabulary is shown: which one it was is not kept."""
REST = "(rest)"
"""How the categories are shown that have no bucket of their own."""
MISSING_CELLS = frozenset({"", "NA", "N/A", "NaN", "nan", "NULL", "null", "None"})
"""Cells of a table that say that an optional value is missing, unless the vocabulary has them."""

_FLAG_CELLS = {
    **dict.fromkeys(("true", "t", "yes", "y", "1", "1.0"), True),
    **dict.fromkeys(("false", "f", "no", "n", "0", "0.0"), False),
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_DAY = _EPOCH.toordinal()
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII).fullmatch
_DATETIME = re.compile(
    r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d{1,9})?)?(Z|[+-]\d\d:?\d\d)?)?", re.ASCII | re.IGNORECASE
).fullmatch
_LISTED = 10
"""Most categories that an error names."""


class Kind(StrEnum):
    """What the values of a feature are."""

    NUMBER = "number"
    INTEGER = "integer"
    BOOLEAN = "boolean"
    CATEGORY = "category"
    DATE = "date"
    DATETIME = "datetime"


class Unknown(StrEnum):
    """What becomes of a category that the vocabulary lacks: it is refused, or taken as one more, "other"."""

    REFUSE = "refuse"
    OTHER = "other"


class Refusal(ValueError):
    """A feature refuses a value. ``str(refusal)`` goes on after the value: "is not a number"."""

    def __init__(self, reason: Reason, what: str) -> None:
        super().__init__(what)
        self.reason = reason


@dataclass(frozen=True)
class Feature:
    """A feature as its ``Row`` field declares it.

    A model takes every value as a double, which ``encode`` gives: a number as it is; a flag as 0 or 1; a category as
    its index in the vocabulary, and an unknown one, where they are taken, as the index after the last; a date as its
    days since 1970; a datetime likewise, in UTC, with the part of the day; a missing value as NaN.

    Args:
        name: in requests and tables.
        unit: of a number; "" for the other kinds.
        minimum, maximum: the plausible range of the encoded values, both ends included.
        example: a value that works, in JSON.
        optional: whether a value may be missing.
        vocabulary: the categories; empty for the other kinds.
        unknown: what becomes of categories that the vocabulary lacks.
    """

    name: str
    unit: str
    minimum: float
    maximum: float
    description: str
    example: Any
    kind: Kind = Kind.NUMBER
    optional: bool = False
    vocabulary: tuple[str, ...] = ()
    unknown: Unknown = Unknown.REFUSE

    @property
    def numeric(self) -> bool:
        """Whether its values are numbers for people too."""
        return self.kind in (Kind.NUMBER, Kind.INTEGER)

    @property
    def plain(self) -> bool:
        """Whether it is a number that is never missing: its range is all there is to check."""
        return self.kind is Kind.NUMBER and not self.optional

    @property
    def whole(self) -> bool:
        """Whether its encoded values are whole numbers."""
        return self.kind not in (Kind.NUMBER, Kind.DATETIME)

    @property
    def range(self) -> str:
        """The plausible range, for people: "0 to 50 years"."""
        if self.numeric:
            return f"{self.minimum:g} to {self.maximum:g} {self.unit}"
        return f"{self.show(self.minimum)} to {self.show(self.maximum)}"

    @property
    def essence(self) -> list[Any]:
        """What a trained model depends on, as plain data."""
        if self.plain:
            return [self.name, self.unit]
        return [self.name, self.unit, self.kind, self.optional, self.vocabulary, self.unknown]

    @cached_property
    def codes(self) -> Mapping[str, float]:
        """The encoded value of each category; of any text, where unknown categories are taken."""
        numbered = {name: float(code) for code, name in enumerate(self.vocabulary)}
        return numbered if self.unknown is Unknown.REFUSE else _WithOther(numbered)

    @cached_property
    def encode_valid(self) -> Callable[[Any], float] | None:
        """Encodes the values of a validated ``Row``; None where numpy does: numbers, flags, and None for them."""
        encode: dict[Kind, Callable[[Any], float]] = {
            Kind.CATEGORY: self.codes.__getitem__,
            Kind.DATE: days,
            Kind.DATETIME: days_and_time,
        }
        found = encode.get(self.kind)
        if found is None or not self.optional:
            return found
        return lambda value: nan if value is None else found(value)

    def encode(self, value: object) -> float:
        """A value, as JSON or Python has it, as the number that a model takes.

        Raises:
            Refusal: it is not valid.
        """
        number = self.encode_any(value)
        refusal = self.refusal(number)
        if refusal is not None:
            raise refusal
        return number

    def encode_column(self, values: Sequence[Any]) -> Sequence[float] | NDArray[np.float64] | None:
        """Values of JSON ``[N]``, encoded; None if one is not of this kind. Their range is not checked.

        Raises:
            OverflowError: a number is no double.
        """
        if self.kind in (Kind.DATE, Kind.DATETIME):
            with suppress(Refusal):
                return [self.encode_any(value) for value in values]
            return None
        types = set(map(type, values))
        if not types <= (_TYPES[self.kind] | {type(None)} if self.optional else _TYPES[self.kind]):
            return None
        if self.kind is Kind.CATEGORY:
            with suppress(KeyError):
                return None if "" in values else [*map(self.encode_valid or self.encode, values)]
            return None
        numbers = np.array(values, dtype=np.float64)
        # JSON has no NaN, but parsers have: it is no way to say that a value is missing.
        return numbers if np.isnan(numbers).sum() == values.count(None) else None

    def encode_any(self, value: object) -> float:
        """As ``encode``, but the value may be missing or outside of the plausible range, which may have changed.

        Raises:
            Refusal: it is of another kind.
        """
        missing = value is None or (isinstance(value, float) and isnan(value))
        return nan if missing else _ENCODE[self.kind](self, value)

    def read(self, cell: object) -> float:
        """A cell of a table, which may be text, as the number that a model takes.

        Raises:
            Refusal: it is not valid.
        """
        if not isinstance(cell, str):
            return self.encode(cell)
        text = cell if self.kind is Kind.CATEGORY else cell.strip()
        if not text or (self.optional and text in MISSING_CELLS and text not in self.vocabulary):
            return self.encode(None)
        if self.numeric:
            return self.encode(_number(text))
        return self.encode(_FLAG_CELLS.get(text.lower(), text) if self.kind is Kind.BOOLEAN else text)

    def refusal(self, number: float) -> Refusal | None:
        """Why an encoded value is refused: it is missing, or encodes no plausible value. None if it is good."""
        if isnan(number):
            return None if self.optional else Refusal(Reason.MISSING, "is missing")
        if self.whole and isfinite(number) and number != int(number):
            return Refusal(Reason.WRONG_TYPE, "is not a whole number" if self.numeric else f"is no {self.kind}")
        if self.minimum <= number <= self.maximum:
            return None
        if self.kind in (Kind.BOOLEAN, Kind.CATEGORY):
            return Refusal(Reason.OUT_OF_RANGE, f"is no {self.kind}")
        return Refusal(Reason.OUT_OF_RANGE, f"is outside the plausible range {self.range}")

    def decode(self, number: float) -> Value:
        """An encoded value, as JSON has it. A number that encodes nothing stays a number."""
        if isnan(number):
            return None
        if self.kind is Kind.NUMBER or not isfinite(number) or (self.whole and number != int(number)):
            return number
        if self.kind is Kind.DATETIME:
            return datetime_text(number)
        code = int(number)
        if self.kind is Kind.INTEGER:
            return code
        if self.kind is Kind.DATE:
            ordinal = code + _EPOCH_DAY
            return date.fromordinal(ordinal).isoformat() if 0 < ordinal <= date.max.toordinal() else number
        if not self.minimum <= code <= self.maximum:
            return number
        if self.kind is Kind.BOOLEAN:
            return bool(code)
        return self.vocabulary[code] if code < len(self.vocabulary) else OTHER_CATEGORY

    def show(self, number: float) -> str:
        """An encoded value, for people."""
        value = self.decode(number)
        if value is None:
            return MISSING
        if isinstance(value, bool):
            return "true" if value else "false"
        return value if isinstance(value, str) else f"{value:.12g}"


_TYPES: dict[Kind, set[type]] = {
    Kind.NUMBER: {int, float},
    Kind.INTEGER: {int, float},
    Kind.BOOLEAN: {bool},
    Kind.CATEGORY: {str},
}
"""The types of values in JSON."""


class _WithOther(dict[str, float]):
    """The codes of categories, with one for all that are not there."""

    def __missing__(self, _: str) -> float:
        return float(len(self))


def _number(text: str) -> object:
    """The number that a text is, if every reader of the file takes it for that one: not "1_000", nor "١٢"."""
    if "_" in text or not text.isascii():
        return text
    try:
        return float(text)
    except ValueError:
        return text


def _encode_number(feature: Feature, value: object) -> float:
    if isinstance(value, bool | np.bool_ | str | bytes):
        raise Refusal(Reason.NOT_A_NUMBER, "is not a number")
    try:
        return float(value)  # type: ignore[arg-type]  # what is no number raises
    except (TypeError, ValueError):
        raise Refusal(Reason.NOT_A_NUMBER, "is not a number") from None
    except OverflowError:
        raise Refusal(Reason.OUT_OF_RANGE, f"is outside the plausible range {feature.range}") from None


def _encode_flag(_: Feature, value: object) -> float:
    if isinstance(value, bool | np.bool_):
        return float(value)
    raise Refusal(Reason.WRONG_TYPE, "is neither true nor false")


def _encode_category(feature: Feature, value: object) -> float:
    if not isinstance(value, str):
        raise Refusal(Reason.WRONG_TYPE, "is not text")
    if not value:
        raise Refusal(Reason.MISSING, "is empty")
    try:
        return feature.codes[value]
    except KeyError:
        raise Refusal(Reason.UNKNOWN_CATEGORY, f"is not one of {listed(feature.vocabulary)}") from None


def _encode_date(_: Feature, value: object) -> float:
    return days(as_date(value))


def _encode_datetime(_: Feature, value: object) -> float:
    return days_and_time(as_datetime(value))


_ENCODE: dict[Kind, Callable[[Feature, object], float]] = {
    Kind.NUMBER: _encode_number,
    Kind.INTEGER: _encode_number,
    Kind.BOOLEAN: _encode_flag,
    Kind.CATEGORY: _encode_category,
    Kind.DATE: _encode_date,
    Kind.DATETIME: _encode_datetime,
}


def as_date(value: object) -> date:
    """A date, or the date that a text is.

    Raises:
        Refusal: it is none.
    """
    if isinstance(value, datetime):
        if value.time() == time(0):
            return value.date()
    elif isinstance(value, date):
        return value
    elif isinstance(value, str) and _DATE(value):
        with suppress(ValueError):
            return date.fromisoformat(value)
    raise Refusal(Reason.WRONG_TYPE, "is not a date such as 2024-05-31")


def as_datetime(value: object) -> datetime:
    """A time, or the time that a text is; without an offset it is in UTC, without a time of day it is midnight.

    Raises:
        Refusal: it is none.
    """
    found = None
    if isinstance(value, datetime):
        found = value
    elif isinstance(value, date):
        found = datetime.combine(value, time(0))
    elif isinstance(value, str) and _DATETIME(value):
        with suppress(ValueError):
            found = datetime.fromisoformat(value.upper())
    if found is None:
        raise Refusal(Reason.WRONG_TYPE, "is not a time such as 2024-05-31T12:00:00Z")
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def days(value: date) -> float:
    """Days since 1970."""
    return float(value.toordinal() - _EPOCH_DAY)


def days_and_time(value: datetime) -> float:
    """Days since 1970 in UTC, with their fraction."""
    return (value - _EPOCH) / timedelta(days=1)


def datetime_text(days_since: float) -> Value:
    """Days since 1970 as ISO 8601, to the microsecond, which a double holds until the year 2059."""
    try:
        found = _EPOCH + timedelta(microseconds=round(days_since * 86_400_000_000))
    except OverflowError:
        return days_since
    return found.isoformat().replace("+00:00", "Z")


def listed(names: Sequence[str]) -> str:
    """Names for an error, the first of many."""
    rest = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{', '.join(name[:60] for name in names[:_LISTED])}{rest}"
