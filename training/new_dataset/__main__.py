"""``python -m training.new_dataset CSV=table.csv TARGET=column [NAME=…] [TASK=…] [--yes]``; ``--remove NAME=…``."""

import argparse
import difflib
import functools
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from contract.dataset import Task
from contract.feature import MISSING, Kind, Unknown
from training import console
from training.errors import PipelineError
from training.new_dataset import names, project
from training.new_dataset.inference import Column

SHOWN_CATEGORIES, SHOWN_CHARACTERS = 6, 25


def add(options: argparse.Namespace) -> None:
    """Make a dataset of a table, or show how a dataset would change.

    Raises:
        PipelineError: the table, the name or the project does not allow it.
    """
    given = _given(options.words, {"CSV", "TARGET", "NAME", "TASK"})
    for needed in ("CSV", "TARGET"):
        if not given.get(needed):
            raise PipelineError(f"Name the {needed}: make dataset CSV=path/to/table.csv TARGET=column")
    task = given.get("TASK")
    if task and task not in list(Task):
        raise PipelineError(f"TASK is {' or '.join(Task)}, not {task!r}.")
    path = Path(given["CSV"])
    name = given.get("NAME") or names.dataset_name(path.name.partition(".")[0])
    plan = project.plan(path, given["TARGET"], name, Task(task) if task else None)
    _say(_description(path, plan))
    if plan.is_new or options.yes:
        project.write(plan.files)
        _say(_written(plan))
        return
    if not plan.changes:
        _say([f"{name} is a dataset already, of this table: there is nothing to write."])
        return
    for file, (before, after) in plan.changes.items():
        _say(_difference(file, before, after))
    _say(["", f"{name} is a dataset already. Nothing is written: YES=1 (--yes) writes these changes."])


def remove(options: argparse.Namespace) -> None:
    """Take a dataset out.

    Raises:
        PipelineError: there is no such dataset, or other code needs it.
    """
    name = _given(options.words, {"NAME"}).get("NAME")
    if not name:
        raise PipelineError("Name the dataset: make dataset-remove NAME=…")
    gone = project.remove(name)
    _say([f"{name} is taken out:", *(f"  {path}" for path in gone), ""])
    _say(["Its versions stay in MLflow and in the BentoML store, and its predictions in the ledger. Now: make train"])


def _given(words: Sequence[str], known: set[str]) -> dict[str, str]:
    """What the words ``KEY=value`` say."""
    found = dict(word.partition("=")[::2] for word in words)
    if unknown := sorted(found.keys() - known):
        raise PipelineError(f"There is no {unknown[0]}; there is {', '.join(sorted(known))}.")
    return {key: value for key, value in found.items() if value}


def _say(lines: Sequence[str]) -> None:
    sys.stdout.write("\n".join(lines) + "\n")


def _description(path: Path, plan: "project.Plan") -> list[str]:
    """What was found, what is left out, what was assumed."""
    found = plan.found
    target, rows = found.target, len(found.target_cells)
    counts = Counter(found.target_cells)
    told = (
        ", ".join(f"{each} {counts[each]:,}" for each in target.classes)
        if target.classes
        else f"{target.minimum:g} to {target.maximum:g} {target.unit}"
    )
    lines = [
        f"{plan.name}: {rows:,} rows of {path.name}, {len(found.columns)} features.",
        f"Target: {target.name}, {found.task} ({told}).",
        "",
        *_columns(found.columns, rows),
    ]
    if found.left_out:
        lines += ["", "Left out:", *(f"  {name}: {reason}." for name, reason in found.left_out.items())]
    if found.notes:
        lines += ["", "Assumed:", *(f"  {note}" for note in found.notes)]
    return [*lines, "", "Check:", *(f"  {each}" for each in _to_check(plan))]


def _columns(columns: Sequence[Column], rows: int) -> list[str]:
    """A table of the features."""
    lines = [("feature", "kind", "missing", "range or categories")]
    for column in columns:
        feature = column.feature
        missing = column.cells.count("")
        if feature.kind is Kind.CATEGORY:
            listed = ", ".join(each[:SHOWN_CHARACTERS] for each in feature.vocabulary[:SHOWN_CATEGORIES])
            more = len(feature.vocabulary) - SHOWN_CATEGORIES
            values = f"{listed}{f' and {more} more' if more > 0 else ''}"
            values += "; others are taken" if feature.unknown is Unknown.OTHER else ""
        else:
            values = "true, false" if feature.kind is Kind.BOOLEAN else feature.range
        lines.append((feature.name, feature.kind.value, f"{missing / rows:.1%}" if missing else "", values))
    widths = [max(len(line[part]) for line in lines) for part in range(3)]
    return [
        "  ".join(["", *(text.ljust(width) for text, width in zip(line, widths, strict=False)), line[-1]])
        for line in lines
    ]


def _to_check(plan: "project.Plan") -> list[str]:
    found = plan.found
    without_unit = [each.feature.name for each in found.columns if each.feature.unit == names.UNKNOWN_UNIT]
    if found.target.unit == names.UNKNOWN_UNIT:
        without_unit.append(found.target.name)
    lines = list(found.warnings)
    if without_unit:
        lines.append(
            f"Units are not known of {', '.join(without_unit)}: write them in {plan.module} before the first training. "
            "A trained model depends on them."
        )
    lines.append(f"Ranges have room, but are guessed: {plan.module} says what a request may hold.")
    if any(each.feature.optional for each in found.columns):
        lines.append(
            f"A feature that has missing values may be missing in requests: null, or left out ({MISSING} in logs)."
        )
    lines.append("Is each feature known before the target is? What is known only afterwards must not be a feature.")
    return lines


def _written(plan: "project.Plan") -> list[str]:
    return ["", "Written:", *(f"  {path}" for path in plan.files), "", "Next: make train serve, then make test"]


def _difference(file: Path, before: str, after: str) -> list[str]:
    old, new = before.splitlines(), after.splitlines()
    if file.suffix == ".csv":
        changed = len(set(new) - set(old))
        return ["", f"{file}: {len(old) - 1:,} rows become {len(new) - 1:,}, {changed:,} of which are new or changed."]
    return ["", *difflib.unified_diff(old, new, str(file), str(file), lineterm="", n=1)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m training.new_dataset",
        description="Make a dataset of a table, or take one out: docs/how-to/own-table.md.",
    )
    parser.add_argument(
        "words", nargs="*", metavar="KEY=value", help="CSV, TARGET, NAME, TASK (regression, classification)"
    )
    parser.add_argument("--yes", action="store_true", help="write the changes of a dataset that is there already")
    parser.add_argument("--remove", action="store_true", help="take the dataset NAME out")
    options = parser.parse_args(arguments)
    return console.run(functools.partial(remove if options.remove else add, options))


if __name__ == "__main__":
    sys.exit(main())
