"""A row of features as a person declares it: a class with a typed field for each.

    class PassengerRow(Row):
        age: float | None = feature(unit="years", minimum=0, maximum=120, description="Age.", example=22)
        siblings: int = feature(unit="persons", minimum=0, maximum=20, description="Siblings aboard.", example=1)
        port: str = category("Cherbourg", "Southampton", description="Port of embarkation.", example="Cherbourg")
        insured: bool = flag(description="Whether there is an insurance.", example=True)
        born: date = day(minimum=date(1800, 1, 1), maximum=date(1912, 1, 1), description="Birthday.", example=…)

``| None`` makes a feature optional: its value may be missing, which in JSON is null or a field that is left out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, PydanticKnownError, core_schema

from contract.feature import (
    MISSING,
    OTHER_CATEGORY,
    REST,
    Feature,
    Kind,
    Refusal,
    Unknown,
    Value,
    as_date,
    as_datetime,
    datetime_text,
    days,
    days_and_time,
    listed,
)

LARGEST_WHOLE = 2**53
"""Every whole number up to here is exact as a double."""
UNKNOWN_CATEGORY, NOT_A_TIME = "unknown_category", "not_a_time"
"""Types of errors, beside pydantic's own."""

_KINDS: dict[type, Kind] = {
    float: Kind.NUMBER,
    int: Kind.INTEGER,
    bool: Kind.BOOLEAN,
    str: Kind.CATEGORY,
    date: Kind.DATE,
    datetime: Kind.DATETIME,
}


