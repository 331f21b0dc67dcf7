"""The contract of a dataset as a person would write it: a module of ``contract/datasets``, in ruff's format."""

from collections.abc import Sequence
from datetime import UTC, datetime
from types import ModuleType

from contract.dataset import Dataset, Target
from contract.feature import Feature, Kind, Unknown, as_date, as_datetime
from training.errors import PipelineError
from training.new_dataset import names
from training.new_dataset.inference import Column, Found

WIDTH = 120
LONGEST_FILE = 50
"""Most characters of a file's name, which must fit a line."""
_TYPES = {
    Kind.NUMBER: "float",
    Kind.INTEGER: "int",
    Kind.BOOLEAN: "bool",
    Kind.CATEGORY: "str",
    Kind.DATE: "date",
    Kind.DATETIME: "datetime",
}
_HELPERS = {Kind.BOOLEAN: "flag", Kind.CATEGORY: "category", Kind.DATE: "day", Kind.DATETIME: "moment"}


def source(name: str, found: Found, file_name: str) -> str:
    """The module's text.

    Args:
        name: of the dataset.
        found: what is known of the table.
        file_name: of the table, for people.
    """
    kinds = {column.feature.kind for column in found.columns}
    unknown = any(column.feature.unknown is Unknown.OTHER for column in found.columns)
    times = [text for kind, text in ((Kind.DATE, "date"), (Kind.DATETIME, "datetime")) if kind in kinds]
    if Kind.DATETIME in kinds:
        times.insert(0, "UTC")
    helpers = sorted({_HELPERS.get(kind, "feature") for kind in kinds})
    title = names.for_people(name)
    camel = names.class_name(name)
    target = found.target
    file_name = file_name if len(file_name) <= LONGEST_FILE else f"{file_name[:LONGEST_FILE]}…"
    about, origin = f"{title}: one row of {_in_docstring(file_name)} a row.", "Written by `make dataset`, to be edited."
    in_one = f'"""{about} {origin}"""'
    lines = [
        *([in_one] if len(in_one) <= WIDTH else [f'"""{about}', "", origin, '"""']),
        "",
        *([f"from datetime import {', '.join(times)}", ""] if times else []),
        "from contract.dataset import Dataset, Target",
        *(["from contract.feature import Unknown"] if unknown else []),
        f"from contract.row import {', '.join(['Row', *helpers])}",
        "",
        "",
        f"class {camel}Row(Row):",
        f'    """What is known of a row. Ranges hold {_in_docstring(file_name)} with room around it."""',
        "",
        *(line for column in found.columns for line in _field(column)),
        "",
        "",
        f"{name.upper()} = Dataset(",
        f"    name={_literal(name)},",
        f"    description={_literal(f'{names.for_people(target.name)} of a row of {file_name}.')},",
        f"    row={camel}Row,",
        *_call("    target=", "Target", _target(target), "    ", ","),
        ")",
    ]
    return "\n".join(lines) + "\n"


def load(name: str, text: str) -> Dataset:
    """The dataset that a module's text declares, without a file.

    Raises:
        PipelineError: the text does not work, which is a bug.
    """
    module = ModuleType(f"contract.datasets.{name}")
    exec(compile(text, f"contract/datasets/{name}.py", "exec"), module.__dict__)  # noqa: S102 # our own text
    (dataset,) = [each for each in vars(module).values() if isinstance(each, Dataset)]
    if dataset.name != name:
        raise PipelineError(f"The contract of {name} was written for {dataset.name}.")
    return dataset


def _in_docstring(text: str) -> str:
    return text.replace("\\", "/").replace('"', "'")


def _field(column: Column) -> list[str]:
    feature = column.feature
    annotation = _TYPES[feature.kind] + (" | None" if feature.optional else "")
    arguments: list[str] = []
    if feature.kind is Kind.CATEGORY:
        arguments += map(_literal, feature.vocabulary)
    if feature.numeric:
        arguments += [f"unit={_literal(feature.unit)}"]
    if feature.kind not in (Kind.BOOLEAN, Kind.CATEGORY):
        arguments += [f"minimum={_value(feature, feature.minimum)}", f"maximum={_value(feature, feature.maximum)}"]
    said = feature.description.removesuffix(f" Unit: {feature.unit}.")
    arguments += [f"description={_literal(said)}", f"example={_example(feature)}"]
    if feature.unknown is Unknown.OTHER:
        arguments.append("unknown=Unknown.OTHER")
    if column.field != feature.name:
        arguments.append(f"alias={_literal(feature.name)}")
    return _call(f"    {column.field}: {annotation} = ", _HELPERS.get(feature.kind, "feature"), arguments, "    ", "")


def _target(target: Target) -> list[str]:
    arguments = [f"name={_literal(target.name)}", f"unit={_literal(target.unit)}"]
    arguments.append(f"description={_literal(target.description)}")
    if target.classes:
        classes = ", ".join(map(_literal, target.classes))
        one_line = f"        classes=({classes}),"
        if len(one_line) > WIDTH:
            inner = ",\n".join(f"            {_literal(each)}" for each in target.classes)
            return [*arguments, f"classes=(\n{inner},\n        )"]
        return [*arguments, f"classes=({classes})"]
    return [*arguments, f"minimum={_number(target.minimum)}", f"maximum={_number(target.maximum)}"]


def _call(start: str, function: str, arguments: Sequence[str], indent: str, end: str) -> list[str]:
    """A call on one line if it fits, else an argument a line."""
    line = f"{start}{function}({', '.join(arguments)}){end}"
    if len(line) <= WIDTH and "\n" not in line:
        return [line]
    return [f"{start}{function}(", *(f"{indent}    {argument}," for argument in arguments), f"{indent}){end}"]


def _literal(text: str) -> str:
    """A text as Python, in double quotes unless the others need fewer backslashes."""
    quote = '"' if text.count('"') <= text.count("'") else "'"
    return quote + f"\\{quote}".join(repr(part)[1:-1] for part in text.split(quote)) + quote


def _number(value: float) -> str:
    """A number as a person writes it: 100_000, 0.5."""
    if value == int(value) and abs(value) < 1e15:
        whole = int(value)
        return f"{whole:_}" if abs(whole) >= 10_000 else str(whole)
    return repr(float(value)).replace("e+", "e")


def _value(feature: Feature, encoded: float) -> str:
    if feature.numeric:
        return _number(encoded)
    text = str(feature.decode(encoded))
    return _date(text) if feature.kind is Kind.DATE else _datetime(text)


def _example(feature: Feature) -> str:
    if feature.numeric:
        return _number(float(feature.example))
    if feature.kind is Kind.DATE:
        return _date(str(feature.example))
    if feature.kind is Kind.DATETIME:
        return _datetime(str(feature.example))
    return _literal(feature.example) if isinstance(feature.example, str) else str(feature.example)


def _date(text: str) -> str:
    day = as_date(text)
    return f"date({day.year}, {day.month}, {day.day})"


def _datetime(text: str) -> str:
    moment: datetime = as_datetime(text).astimezone(UTC)
    parts = [moment.year, moment.month, moment.day, moment.hour, moment.minute, moment.second, moment.microsecond]
    while len(parts) > 3 and not parts[-1]:
        parts.pop()
    return f"datetime({', '.join(map(str, parts))}, tzinfo=UTC)"
