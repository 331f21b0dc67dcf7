"""The tables of a result: of a whole run for its reader, of the published one for the documentation."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from load_tests.benchmark.plan import WORKERS
from load_tests.benchmark.result import NOT_MEASURED, Demand, Machine, Result, SizeFigures, ratio
from local_service import PROJECT

PUBLISHED = Path(__file__).with_name("results") / "benchmark.json"
"""The result that README.md, docs/explanation/benchmark.md and docs/capacity.md show."""
README = PROJECT / "README.md"
PAGE = PROJECT / "docs" / "explanation" / "benchmark.md"
COMPARED = {"fastapi": "FastAPI with scikit-learn", "mlserver": "MLServer", "bentoml": "BentoML's own batching"}
"""The lines that the README compares this service with, and its names for them."""
NONE = "–"
BUSY_CORES = 0.15
"""Cores that other processes may use before the report calls the machine busy."""


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, words: bool = False) -> str:
    """A Markdown table below its title; figures are aligned to the right. Empty without rows."""
    rule = ["---" if index == 0 or words else "---:" for index in range(len(columns))]
    lines = ["| " + " | ".join(row) + " |" for row in (columns, rule, *rows)]
    return "\n".join(([f"**{title}**", ""] if title else []) + lines) + "\n" if len(lines) > 2 else ""


def replace_section(text: str, name: str, content: str) -> str:
    """A page with new content between its lines ``<!-- name: begin -->`` and ``<!-- name: end -->``.

    Raises:
        ValueError: the page lacks the lines.
    """
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
    before, found, rest = text.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found or not found_end:
        raise ValueError(f"The page needs the lines {begin.strip()} and {end}.")
    return f"{before}{begin}{content.rstrip()}\n{end}{after}"


def markdown(result: Result) -> str:
    """The whole report."""
    machine = result.machine
    head = f"{result.day}, commit {result.revision}, {result.model}, {WORKERS} workers. {quietness(machine)}\n"
    by_connections, by_rows = _by_size(result, rows=False), _by_size(result, rows=True)
    started = [
        (one.title, _number(one.ready_seconds, 1), _number(one.memory_mb), _number(one.worker_mb))
        for one in result.servers
        if one.ready_seconds is not None
    ]
    compared = [
        (one.title, one.model, one.requests, one.settings, ", ".join(f"{k} {v}" for k, v in one.versions.items()))
        for one in result.servers
    ]
    verdicts: Mapping[bool | None, str] = {True: "met", False: "MISSED", None: NOT_MEASURED}
    targets = [(one.subject, _demand(one), _text(one, one.measured), verdicts[one.met]) for one in result.targets]
    parts = [
        head,
        table("One row a request, 64 connections", *_speed(result)),
        table("p50 ms / p99 ms / requests/s by connections", *by_connections),
        table("Rows/s by rows a request", *by_rows),
        f"onnxruntime called directly, {WORKERS} processes: {_number(result.direct_rows_per_second)} rows/s\n",
        table("Start and memory", ("", "start to first answer, s", "memory, MB", "a worker, MB"), started),
        table("Targets", ("", "demand", "measured", ""), targets, words=True),
        table("What was compared", ("", "model", "requests", "settings", "versions"), compared, words=True),
        *(f"{failure.subject} failed: {failure.reason}\n" for failure in result.failures),
    ]
    return "\n".join(part for part in parts if part)


def headline(result: Result) -> str:
    """The one line of the README."""
    speed = result.figures("ours").requests_per_second
    factors = {name: ratio(speed, result.figures(key).requests_per_second) for key, name in COMPARED.items()}
    told = [f"{factor:.1f} times as many as {name}" for name, factor in factors.items() if factor is not None]
    return (
        f"{_number(speed)} one-row requests a second on {result.machine.cores} cores: {', '.join(told)} in the "
        "same run ([Benchmark](docs/explanation/benchmark.md))."
    )


def page(result: Result) -> str:
    """The part of the page about the benchmark that shows the published result."""
    met = sum(bool(target.met) for target in result.targets)
    missed = [f"{one.subject}: {_text(one, one.measured)} ({_demand(one)})" for one in result.targets if not one.met]
    figures = "; ".join(f"{one.subject} {_text(one, one.measured)}" for one in result.targets if one.met)
    machine = result.machine
    return "\n".join(
        [
            table("", *_speed(result)),
            f"One row a request, 64 connections; medians of {result.rounds} rounds, spread: half of lowest to highest. "
            f"{machine.cpu}, {machine.cores} cores, Python {machine.python}, {result.day}. {quietness(machine)} "
            f"{result.note}".rstrip(),
            "",
            f"{met} of {len(result.targets)} targets are met: {figures}.",
            *([f"\nMissed: {'; '.join(missed)}."] if missed else []),
        ]
    )


def quietness(machine: Machine) -> str:
    """How much of the machine the benchmark did not have."""
    busy = " The machine was busy: run it again when it is quiet." if machine.others_cores > BUSY_CORES else ""
    return f"Other processes kept {machine.others_cores:.2f} of {machine.cores} cores busy.{busy}"


def _text(target: Demand, value: float | None) -> str:
    return NONE if value is None else f"{value:.3g} {target.unit}"


def _demand(target: Demand) -> str:
    return f"{target.bound} {_text(target, target.limit)}"


def _speed(result: Result) -> tuple[Sequence[str], list[Sequence[str]]]:
    columns = ("", "requests/s", "spread", "this service is", "CPU ms a request", "p50 ms", "p99 ms", "longest ms")
    reference = result.figures("ours").requests_per_second
    rows: list[Sequence[str]] = []
    for line in result.lines:
        found = result.figures(line.key)
        if found.problem == NOT_MEASURED:
            continue
        if found.requests_per_second is None:
            rows.append((line.title, f"invalid: {found.problem}", *[NONE] * 6))
            continue
        factor = ratio(reference, found.requests_per_second)
        rows.append(
            (
                line.title,
                _number(found.requests_per_second),
                NONE if found.spread is None else f"± {found.spread:.0%}",
                NONE if factor is None else f"{factor:.1f} ×",
                _number(found.cpu_ms, 3),
                _number(found.p50_ms, 1),
                _number(found.p99_ms, 1),
                _number(found.max_ms),
            )
        )
    return columns, rows


def _by_size(result: Result, *, rows: bool) -> tuple[Sequence[str], list[Sequence[str]]]:
    """Columns and rows of a table by rows a request, or by connections."""
    size: Callable[[SizeFigures], int] = (lambda one: one.rows) if rows else (lambda one: one.connections)
    wanted = {
        line.title: {size(one): one for one in line.figures if rows == (one.rows > 1)}
        for line in result.lines
        if len(line.figures) > 1
    }
    sizes = sorted({size for cells in wanted.values() for size in cells})
    cell = _rows_cell if rows else _connections_cell
    unit = "rows a request" if rows else "connections"
    return (
        ("", *(f"{size:,} {unit}" for size in sizes)),
        [(title, *(cell(found.get(size)) for size in sizes)) for title, found in wanted.items() if found],
    )


def _rows_cell(found: SizeFigures | None) -> str:
    if found is None or found.problem:
        return NONE if found is None else f"invalid: {found.problem}"
    return NONE if found.requests_per_second is None else f"{found.requests_per_second * found.rows:,.0f}"


def _connections_cell(found: SizeFigures | None) -> str:
    if found is None or found.problem:
        return NONE if found is None else f"invalid: {found.problem}"
    return f"{_number(found.p50_ms, 1)} / {_number(found.p99_ms, 1)} / {_number(found.requests_per_second)}"


def _number(value: float | None, digits: int = 0) -> str:
    return NONE if value is None else f"{value:,.{digits}f}"
