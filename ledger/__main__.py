"""The ledger's commands: ``python -m ledger --help``. ``DATABASE_URL`` and ``STATE_DIR`` are those of the service."""

import os
import re
import sqlite3
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

import click
import psycopg
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from contract.errors import BundleError
from ledger import database, spool
from ledger.errors import LedgerError
from ledger.export import export as export_rows
from ledger.feedback import Outcome
from ledger.feedback_file import Columns, give_file, rejected_path
from ledger.reader import QUANTILES, Reader
from ledger.store import Store
from ledger.times import from_iso, iso, now_us

PROJECT = Path(__file__).resolve().parent.parent
UNITS = {"m": 60, "h": 3600, "d": 86_400}
"""Seconds in each unit of a duration."""
DRAIN_SECONDS = 10.0
"""Seconds that ``check`` waits for recent predictions to reach the database."""


class Commands(click.Group):
    """Commands whose errors are a sentence, and an exit status of 1."""

    def invoke(self, context: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(context)
        except DBAPIError as error:
            reason = str(error.orig or error).strip().partition("\n")[0]
            raise click.ClickException(f"The ledger's database does not answer as it should: {reason}") from error
        except (BundleError, sqlite3.Error, psycopg.Error, OSError) as error:
            raise click.ClickException(str(error)) from error


class Moment(click.ParamType[int]):
    """A time in microseconds since 1970, written as ISO 8601 or as a duration before now."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The time of ``2026-11-27``, ``2026-11-27T08:00``, or ``90m``, ``24h``, ``7d`` ago."""
        duration = re.fullmatch(r"(\d+)([mhd])", value)
        if duration:
            return now_us() - int(duration[1]) * UNITS[duration[2]] * 1_000_000
        try:
            return from_iso(value)
        except ValueError:
            self.fail(
                f"{value!r} is neither a time, such as 2026-11-27T08:00, nor a duration, such as 24h.", param, ctx
            )


def state_directory() -> Path:
    """Where the service keeps its spool and its SQLite file."""
    return Path(os.environ.get("STATE_DIR") or PROJECT / "state").resolve()


def open_database() -> Engine:
    """The engine of the service's database, until the command ends.

    Raises:
        LedgerError: there is none, or it is of another version than this code.
    """
    engine = database.connect(os.environ.get("DATABASE_URL") or database.default_url(state_directory()))
    click.get_current_context().call_on_close(engine.dispose)
    database.check(engine)
    return engine


model_option = click.option("--model", help="Of this model.")
version_option = click.option("--version", help="Of this version of the model.")
since_option = click.option("--since", type=Moment(), help="From then on: 2026-11-27T08:00 (UTC), or 24h ago.")
until_option = click.option("--until", type=Moment(), help="Before then.")


@click.group(cls=Commands)
def cli() -> None:
    """Read and tend the ledger: what was predicted, and what came true.

    DATABASE_URL and STATE_DIR say where it is, as they do for the service.
    """


@cli.command()
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
@model_option
@version_option
@since_option
@until_option
@click.option("--labelled", is_flag=True, help="Only predictions with at least one row whose true value is known.")
def export(
    out: Path, model: str | None, version: str | None, since: int | None, until: int | None, *, labelled: bool
) -> None:
    """Write the rows of a model to OUT, a .parquet or a .csv file.

    Each line is a row: its features, the prediction, the probabilities of the classes, and what came true.
    """
    reader = Reader(open_database())
    models = reader.models(model, version)
    names = sorted({one.model for one in models})
    if not names:
        raise LedgerError(f"The ledger has no predictions{f' of {model}' if model else ''}: nothing was written.")
    if len(names) > 1:
        raise LedgerError(f"A file has the rows of one model: choose one by --model ({', '.join(names)}).")
    chunks = reader.rows_for(names[0], version, since_us=since, until_us=until, labelled=labelled)
    click.echo(f"{out}: {export_rows(out, models, chunks):,} rows")


@cli.command()
@model_option
@version_option
@since_option
@until_option
def stats(model: str | None, version: str | None, since: int | None, until: int | None) -> None:
    """Print requests, rows, latencies and feedback by model and version, and the errors."""
    found = Reader(open_database()).stats(model=model, version=version, since_us=since, until_us=until)
    begin = iso(found.since_us) if found.since_us else "the beginning"
    click.echo(f"From {begin} to {iso(found.until_us)}")
    quantiles = [f"p{share * 100:g} ms" for share in QUANTILES]
    _print_table(
        ["model", "version", "requests", "rows", *quantiles, "with feedback"],
        [
            [
                *(one.model, one.version, f"{one.requests:,}", f"{one.rows:,}"),
                *(f"{one.latency_ms[share]:.3g}" for share in QUANTILES),
                f"{one.feedback_share:.1%}",
            ]
            for one in found.versions
        ],
    )
    if found.errors:
        click.echo()
        _print_table(
            ["model", "protocol", "status", "refused or failed"],
            [[one.model or "–", one.protocol, str(one.status), f"{one.requests:,}"] for one in found.errors],
        )


@cli.command()
@click.option("--url", help="Of a running service: compare the ledger with its ml_predictions_total.")
@click.option(
    "--key",
    envvar=["METRICS_KEY", "API_KEY"],
    help="A key that opens its /metrics, if it asks for one. Without this option: METRICS_KEY, or else API_KEY, which "
    "opens /metrics only where the service has no METRICS_KEYS.",
)
def check(url: str | None, key: str | None) -> None:
    """Verify the database's schema, the segments of the spool, and the counts of a running service."""
    engine = open_database()
    click.echo(f"database: {database.place(engine)}, its schema is that of this version")
    torn = _check_spool(Store(engine))
    missing = _check_counts(Reader(engine), url.rstrip("/"), key) if url else 0
    if torn or missing:
        raise LedgerError("The ledger is not whole, see above.")


def _check_spool(store: Store) -> int:
    """Print what waits in the spool; return how many stretches of it cannot be read."""
    directory = state_directory() / "spool"
    records = errors = torn = 0
    segments = spool.segments(directory)
    for segment in segments:
        position = store.position(segment.name)
        while True:
            try:
                part = spool.read_segment(segment, position, finished=spool.is_finished(segment))
            except FileNotFoundError:
                break  # The drainer has just taken it.
            torn += part.torn
            records += len(part.records)
            errors += len(part.errors)
            if part.position == position:
                break
            position = part.position
    click.echo(
        f"spool: {directory}, {len(segments)} segments; "
        f"{records:,} predictions and {errors:,} counts of errors wait in it"
    )
    if torn:
        click.echo(f"spool: {torn} torn or damaged stretches, which the drainer will skip")
    return torn


def _check_counts(reader: Reader, url: str, key: str | None) -> int:
    """Compare the rows that the service has counted with those recorded since its start; return the missing ones."""
    counted, since_us, lost = _counted(url, key)
    deadline = time.monotonic() + DRAIN_SECONDS
    while True:
        recorded = reader.count_rows(since_us)
        missing = {one: rows - recorded.get(one, 0) for one, rows in counted.items() if rows > recorded.get(one, 0)}
        if not missing or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    _print_table(
        ["model", "version", "counted by the service", "recorded"],
        [[*one, f"{rows:,}", f"{recorded.get(one, 0):,}"] for one, rows in sorted(counted.items())],
    )
    for one, rows in sorted(missing.items()):
        click.echo(
            f"{' '.join(one)}: {rows:,} rows were predicted, and are not in the database after {DRAIN_SECONDS:g} s"
        )
    for name, count in lost.items():
        if count:
            click.echo(f"{name}: {count:,.0f}")
    return sum(missing.values())


def _counted(url: str, key: str | None) -> tuple[dict[tuple[str, str], int], int, Mapping[str, float]]:
    """Rows by model and version that a service has predicted since its start, that start, and what it has lost."""
    request = urllib.request.Request(f"{url}/metrics", headers={"Authorization": f"Bearer {key}"} if key else {})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - the operator's own URL
            families = list(text_string_to_metric_families(answer.read().decode()))
    except (urllib.error.URLError, ValueError) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()
            if error.code in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
                raise LedgerError(
                    f"{url}/metrics asks for {'another' if key else 'a'} key: set METRICS_KEY (or --key) to one that "
                    "opens it. That is one of the service's METRICS_KEYS, or of its API_KEYS if it has no METRICS_KEYS."
                ) from error
        raise LedgerError(f"{url}/metrics does not answer: {error}. Is it the URL of the service?") from error
    samples = [sample for family in families for sample in family.samples]
    counted = {
        (sample.labels["model"], sample.labels["version"]): int(sample.value)
        for sample in samples
        if sample.name == "ml_predictions_total"
    }
    starts = [sample.value for sample in samples if sample.name == "ml_ledger_since_timestamp_seconds"]
    if not starts:
        raise LedgerError(f"{url}/metrics has no ml_ledger_since_timestamp_seconds: is its ledger on?")
    lost = ("ml_ledger_unwritten_total", "ml_ledger_dropped_segments_total", "ml_ledger_refused_records_total")
    return counted, int(starts[0] * 1e6), {sample.name: sample.value for sample in samples if sample.name in lost}


@cli.command()
@click.option("--prediction-id", "prediction_ids", multiple=True, required=True, help="May be given several times.")
def forget(prediction_ids: tuple[str, ...]) -> None:
    """Delete predictions with their features, outputs and feedback.

    One that is still in a spool is dropped when it arrives.
    """
    wrong = [one for one in prediction_ids if not re.fullmatch(r"[0-9a-f]{32}", one)]
    if wrong:
        raise LedgerError(f"--prediction-id: {wrong[0]!r} is not of 32 hexadecimal digits. Nothing was deleted.")
    forgotten = Store(open_database()).forget(prediction_ids)
    click.echo(f"{forgotten.deleted} deleted")
    for one in forgotten.unknown:
        click.echo(f"{one}: not there; it will be left out if it still comes")


@cli.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--actual", required=True, metavar="COLUMN", help="What came true.")
@click.option("--request-id", metavar="COLUMN", default="", help="Of the requests; without it prediction_id is read.")
@click.option("--row", metavar="COLUMN", default="", help="Index of the row in a batch; 0 without it.")
@click.option("--model", help="With --request-id: only predictions of this model.")
def feedback(file: Path, actual: str, request_id: str, row: str, model: str | None) -> None:
    """Keep what came true for earlier predictions, from FILE, a CSV file.

    It may be given again: known values stay, and a new value replaces the former one. Lines that do not
    fit are written beside it, with the reason.
    """
    columns = Columns(actual, "" if request_id else "prediction_id", request_id, row)
    counts = give_file(open_database(), file, columns, model, lambda lines: click.echo(f"{lines:,} lines", err=True))
    told = ", ".join(f"{counts[outcome]:,} {outcome}" for outcome in Outcome)
    click.echo(f"{file}: {told}")
    if counts[Outcome.WAITING]:
        click.echo("Those that wait have no prediction on record: they are kept for an hour, and applied if it comes.")
    if counts[Outcome.REFUSED]:
        click.echo(f"The refused lines and their reasons are in {rejected_path(file)}", err=True)


def _print_table(header: list[str], rows: list[list[str]]) -> None:
    """Print a table: words aligned left, numbers right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in [header, *rows]:
        cells = [
            text.ljust(width) if name in {"model", "version", "protocol"} else text.rjust(width)
            for name, text, width in zip(header, row, widths, strict=True)
        ]
        click.echo("  ".join(cells).rstrip())


if __name__ == "__main__":
    cli(prog_name="python -m ledger")
