"""Feedback from a CSV file."""

import csv
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from sqlalchemy import Engine, select

from ledger import feedback
from ledger.errors import LedgerError
from ledger.feedback import Outcome, Truth, canonical_id
from ledger.schema import MODELS, PREDICTIONS

LINES = 5000
"""Lines that are read and written in one transaction."""
REASON = "reason"
"""The extra column in the file of rejected lines."""


@dataclass(frozen=True)
class Columns:
    """Which columns a file has.

    Args:
        actual: what came true.
        prediction_id: the prediction; "" if it is found by its request.
        request_id: what was sent as the request's ``X-Request-ID``; "" if it is found by its id.
        row: the index of the row in a batch; "" for 0 always.
    """

    actual: str
    prediction_id: str = "prediction_id"
    request_id: str = ""
    row: str = ""


@dataclass
class _Line:
    """A line, and what was found in it: several predictions, if several have its request id; or why it is rejected."""

    cells: Mapping[str, str]
    truths: list[Truth] = field(default_factory=list)
    reason: str = ""


def give_file(
    engine: Engine, path: Path, columns: Columns, model: str | None, progress: Callable[[int], None] = lambda _: None
) -> Counter[str]:
    """Keep what came true, by a file of any length.

    Rejected lines are written beside it, with their reason; the file is ``rejected_path(path)``. If the database goes
    away in the middle, run it again: what was taken is unchanged then.

    Args:
        engine: of the ledger's database.
        path: a CSV file with a header, in UTF-8.
        columns: its columns.
        model: only predictions of this model have the request ids.
        progress: is told how many lines are done.

    Returns:
        How many lines were ``taken``, ``replaced``, ``unchanged``, ``waiting``, ``refused``.

    Raises:
        LedgerError: the file has no such columns, or is not UTF-8.
        sqlalchemy.exc.DBAPIError: the database is away.
    """
    rejected = rejected_path(path)
    rejected.unlink(missing_ok=True)
    counts: Counter[str] = Counter()
    with path.open(newline="", encoding="utf-8-sig") as opened, ExitStack() as stack:
        reader = csv.DictReader(opened)
        names = _header(reader, path, columns)
        writer: csv.DictWriter[str] | None = None
        lines = _lines(reader, path)
        while chunk := list(islice(lines, LINES)):
            _find(engine, chunk, columns, model)
            counts.update(_give(engine, chunk))
            for line in chunk:
                if line.reason:
                    if writer is None:
                        target = stack.enter_context(rejected.open("w", newline="", encoding="utf-8"))
                        writer = csv.DictWriter(target, [*names, REASON], extrasaction="ignore")
                        writer.writeheader()
                    writer.writerow({**line.cells, REASON: line.reason})
            progress(counts.total())
    return counts


def rejected_path(path: Path) -> Path:
    """Where the rejected lines of a file are written."""
    return path.with_suffix(".rejected.csv")


def _header(reader: "csv.DictReader[str]", path: Path, columns: Columns) -> Sequence[str]:
    try:
        names = reader.fieldnames or ()
    except UnicodeDecodeError:
        raise _not_text(path) from None
    for name in filter(None, (columns.prediction_id, columns.request_id, columns.row, columns.actual)):
        if name not in names:
            raise LedgerError(f"{path} has no column {name!r}: it has {', '.join(names) or 'no header'}.")
    return names


def _lines(reader: "csv.DictReader[str]", path: Path) -> Iterator[_Line]:
    try:
        for cells in reader:
            given = {name: (text or "").strip() for name, text in cells.items() if isinstance(name, str)}
            # The cells beyond the header are under None.
            yield _Line(given, reason="the line has more cells than the header" if None in cells else "")
    except UnicodeDecodeError:
        raise _not_text(path) from None
    except csv.Error as error:
        raise LedgerError(f"{path}, line {reader.line_num}: {error}.") from None


def _not_text(path: Path) -> LedgerError:
    return LedgerError(f"{path} is not UTF-8: write it in this encoding.")


def _find(engine: Engine, lines: Sequence[_Line], columns: Columns, model: str | None) -> None:
    """Find the prediction of each line."""
    good = [line for line in lines if not line.reason]
    by_request = (
        _by_request(engine, {line.cells[columns.request_id] for line in good}, model) if columns.request_id else {}
    )
    for line in good:
        try:
            row = _row_index(line.cells[columns.row]) if columns.row else 0
            if columns.request_id:
                ids = _of_request(by_request, line.cells[columns.request_id])
            else:
                ids = [_canonical(columns.prediction_id, line.cells[columns.prediction_id])]
        except ValueError as error:
            line.reason = str(error)
        else:
            line.truths = [Truth(one, row, line.cells[columns.actual]) for one in ids]


def _by_request(engine: Engine, request_ids: set[str], model: str | None) -> Mapping[str, list[tuple[str, str]]]:
    """Model and id of the predictions that have these request ids."""
    query = select(PREDICTIONS.c.request_id, MODELS.c.model, PREDICTIONS.c.id).join_from(
        PREDICTIONS, MODELS, MODELS.c.id == PREDICTIONS.c.model_id
    )
    if model is not None:
        query = query.where(MODELS.c.model == model)
    found: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    wanted = sorted(request_ids)
    with engine.connect() as connection:
        for start in range(0, len(wanted), 500):
            for request_id, name, identifier in connection.execute(
                query.where(PREDICTIONS.c.request_id.in_(wanted[start : start + 500]))
            ):
                found[request_id].append((name, identifier))
    return found


def _of_request(by_request: Mapping[str, Sequence[tuple[str, str]]], request_id: str) -> list[str]:
    """The predictions of a request: a client that retried has two, with the same truth."""
    found = by_request.get(request_id, ())
    if not found:
        raise ValueError(f"no prediction on record has the request id {request_id[:128]!r}")
    models = sorted({name for name, _ in found})
    if len(models) > 1:
        raise ValueError(f"the request id {request_id!r} is of {' and '.join(models)}: choose one by --model")
    return [identifier for _, identifier in found]


def _canonical(column: str, written: str) -> str:
    try:
        return canonical_id(written)
    except ValueError as error:
        raise ValueError(f"{column}: {written[:60]!r} {error}") from None


def _row_index(written: str) -> int:
    """A row's index; a table that has gaps elsewhere writes it as "3.0"."""
    digits = written.removesuffix(".0")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 9):
        raise ValueError(f"row: {written[:60]!r} is no index of a row")
    return int(digits)


def _give(engine: Engine, lines: Sequence[_Line]) -> list[str]:
    """Keep what was found; what became of each line."""
    pairs = [(line, truth) for line in lines for truth in line.truths]
    answer = feedback.give(engine, [truth for _, truth in pairs], written=True)
    outcomes: dict[int, Outcome] = {}
    for position, ((line, _), outcome) in enumerate(zip(pairs, answer.outcomes, strict=True)):
        # Of several predictions of a line, the last outcome counts; a refusal counts before all others.
        if outcomes.get(id(line)) is not Outcome.REFUSED:
            outcomes[id(line)] = outcome
        if position in answer.problems:
            name, message = answer.problems[position]
            line.reason = f"{name}: {message}"
    return [outcomes.get(id(line), Outcome.REFUSED).value for line in lines]
