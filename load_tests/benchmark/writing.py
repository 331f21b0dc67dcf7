"""A run as files: raw JSON, a page, a chart, a table for the README."""

import base64
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import jinja2

from load_tests.benchmark import charts, targets
from load_tests.benchmark import machine as machines
from load_tests.benchmark.measure import Run
from load_tests.benchmark.plan import Plan
from load_tests.benchmark.results import Failure, LineNote, Machine, Report, ServerNote
from load_tests.benchmark.servers import WORKERS, Server
from load_tests.benchmark.tables import markdown, quietness, tables


def report(
    run: Run,
    plan: Plan,
    servers: Sequence[Server],
    commands: Mapping[str, Path],
    *,
    failures: Sequence[Failure],
    machine: Machine,
    model: str,
    started: float,
) -> Report:
    """What a run measured, with all that a reader must know of it. ``started`` is in seconds since the epoch."""
    return Report(
        started_at=datetime.fromtimestamp(started, UTC),
        seconds=time.time() - started,
        revision=machines.revision(),
        model=model,
        machine=machine,
        workers=WORKERS,
        connections=plan.connections,
        rows=plan.rows,
        rows_connections=plan.rows_connections,
        servers=[
            ServerNote(
                key=server.key,
                title=server.title,
                model=server.model,
                settings=server.settings,
                floor=server.floor,
                versions=machines.versions(commands[server.environment_name]),
            )
            for server in servers
        ],
        lines=[
            LineNote(key=line.key, server=server.key, title=line.title, protocol=line.protocol.name, grpc=line.grpc)
            for server in servers
            for line in server.lines
        ],
        samples=run.samples,
        starts=run.starts,
        direct=run.direct,
        failures=[*failures, *run.failures],
    )


def write(report: Report, folder: Path) -> list[Path]:
    """Write ``benchmark.json``, ``.md``, ``.png`` and ``.html`` into a folder; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    raw = folder / "benchmark.json"
    raw.write_text(report.model_dump_json(indent=1))
    text = folder / "benchmark.md"
    text.write_text("\n".join(f"**{table.title}**\n\n{markdown(table)}" for table in tables(report)))
    chart = folder / "benchmark.png"
    charts.draw(report, chart)
    page = folder / "benchmark.html"
    page.write_text(_page(report, chart))
    return [page, chart, text, raw]


def _page(report: Report, chart: Path) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("page.html.j2").render(
        report=report,
        quietness=quietness(report),
        targets=targets.evaluate(report),
        tables=tables(report),
        chart=base64.b64encode(chart.read_bytes()).decode(),
        ours=next((server.title for server in report.servers if server.key == "ours"), "–"),
    )
