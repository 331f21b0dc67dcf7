"""One run: a table, a model, and where the predictions go."""

import os
import re
import sys
import time
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from batch_predict import cluster, output, parts, processes, source
from batch_predict.output import Done, Output
from batch_predict.part_worker import REJECTED_SCHEMA, Job, prediction_columns
from batch_predict.source import Format, Source
from contract import DATASETS
from contract.dataset import Dataset
from model.card import ContractMismatch
from model.session import Artifact, ArtifactError
from training import console, tracking
from training.errors import PipelineError
from training.tracking import RegisteredModel

_LOG_SECONDS = 10.0
_NAME = re.compile(r"(?:models:/)?(?P<name>[^@:/]+)(?:[@:/](?P<which>[^@:/]+))?")
_CONTENT_VERSION = re.compile(r"sha-[0-9a-f]{12}")
"""A version in the BentoML store, as the service answers it."""


@dataclass(frozen=True)
class Options:
    """The options of a run.

    ``output_format``: None for that of the target's name, or the input's. ``all_columns``: pass the features through
    too. ``ray``: the address of a cluster, used instead of ``processes`` of this machine. ``restart``: replace the
    predictions of another run in the target.
    """

    output_format: Format | None = None
    all_columns: bool = False
    part_rows: int = parts.PART_ROWS
    processes: int = os.cpu_count() or 1
    ray: str | None = None
    restart: bool = False


def predict_table(table: Path, target: Path, model: str, options: Options) -> Done:
    """Predict every row of a table.

    Args:
        table: a Parquet or CSV file, or a folder of such files.
        target: a file, if its name ends in .parquet or .csv, else a folder.
        model: a name, as ``find_model`` takes it.
        options: the options of the run.

    Raises:
        PipelineError: the sentence says what to do.
    """
    dataset, registered = find_model(model)
    return predict(dataset, registered, table, target, options)


def predict(dataset: Dataset, registered: RegisteredModel, table: Path, target: Path, options: Options) -> Done:
    """As ``predict_table``, with a dataset and a version of its model."""
    rows = source.find(table, dataset)
    _refuse_reserved(rows, dataset)
    _refuse_itself(table, target)
    written = _output(target, rows, options)
    # All columns: those that are not passed through are in the rejected rows.
    output.check_columns(rows.layout.schema, written.files.format)
    if written.files.format is Format.CSV:
        source.check_csv_values(rows)
    identity = _identity(dataset, registered, rows, written, options)
    with written.locked():
        if written.begin(identity, restart=options.restart):
            done = written.finished()
            console.log.info("%s is complete, nothing is left to do: %s", target, _counts(done))
            return done
        tracking.download(registered, written.model_directory)
        _check_model(dataset, registered, written.model_directory)
        with console.step(f"{dataset.name}: cut {table} into parts"):
            cut = parts.parts(rows, options.part_rows)
        kept = tuple(rows.layout.schema.names if options.all_columns else rows.extra_columns(dataset))
        job = Job(dataset, written.model_directory, rows.layout, kept, written.files)
        finished = {part.number for part in cut if written.files.done(part.number) is not None}
        todo = [part for part in cut if part.number not in finished]
        before = sum(part.rows for part in cut if part.number in finished)
        console.log.info(
            "%s: %s rows in %d parts, %d of them done",
            dataset.name,
            f"{sum(part.rows for part in cut):,}",
            len(cut),
            len(finished),
        )
        work = (
            partial(processes.run, job, todo, options.processes)
            if options.ray is None
            else partial(cluster.run, job, todo, options.ray)
        )
        with _Progress(sum(part.rows for part in cut), before) as progress:
            if todo:
                work(lambda part: progress.advance(part.rows + part.rejected))
        done = written.finish(identity, len(cut))
        console.log.info("%s: %s; %s rows/s", target, _counts(done), f"{progress.rate:,.0f}")
        if done.rejected:
            rules = ", ".join(f"{rule} {count:,}" for rule, count in done.broken_rules.items())
            console.log.warning("Rejected rows and their reasons are in %s (%s).", written.rejected, rules)
        return done


def _output(target: Path, rows: Source, options: Options) -> Output:
    suffix = target.suffix.lower().removeprefix(".")
    single_file = suffix in set(Format) and not target.is_dir()
    if single_file and options.output_format not in (None, suffix):
        raise PipelineError(f"{target} does not fit --format {options.output_format}: change one of them.")
    table_format = Format(suffix) if single_file else options.output_format or rows.layout.format
    return Output(target, table_format, single_file=single_file)


