"""The tables of the documentation, written from the code: ``python -m docs_reference``, or ``make docs-reference``.

Each table stands between the lines ``<!-- name: begin -->`` and ``<!-- name: end -->`` of a page. With ``--check``
nothing is written, and the exit status is 1 if a page is stale.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from prometheus_client import Counter, Gauge, Histogram
from pydantic import BaseModel

from contract import DATASETS
from contract.errors import BundleError
from contract.feature import Feature, Kind, Unknown, listed
from load_tests.benchmark.report import replace_section
from local_service import PROJECT
from loop.settings import LoopSettings
from serving.http.openapi import document
from serving.protocol.grpc import STATUS_CODES
from serving.settings import Settings
from training.params import Params

PREDICTED_VALUE = ("`ml_predicted_value`", "histogram", "`model`, `version`", "Predicted values, in the target's unit.")
"""Each version has a histogram of its own (``series.predicted_value``): before a model is loaded, there is none."""
ERRORS = (
    "contract.errors",
    "model.card",
    "model.deployed",
    "model.session",
    "model.signing",
    "serving.errors",
    "serving.imported",
    "ledger.errors",
    "ledger.jobs",
    "training.errors",
    "loop.errors",
    "load_tests.errors",
    "monitoring.errors",
    "deploy.errors",
    "local_service",
)
"""Modules that define errors; a test finds one that is not here."""
REPEATED = ("400", "401", "403", "413", "415", "503", "504")
"""Statuses that need no line of their own in the table of a route: the page tells them once."""


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def code(text: object) -> str:
    """Text in the typeface of code."""
    return f"`{text}`"


def sentence(docstring: str | None) -> str:
    """The first paragraph of a docstring, on one line, with Markdown's backquotes."""
    return " ".join((docstring or "").split("\n\n")[0].split()).replace("``", "`")


def routes() -> str:
    """Every operation of the OpenAPI document, by tag."""
    found = document("", "", "")
    parts = []
    for tag in found["tags"]:
        rows = [
            (code(f"{method.upper()} {path}"), _ended(operation["summary"]), _access(operation))
            for path, item in found["paths"].items()
            for method, operation in item.items()
            if tag["name"] in operation["tags"]
        ]
        parts.append(f"### {tag['name'][0].upper()}{tag['name'][1:]}\n\n{table(('route', 'does', 'key'), rows)}")
    return "\n".join(parts)


def parameters() -> str:
    """The parameters of each route that takes some in its address."""
    parts = []
    for path, item in document("", "", "")["paths"].items():
        given = [one for one in item.get("get", {}).get("parameters", ()) if one["in"] == "query"]
        if given:
            rows = [(code(one["name"]), _limits(one["schema"]), one["description"]) for one in given]
            parts.append(f"### {code(f'GET {path}')}\n\n{table(('parameter', 'values', 'meaning'), rows)}")
    return "\n".join(parts)


def bodies() -> str:
    """An example of the body of each route that takes one, and the statuses that only some routes have."""
    parts = []
    for path, item in document("", "", "")["paths"].items():
        for method, operation in item.items():
            content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            if "example" in content:
                statuses = sorted(set(operation["responses"]) - set(REPEATED))
                example = json.dumps(content["example"], ensure_ascii=False)
                title = code(f"{method.upper()} {path}")
                parts.append(f"### {title}\n\n```json\n{example}\n```\n\nAnswers {', '.join(statuses)}.\n")
    return "\n".join(parts)


def _ended(text: str) -> str:
    """A sentence with a full stop, unless it has its end."""
    return text if text.endswith((".", "?")) else f"{text}."


def _access(operation: Mapping[str, Any]) -> str:
    security = operation.get("security")
    if security is None:
        return "if there are keys"
    return "admin" if security else "never"


