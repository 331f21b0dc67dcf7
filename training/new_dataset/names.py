"""Names: of columns in Python, of units, for people."""

import keyword
import re
import unicodedata
from collections.abc import Collection, Iterable

from contract.row import Row

LONGEST = 80
"""Most characters of a column's name, or of a category: what is longer fits no line of code."""
_IN_CONTRACTS = frozenset(
    {"bool", "category", "date", "datetime", "day", "feature", "flag", "float", "int", "moment", "str"}
    | {"Dataset", "Row", "Target", "UTC", "Unknown"}
)
"""What a contract module uses: a field of that name would hide it from the fields below."""
_SHORT_UNITS = frozenset(
    {"mm", "cm", "m", "km", "g", "kg", "mg", "t", "ml", "l", "s", "ms", "min", "h", "days", "hours", "years", "months"}
    | {"usd", "eur", "gbp", "kwh", "kw", "w", "v", "hz", "pct", "percent", "celsius", "mph", "kmh", "px", "sqm"}
)
_SPELLED = {"pct": "percent", "usd": "USD", "eur": "EUR", "gbp": "GBP", "kwh": "kWh", "kw": "kW", "w": "W", "v": "V"}
_IN_BRACKETS = re.compile(r"^(?P<name>.*\S)\s*[(\[](?P<unit>[^()\[\]]+)[)\]]$").fullmatch
UNKNOWN_UNIT = "units"
"""Said of a number whose column's name has no unit."""


def field_names(columns: Iterable[str]) -> dict[str, str]:
    """A name of Python for each column: its own where it is one, and each once."""
    found: dict[str, str] = {}
    for number, column in enumerate(columns, start=1):
        base = column if _is_field(column) else _python_name(column) or f"column_{number}"
        taken, candidate, again = set(found.values()), base, 1
        while candidate in taken:
            again += 1
            candidate = f"{base}_{again}"
        found[column] = candidate
    return found


def _is_field(name: str) -> bool:
    normal = name.isidentifier() and unicodedata.normalize("NFKC", name) == name
    return normal and not name.startswith("_") and not _is_reserved(name)


def _is_reserved(name: str) -> bool:
    """Whether a field of that name would break its class: a keyword, or what pydantic or the module needs."""
    return keyword.iskeyword(name) or name in _IN_CONTRACTS or hasattr(Row, name) or name.startswith("model_")


def _python_name(column: str) -> str:
    text = unicodedata.normalize("NFKD", column.replace("ß", "ss"))
    words = re.findall(r"[a-z0-9]+", text.encode("ascii", "ignore").decode().lower())
    name = "_".join(words)
    if name[:1].isdigit():
        name = f"n_{name}"
    if name.startswith("model_"):
        name = f"the_{name}"
    return f"{name}_" if name and _is_reserved(name) else name


def dataset_name(text: str) -> str:
    """The name of a dataset after that of its file."""
    return _python_name(text) or "table"


def unit(column: str) -> str:
    """The unit that a column's name ends with: Length (mm), length_mm; ``UNKNOWN_UNIT`` without one."""
    if match := _IN_BRACKETS(column):
        return match["unit"].strip()
    *others, last = re.split(r"[\s_.]+", column)
    if others and last.lower() in _SHORT_UNITS:
        return _SPELLED.get(last.lower(), last.lower())
    return "degrees" if is_latitude(column) or is_longitude(column) else UNKNOWN_UNIT


def is_latitude(column: str) -> bool:
    """Whether a column's name says that it holds latitudes."""
    return _has_word(column, {"lat", "latitude"})


def is_longitude(column: str) -> bool:
    """Whether a column's name says that it holds longitudes."""
    return _has_word(column, {"lon", "lng", "long", "longitude"})


def is_identifier(column: str) -> bool:
    """Whether a column's name says that it holds identifiers."""
    return _has_word(column, {"id", "ids", "uuid", "guid", "index", "idx", "rownames", "unnamed", "key"})


def _has_word(column: str, words: Collection[str]) -> bool:
    return not {word.lower() for word in _words(column)}.isdisjoint(words)


def _words(column: str) -> list[str]:
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", column)
    return [word for word in re.split(r"[\s_.\-/]+", spaced) if word]


def for_people(column: str) -> str:
    """A column's name as the start of a sentence, without its unit: "Bill length" of bill_length_mm."""
    name = match["name"] if (match := _IN_BRACKETS(column)) else column
    words = _words(name)
    if len(words) > 1 and unit(column) != UNKNOWN_UNIT and words[-1].lower() in _SHORT_UNITS:
        words.pop()
    # An abbreviation stays as it is.
    text = " ".join(word if word.isupper() else word.lower() for word in words) or name
    return text[0].upper() + text[1:]


def class_name(dataset: str) -> str:
    """The name of a dataset's row class, without ``Row``."""
    return "".join(word.capitalize() for word in dataset.split("_"))