class Row(BaseModel):
    """One row of features. Unknown fields, NaN, infinities, and values of another type are refused."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        optional = [each for each in cls.model_fields.values() if each.is_required() and _optional(each.annotation)]
        for each in optional:
            each.default = None
        if optional:
            cls.model_rebuild(force=True)


def feature(
    *, unit: str, minimum: float, maximum: float, description: str, example: float, alias: str | None = None
) -> Any:
    """A number of a ``Row``: a ``float``, or an ``int`` where it must be whole.

    Args:
        unit: unit of the value, for people and for the OpenAPI page.
        minimum, maximum: the plausible range, both ends included; a value outside is refused.
        description: one line that says what was measured.
        example: a value that works.
        alias: its name in requests and tables, where that is no name of Python.
    """
    declared = _Declared((float, int), unit, minimum, maximum, example)
    extra = {"json_schema_extra": {"unit": unit}, "ge": minimum, "le": maximum}
    return _field(declared, f"{description} Unit: {unit}.", alias, **extra)


def flag(*, description: str, example: bool, alias: str | None = None) -> Any:
    """A ``bool`` of a ``Row``.

    Args:
        description: one line that says what true means.
        example, alias: as for ``feature``.
    """
    return _field(_Declared((bool,), "", 0, 1, example), description, alias)


def category(
    *vocabulary: str, description: str, example: str, unknown: Unknown = Unknown.REFUSE, alias: str | None = None
) -> Any:
    """A category of a ``Row``: a ``str`` of a closed vocabulary.

    Args:
        vocabulary: the categories, the commonest first where they are many. A trained model depends on their order.
        description: one line that says what they are.
        unknown: what becomes of a category that is not there.
        example, alias: as for ``feature``.

    Raises:
        TypeError: there is no category, one is there twice, or one has a name that means something else.
    """
    reserved = {"", MISSING, OTHER_CATEGORY, REST}.intersection(vocabulary)
    if reserved or not vocabulary or len(set(vocabulary)) < len(vocabulary):
        what = f"{reserved.pop()!r} means something else" if reserved else "one or more, and each once"
        raise TypeError(f"{description!r}, categories: {what}.")
    last = len(vocabulary) - (unknown is Unknown.REFUSE)
    return _field(_Declared((str,), "", 0, last, example, vocabulary, unknown), description, alias)


def day(*, minimum: date, maximum: date, description: str, example: date, alias: str | None = None) -> Any:
    """A ``date`` of a ``Row``; in JSON it is text such as ``2024-05-31``.

    Args:
        minimum, maximum: the plausible range, both ends included.
        description: one line that says of what it is the date.
        example, alias: as for ``feature``.
    """
    return _field(_Declared((date,), "", days(minimum), days(maximum), example.isoformat()), description, alias)


def moment(
    *, minimum: datetime, maximum: datetime, description: str, example: datetime, alias: str | None = None
) -> Any:
    """A ``datetime`` of a ``Row``; in JSON it is text such as ``2024-05-31T12:00:00Z``. Without an offset it is in UTC.

    Args:
        minimum, maximum: the plausible range, both ends included.
        description: one line that says of what it is the time.
        example, alias: as for ``feature``.
    """
    low, high, shown = (days_and_time(as_datetime(each)) for each in (minimum, maximum, example))
    return _field(_Declared((datetime,), "", low, high, datetime_text(shown)), description, alias)


def features(row: type[Row]) -> dict[str, Feature]:
    """The features of a row by the names of their fields, in order.

    Raises:
        TypeError: a field is not declared by one of the functions here, or its type is of another kind.
    """
    found = {}
    for name, field in row.model_fields.items():
        declared = next((each for each in field.metadata if isinstance(each, _Declared)), None)
        if declared is None:
            raise TypeError(f"{row.__name__}.{name} must be declared by feature, flag, category, day or moment.")
        optional = _optional(field.annotation)
        found[name] = declared.feature(field.alias or name, field.annotation, field.description or "", optional)
    return found


@dataclass(frozen=True)
class _Declared:
    """What a field says of its feature; its name and type say the rest. Pydantic asks it how to validate the field."""

    types: tuple[type, ...]
    unit: str
    minimum: float
    maximum: float
    example: Value
    vocabulary: tuple[str, ...] = ()
    unknown: Unknown = Unknown.REFUSE

    def feature(self, name: str, annotation: Any, description: str, optional: bool) -> Feature:
        """The feature of a field.

        Raises:
            TypeError: the field's type is of another kind, or its range does not fit.
        """
        kept = next((each for each in (get_args(annotation) or (annotation,)) if each is not type(None)), None)
        if kept not in self.types:
            wanted = " or ".join(each.__name__ for each in self.types)
            raise TypeError(f"{name or description!r}: the type must be {wanted}, not {annotation}.")
        kind = _KINDS[kept]
        if kind is Kind.INTEGER and not -LARGEST_WHOLE <= self.minimum <= self.maximum <= LARGEST_WHOLE:
            raise TypeError(f"{name}: whole numbers are exact to 2**53 alone; narrow the range.")
        return Feature(
            name,
            self.unit,
            self.minimum,
            self.maximum,
            description,
            self.example,
            kind,
            optional,
            self.vocabulary,
            self.unknown,
        )

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        optional = _optional(source)
        declared = self.feature("", source, "", optional)
        if declared.kind in (Kind.NUMBER, Kind.BOOLEAN):
            return handler(source)
        if declared.kind is Kind.INTEGER:
            return core_schema.no_info_before_validator_function(_as_whole, handler(source))
        if declared.kind is Kind.CATEGORY:
            schema = self._category_schema()
        elif declared.kind is Kind.DATE:
            schema = _time_schema(declared, as_date, days)
        else:
            schema = _time_schema(declared, as_datetime, days_and_time)
        return core_schema.nullable_schema(schema) if optional else schema

    def _category_schema(self) -> CoreSchema:
        if self.unknown is Unknown.OTHER:
            return core_schema.str_schema(strict=True, min_length=1)
        # Pydantic's own error lists the whole vocabulary.
        return core_schema.custom_error_schema(
            core_schema.literal_schema([*self.vocabulary]),
            custom_error_type=UNKNOWN_CATEGORY,
            custom_error_message=f"Input should be one of {listed(self.vocabulary)}",
        )

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        (kind,) = {*map(_KINDS.get, self.types)} - {Kind.INTEGER}
        if kind not in (Kind.DATE, Kind.DATETIME):
            return handler(core)
        low, high = map(self.feature("", self.types[0], "", optional=False).decode, (self.minimum, self.maximum))
        text = {
            "type": "string",
            "format": "date" if kind is Kind.DATE else "date-time",
            "formatMinimum": low,
            "formatMaximum": high,
        }
        return {"anyOf": [text, {"type": "null"}]} if core["type"] == "nullable" else text


def _field(declared: _Declared, description: str, alias: str | None, **extra: Any) -> Any:
    made = Field(description=description, examples=[declared.example], alias=alias, **extra)
    made.metadata.append(declared)
    return made


def _optional(annotation: Any) -> bool:
    return type(None) in get_args(annotation)


def _as_whole(value: object) -> object:
    """A whole number that is written as 41.0, as 41."""
    if isinstance(value, float) and value.is_integer() and abs(value) <= LARGEST_WHOLE:
        return int(value)
    return value


def _time_schema(declared: Feature, read: Callable[[object], Any], encode: Callable[[Any], float]) -> CoreSchema:
    low, high = declared.decode(declared.minimum), declared.decode(declared.maximum)

    def validate(value: object) -> Any:
        try:
            found = read(value)
        except Refusal as error:
            what = str(error).replace("is not", "Input should be")
            raise PydanticCustomError(NOT_A_TIME, what) from None
        number = encode(found)
        if number < declared.minimum:
            raise PydanticKnownError("greater_than_equal", {"ge": low})
        if number > declared.maximum:
            raise PydanticKnownError("less_than_equal", {"le": high})
        return found

    return core_schema.no_info_plain_validator_function(validate)