def settings(model: type[BaseModel]) -> str:
    """Every setting: name, default, values, meaning."""
    rows = []
    for name, schema in model.model_json_schema()["properties"].items():
        field = model.model_fields[name]
        default = field.default.relative_to(PROJECT) if isinstance(field.default, Path) else field.default
        shown = "none" if default in (None, "") else code(default)
        rows.append((code(name), shown, _limits(schema), field.description or ""))
    return table(("variable", "default", "values", "meaning"), rows)


def _limits(schema: Mapping[str, Any]) -> str:
    """What a JSON schema allows, in words."""
    schema = next((kind for kind in schema.get("anyOf", ()) if kind.get("type") != "null"), schema)
    if "enum" in schema:
        return ", ".join(code(value) for value in schema["enum"])
    if schema.get("type") not in ("integer", "number"):
        return {"path": "path", "password": "text"}.get(schema.get("format", ""), "text")
    bounds = [
        f"{word} {schema[key]:,}"
        for key, word in (("minimum", "from"), ("exclusiveMinimum", "above"), ("maximum", "to"))
        if key in schema
    ]
    return " ".join([schema["type"], *bounds])


def metrics() -> str:
    """Every series of ours: name, type, labels, meaning."""
    rows: list[tuple[str, ...]] = [PREDICTED_VALUE]
    for one in (one for module in _modules_with_metrics() for one in vars(import_module(module)).values()):
        if not isinstance(one, Counter | Gauge | Histogram):
            continue
        (told,) = one.describe()
        labels = list(one._labelnames)
        if isinstance(one, Gauge) and one._multiprocess_mode == "all":
            labels.append("pid")
        name = f"{told.name}_total" if told.type == "counter" else told.name
        rows.append((code(name), told.type, ", ".join(map(code, labels)) or "none", told.documentation))
    return table(("series", "type", "labels", "meaning"), sorted(rows))


def _modules_with_metrics() -> list[str]:
    sources = [path for room in ("ledger", "loop", "serving") for path in sorted((PROJECT / room).rglob("*.py"))]
    return [
        ".".join(path.relative_to(PROJECT).with_suffix("").parts)
        for path in sources
        if re.search(r"^from prometheus_client import .*\b(Counter|Gauge|Histogram)\b", path.read_text(), re.MULTILINE)
    ]


def errors() -> str:
    """The tree of errors: name, room, HTTP status, gRPC code, when."""
    for module in ERRORS:
        import_module(module)
    rows = []
    for error in (one for one in _descendants(BundleError) if one.__module__ in ERRORS):
        # Commands have an exit status, and no HTTP status.
        answered = error.__module__ == "serving.errors" or error.status != BundleError.status
        # As `serving.protocol.grpc` finds it: the first that it is a kind of. The others happen over HTTP alone.
        others = "INTERNAL" if answered and error.status == BundleError.status else None
        grpc_code = next((found.name for kind, found in STATUS_CODES.items() if issubclass(error, kind)), others)
        status = str(error.status) if answered else "–"
        over_grpc = code(grpc_code) if grpc_code else "–"
        rows.append((code(error.__name__), code(error.__module__), status, over_grpc, sentence(error.__doc__)))
    rows.sort(key=lambda row: (row[2], ERRORS.index(row[1].strip("`"))))
    return table(("error", "defined in", "HTTP", "gRPC", "when"), rows)


def _descendants(error: type[BundleError]) -> list[type[BundleError]]:
    """Depth first."""
    return [one for child in error.__subclasses__() for one in (child, *_descendants(child))]


def commands() -> str:
    """The targets of the Makefile, as ``make help`` lists them."""
    lines = re.findall(r"^([a-z-]+):.*?## (.*)$", (PROJECT / "Makefile").read_text(), re.MULTILINE)
    return table(("command", "does"), [(code(f"make {name}"), text) for name, text in lines])


def params() -> str:
    """Each section of ``params.yaml``: what its model says of it, and the section with its comments."""
    _, *sections = re.split(r"^(?=\w)", (PROJECT / "params.yaml").read_text(), flags=re.MULTILINE)
    parts = []
    for section in sections:
        name = section.partition(":")[0]
        told = "\n".join(f"- {line}" for line in _meanings(Params.model_fields[name].annotation))
        parts.append(f"## {name}\n\n{told}\n\n```yaml\n{section.rstrip()}\n```\n")
    return "\n".join(parts)


