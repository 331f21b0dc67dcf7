"""What a table or a matrix can break, and where it did."""

from dataclasses import dataclass
from enum import StrEnum


class Rule(StrEnum):
    """What a table can break."""

    MISSING_COLUMN = "missing_column"
    UNKNOWN_COLUMN = "unknown_column"
    LENGTH = "length"
    TYPE = "type"
    NAN = "nan"
    INFINITE = "infinite"
    RANGE = "range"
    CATEGORY = "category"
    CLASS = "class"
    DUPLICATE = "duplicate"
    TOO_FEW_ROWS = "too_few_rows"


@dataclass(frozen=True)
class Violation:
    """One broken rule.

    ``row`` counts from 0; ``column``, ``row`` and ``value`` are None where the rule is not about one.
    """

    rule: Rule
    column: str | None
    row: int | None
    value: str | None
    message: str
