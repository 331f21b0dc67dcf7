"""The tables of a report, as text: for the terminal, the page and the README."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from load_tests.benchmark.results import Figure, LineNote, Report

NONE = "–"
BUSY_CORES = 0.15
"""Cores that other processes may use before figures are told to be too low."""


@dataclass(frozen=True)
class TextTable:
    """A table of text; the first column names the line."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""
    words: bool = False


def tables(report: Report) -> list[TextTable]:
    """Speed, latency, rows, footprint, and what was compared."""
    return [_speed(report), _latency(report), _rows(report), _footprint(report), _compared(report)]


def title_of(report: Report, line: LineNote) -> str:
    """Server and line, as in "MLServer · REST"; the server alone where it has one line."""
    server = next(server for server in report.servers if server.key == line.server)
    alone = sum(one.server == line.server for one in report.lines) == 1
    return server.title if alone else f"{server.title} · {line.title}"


def markdown(table: TextTable) -> str:
    """A table as GitHub reads it, and its note."""
    rule = tuple("---" if index == 0 or table.words else "---:" for index in range(len(table.columns)))
    text = "\n".join("| " + " | ".join(row) + " |" for row in (table.columns, rule, *table.rows)) + "\n"
    return text + (f"\n{table.note}\n" if table.note else "")


def quietness(report: Report) -> str:
    """How much of the machine the benchmark did not have: figures of a busy machine are too low."""
    others = report.others_cores()
    busy = " The machine was busy: run it again when it is quiet." if others > BUSY_CORES else ""
    return f"Other processes kept {others:.2f} of {report.machine.cores} cores busy.{busy}"


def _speed(report: Report) -> TextTable:
    reference = report.requests_per_second("ours")
    rows = []
    for line in _measured(report):
        speed = report.requests_per_second(line.key)
        if speed is None:
            reason = report.problem(line.key, 64) or "not measured"
            rows.append((title_of(report, line), f"invalid: {reason}", *[NONE] * 6))
            continue
        rows.append(
            (
                title_of(report, line),
                f"{speed.median:,.0f}",
                f"± {speed.spread:.0%}",
                f"{reference.median / speed.median:.1f} ×" if reference else NONE,
                _text(report.cpu_ms(line.key), 3),
                _text(report.latency(line.key, "p50_ms"), 1),
                _text(report.latency(line.key, "p99_ms"), 1),
                _text(report.latency(line.key, "max_ms"), 0),
            )
        )
    columns = ("", "requests/s", "spread", "this service is", "CPU ms a request", "p50 ms", "p99 ms", "longest ms")
    rounds = len({sample.round for sample in report.samples})
    note = f"One row a request, 64 connections; medians of {rounds} rounds, spread: half of lowest to highest."
    return TextTable("One row a request, 64 connections", columns, rows, f"{note} {quietness(report)}")


def _latency(report: Report) -> TextTable:
    rows = []
    for line in _measured(report):
        cells = []
        for count in report.connections:
            p50, p99 = (report.latency(line.key, which, count) for which in ("p50_ms", "p99_ms"))
            speed = report.requests_per_second(line.key, count)
            if p50 is None or p99 is None or speed is None:
                cells.append("invalid" if report.taken(line.key, count) else NONE)
            else:
                cells.append(f"{_ms(p50.median)} / {_ms(p99.median)} / {speed.median:,.0f}")
        rows.append((title_of(report, line), *cells))
    columns = ("", *(f"{count} connection{'s' * (count > 1)}" for count in report.connections))
    return TextTable("p50 ms / p99 ms / requests/s by connections", columns, rows)


def _rows(report: Report) -> TextTable:
    rows = []
    for line in report.lines:
        speeds = [report.rows_per_second(line.key, count) for count in report.rows]
        taken = [report.taken(line.key, report.rows_connections, count) for count in report.rows]
        if not any(one for one, count in zip(taken, report.rows, strict=True) if count > 1):
            continue
        cells = [
            f"{speed.median:,.0f}" if speed else ("invalid" if samples else NONE)
            for speed, samples in zip(speeds, taken, strict=True)
        ]
        rows.append((title_of(report, line), *cells))
    direct = report.direct_rows_per_second()
    if direct is not None:
        empty = [NONE] * (len(report.rows) - 1)
        rows.append((f"onnxruntime called directly, {report.workers} processes", *empty, f"{direct.median:,.0f}"))
    columns = ("", *(f"{count:,} row{'s' * (count > 1)} a request" for count in report.rows))
    problems = [
        f"{title_of(report, line)}, {count:,} rows: {report.problem(line.key, report.rows_connections, count)}."
        for line in report.lines
        for count in report.rows
        if report.taken(line.key, report.rows_connections, count)
        and report.problem(line.key, report.rows_connections, count)
    ]
    note = "Invalid: " + " ".join(problems) if problems else ""
    return TextTable(f"Rows/s by rows a request, {report.rows_connections} connections", columns, rows, note)


def _footprint(report: Report) -> TextTable:
    rows = []
    for server in report.servers:
        ready = report.ready_seconds(server.key)
        memory, worker = report.peak_memory(server.key), report.worker_memory(server.key)
        if ready is None or not memory:
            continue
        rows.append((server.title, _text(ready, 1), f"{memory / 1e6:,.0f}", f"{worker / 1e6:,.0f}"))
    return TextTable(
        "Start and memory",
        ("", "start to first answer, s", "memory, MB", "a worker, MB"),
        rows,
        "Memory is the largest PSS of the process tree that was seen after a measure; a worker: of a worker process.",
    )


def _compared(report: Report) -> TextTable:
    rows = [
        (
            server.title,
            server.model,
            "; ".join(dict.fromkeys(line.protocol for line in report.lines if line.server == server.key)),
            server.settings,
            ", ".join(f"{name} {version}" for name, version in server.versions.items()),
        )
        for server in report.servers
    ]
    return TextTable("What was compared", ("", "model", "requests", "settings", "versions"), rows, words=True)


def _measured(report: Report) -> Iterable[LineNote]:
    """The lines that were asked for one row over 64 connections."""
    return (line for line in report.lines if report.taken(line.key, 64))


def _text(figure: Figure | None, digits: int) -> str:
    return NONE if figure is None else f"{figure.median:,.{digits}f}"


def _ms(value: float) -> str:
    return f"{value:.2g}" if value < 10 else f"{value:,.0f}"