def _identity(
    dataset: Dataset, registered: RegisteredModel, rows: Source, target: Output, options: Options
) -> dict[str, Any]:
    return {
        "model": f"{registered.name}@{registered.version} of run {registered.run_id}",
        "input": [f"{file.name}, {file.size} bytes, modified {file.modified_ns}" for file in rows.files],
        "settings": {
            "format": target.files.format,
            "all_columns": options.all_columns,
            "part_rows": options.part_rows,
        },
        "contract": {feature.name: [feature.minimum, feature.maximum] for feature in dataset.features},
        "libraries": {name: version(name) for name in ("onnxruntime", "pyarrow")},
    }


def _refuse_itself(table: Path, target: Path) -> None:
    inside, outside = target.resolve(), table.resolve()
    if inside == outside or outside in inside.parents:
        raise PipelineError(f"{target} is the input, or inside it: name an output outside of {table}.")


def _refuse_reserved(rows: Source, dataset: Dataset) -> None:
    for name in (*prediction_columns(dataset), *REJECTED_SCHEMA.names):
        if name in rows.layout.schema.names:
            raise PipelineError(f"{rows.files[0].path} has a column {name}, which the output adds: rename it.")


def _check_model(dataset: Dataset, registered: RegisteredModel, directory: Path) -> None:
    try:
        Artifact.verified(directory, dataset)
    except (ArtifactError, ContractMismatch) as error:
        raise PipelineError(f"{registered.model_uri} cannot be used. {error}") from error


def _counts(done: Done) -> str:
    return f"{done.rows:,} rows predicted, {done.rejected:,} rejected"


def find_model(text: str) -> tuple[Dataset, RegisteredModel]:
    """The dataset and the registered version for a name.

    Args:
        text: ``housing@champion`` (an alias); ``housing@3``, ``housing/3`` or ``housing:3`` (a version); with
            ``models:/`` in front, as MLflow writes it; ``housing:sha-3f9a0c1b2d4e``, as the service answers it;
            ``housing`` alone is the champion.

    Raises:
        PipelineError: there is no such dataset, alias or version.
    """
    match = _NAME.fullmatch(text)
    name = match["name"] if match else ""
    if match is None or name not in DATASETS:
        raise PipelineError(
            f"{text} is not a model. Write {next(iter(DATASETS))}@{tracking.CHAMPION}, or a version instead of the "
            f"alias, as in {next(iter(DATASETS))}@3; there are {', '.join(DATASETS)}."
        )
    which = match["which"] or tracking.CHAMPION
    if _CONTENT_VERSION.fullmatch(which):
        stored = tracking.with_content(name, which)
        if not stored:
            raise PipelineError(
                f"The MLflow registry has no version of {name} that is served as {which}. Set MLFLOW_TRACKING_URI to "
                "the registry of the served model."
            )
        return DATASETS[name], stored[0]
    if which.isdecimal():
        return DATASETS[name], tracking.get(name, which)
    found = tracking.by_alias(name, which)
    if found is None:
        raise PipelineError(
            f"The model {name} has no version with the alias {which} in the MLflow registry. Run `make train`, or, if "
            f"that has nothing to do, `dvc repro -f -s model_evaluation`; or name a version, as in {name}@3."
        )
    return DATASETS[name], found


class _Progress:
    """Shows how many of ``total`` rows are done: a bar in a terminal, else a log line now and then.

    An earlier run did ``before`` of them.
    """

    def __init__(self, total: int, before: int) -> None:
        self._total = total
        self._done = before
        self._new = 0
        self._started = self._logged = time.perf_counter()
        screen = Console(file=sys.stderr)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=screen,
            disable=not screen.is_terminal,
        )
        self._terminal = screen.is_terminal
        self._task = self._bar.add_task("rows", total=total, completed=before, rate="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    @property
    def rate(self) -> float:
        """Rows per second of this run."""
        return self._new / max(time.perf_counter() - self._started, 1e-9)

    def advance(self, rows: int) -> None:
        """Add rows that are done."""
        self._done += rows
        self._new += rows
        self._bar.update(self._task, completed=self._done, rate=f"{self.rate:,.0f} rows/s")
        now = time.perf_counter()
        if not self._terminal and now - self._logged >= _LOG_SECONDS:
            self._logged = now
            console.log.info("%s of %s rows, %s rows/s", f"{self._done:,}", f"{self._total:,}", f"{self.rate:,.0f}")
