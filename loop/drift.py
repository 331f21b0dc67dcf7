"""Search for drift: ``python -m loop.drift``.

Compares recent predictions of the ledger with the training rows of the deployed model (``model.drift``), prints a
table, writes ``reports/drift/report.html`` and ``reports/drift/{model}.json``, and puts the result into the ledger,
from which the service publishes it as metrics. Exit status: 0; with ``--fail``, 3 if there is drift; 1 for an error.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import Engine
from sqlalchemy.exc import InterfaceError, OperationalError

from contract import DATASETS
from contract.dataset import Dataset
from ledger import drift as record
from ledger import windows
from ledger.reader import Reader
from ledger.times import now_us
from loop import drift_report
from loop.deployed import connect_ledger, deployed_model
from loop.drift_report import Search
from loop.errors import LoopError
from model.drift import Change, Detector, Drift, Method, Requests, Verdict
from model.reference import Reference
from training import console
from training.files import write_text

REPORTS = Path("reports/drift")
DEFAULT_HOURS = 24.0
DRIFT_STATUS = 3
"""Exit status with ``--fail``, if there is drift."""
_HOUR_US = 3600 * 1_000_000


def search(dataset: Dataset, engine: Engine, *, hours: float | None = None, rows: int | None = None) -> Search | None:
    """Compare recent predictions of the deployed model with its training rows, and put the result on record.

    Args:
        dataset: of the model.
        engine: of the ledger's database.
        hours: predictions of the last so many hours.
        rows: instead of that, so many of the newest rows.

    Returns:
        None if the deployed version has not predicted yet.

    Raises:
        LoopError: there is no deployed model.
        ArtifactError: it is damaged.
        sqlalchemy.exc.DBAPIError: the database is away.
    """
    version, artifact = deployed_model(dataset)
    detector = Detector(artifact.card, Reference.read(artifact.directory, artifact.card))
    reader, now = Reader(engine), now_us()
    if rows is not None:
        window = windows.newest(reader, dataset.name, version, rows, until_us=now)
    else:
        since = now - int((hours or DEFAULT_HOURS) * _HOUR_US)
        window = windows.last_hours(reader, dataset.name, version, since_us=max(since, 0), until_us=now)
    if window is None:
        return None
    drift = detector.detect_window(
        version, window.time_us, window.features, window.outputs, Requests(window.requests, window.refused)
    )
    record.write(engine, window, drift.verdict, drift.model_dump_json(), time_us=now)
    return Search(dataset, detector.reference, window, drift)


def table(drift: Drift) -> str:
    """The changes as text, worst first."""
    head = ("", "drift", "effect", "PSI", "shift", "p (Holm)", "recent", "training", "rows", "since")
    lines = [head, *(_line(change) for change in drift.changes)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column in {0, len(head) - 1} else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _line(change: Change) -> tuple[str, ...]:
    def number(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    form = ".2%" if change.test is Method.BINOMIAL else ".4g"
    return (
        change.name,
        "yes" if change.drift else "no",
        f"{change.effect:.2f}",
        number(change.psi, ".3f"),
        number(change.shift, "+.2f"),
        f"{change.adjusted_p_value:.2g}",
        number(change.recent, form),
        number(change.reference, form),
        f"{change.rows:,}",
        change.since or "",
    )


def summary(found: Search) -> str:
    """One sentence."""
    drift = found.drift
    where = f"{drift.model} {drift.version}"
    if drift.verdict is Verdict.TOO_FEW_ROWS:
        return f"{where}: too few rows to say: {drift.rows:,}, and {drift.minimum_rows} are needed."
    rows = f"{drift.rows:,} rows from {drift.since} to {drift.until} against {drift.reference_rows:,} training rows"
    if drift.verdict is Verdict.NO_DRIFT:
        return f"{where}: no drift, {rows}."
    names = ", ".join(change.name for change in drift.drifted)
    return f"{where}: DRIFT of {names}; {rows}."


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    Raises:
        LoopError: nothing can be compared, or the database does not answer.
        SystemExit: with ``--fail``, if there is drift.
    """
    options = _parser().parse_args(arguments)
    try:
        found = _search_all(options.model or list(DATASETS), options.hours, options.rows)
    except (OperationalError, InterfaceError) as error:
        raise LoopError(f"The ledger's database does not answer: {error.orig}. Check DATABASE_URL.") from error
    if not found:
        raise LoopError("There is nothing to compare: send predictions to the service first.")
    with console.step("Draw the report"):
        drift_report.write(found, REPORTS / "report.html")
    for one in found:
        print(f"\n{summary(one)}")  # noqa: T201 - what the command is for
        if one.drift.changes:
            print(table(one.drift))  # noqa: T201
    print(f"\nReport: {REPORTS / 'report.html'}")  # noqa: T201
    if options.fail and any(one.drift.verdict is Verdict.DRIFT for one in found):
        sys.exit(DRIFT_STATUS)


def _search_all(names: Sequence[str], hours: float | None, rows: int | None) -> list[Search]:
    engine = connect_ledger()
    found = []
    for name in names:
        with console.step(f"{name}: compare recent predictions with training"):
            one = search(DATASETS[name], engine, hours=hours, rows=rows)
        if one is None:
            console.log.warning("%s: the deployed version has not predicted yet.", name)
            continue
        found.append(one)
        write_text(REPORTS / f"{name}.json", one.drift.model_dump_json(indent=2) + "\n")
    engine.dispose()
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loop.drift",
        description="Compare recent predictions with training. The database is that of DATABASE_URL, or in STATE_DIR.",
        epilog=f"Exit status: 0; with --fail, {DRIFT_STATUS} if there is drift; 1 for an error.",
    )
    parser.add_argument("--model", action="append", choices=list(DATASETS), help="this model; default: all")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--hours", type=hours_of, default=None, help=f"predictions of the last so many hours ({DEFAULT_HOURS:g})"
    )
    which.add_argument("--rows", type=_rows, help=f"so many of the newest rows, at most {windows.MAXIMUM_ROWS:,}")
    parser.add_argument("--fail", action="store_true", help=f"exit with {DRIFT_STATUS} if there is drift")
    return parser


def hours_of(text: str) -> float:
    """An argument in hours.

    Raises:
        ArgumentTypeError: it is out of range.
    """
    hours = float(text)
    if not 0 < hours <= 36_500 * 24:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return hours


def _rows(text: str) -> int:
    rows = int(text)
    if not 1 <= rows <= windows.MAXIMUM_ROWS:
        raise argparse.ArgumentTypeError(f"{text} is not between 1 and {windows.MAXIMUM_ROWS}")
    return rows


if __name__ == "__main__":
    sys.exit(console.run(main))