def _meanings(annotation: Any) -> list[str]:
    """The docstrings of a model and of those within it."""
    found: dict[str, None] = {}
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        found[" ".join((annotation.__doc__ or "").split()).replace("``", "`")] = None
        inner: Iterable[Any] = (field.annotation for field in annotation.model_fields.values())
    else:
        inner = getattr(annotation, "__args__", ())
    for one in inner:
        found |= dict.fromkeys(_meanings(one))
    return list(found)


def columns() -> str:
    """The features of each dataset, and its target, as the contract has them."""
    parts = []
    for dataset in DATASETS.values():
        rows = [
            (code(one.name), one.unit or one.kind, _values(one), one.description.partition(" Unit: ")[0])
            for one in dataset.features
        ]
        target = dataset.target
        values = ", ".join(target.classes) or f"{target.minimum:g} to {target.maximum:g}"
        rows.append((f"{code(target.name)} (target)", target.unit, values, target.description))
        parts.append(f"### {code(dataset.name)}\n\n{table(('column', 'unit', 'plausible values', 'meaning'), rows)}")
    return "\n".join(parts)


def _values(feature: Feature) -> str:
    """The plausible values of a feature."""
    if feature.kind is Kind.CATEGORY:
        values = listed(feature.vocabulary) + ("" if feature.unknown is Unknown.REFUSE else ", others")
    else:
        values = feature.range.removesuffix(f" {feature.unit}")
    return f"{values}, or missing" if feature.optional else values


def models() -> str:
    """How good the models are: the figures of ``metrics/*.json`` in two sentences."""
    housing, iris = (json.loads((PROJECT / f"metrics/{name}.json").read_text()) for name in ("housing", "iris"))
    return (
        f"- **California Housing**, 4,128 test rows: R² {housing['r2']:.3f}, RMSE {housing['rmse'] * 100:.1f} thousand "
        f"USD; {housing['within_20_percent'] * 100:.0f} % of the predictions are within 20 % of the price.\n"
        f"- **Iris**, 30 test flowers: {iris['accuracy'] * 100:.0f} % right ({iris['cv_accuracy'] * 100:.1f} % in "
        f"cross-validation), log loss {iris['log_loss']:.3f}.\n"
    )


def pages() -> dict[Path, str]:
    """Each page that has generated parts, as it must be."""
    docs = PROJECT / "docs"
    reference = docs / "reference"
    sections = {
        PROJECT / "README.md": {"models": models()},
        docs / "index.md": {"models": models()},
        reference / "routes.md": {"routes": routes(), "parameters": parameters(), "bodies": bodies()},
        reference / "settings.md": {"settings": settings(Settings), "worker": settings(LoopSettings)},
        reference / "metrics.md": {"metrics": metrics()},
        reference / "errors.md": {"errors": errors()},
        reference / "commands.md": {"commands": commands()},
        reference / "data.md": {"columns": columns()},
        reference / "params.md": {"params": params()},
    }
    found = {}
    for path, parts in sections.items():
        text = path.read_text()
        for name, content in parts.items():
            text = replace_section(text, name, f"\n{content}\n")
        found[path] = text
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the pages; with ``--check``, return 1 if one would change."""
    parser = argparse.ArgumentParser(prog="make docs-reference", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a page is stale")
    options = parser.parse_args(arguments)
    stale = {path: text for path, text in pages().items() if path.read_text() != text}
    for path, text in stale.items():
        if options.check:
            sys.stdout.write(f"{path.relative_to(PROJECT)} is stale: run `make docs-reference`.\n")
        else:
            path.write_text(text)
            sys.stdout.write(f"Written: {path.relative_to(PROJECT)}\n")
    return 1 if options.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
