"""The output of a run: its files, its manifest, and which parts are done.

Each part is a file in a folder, such as ``part-00000.parquet``, with its rejected rows in ``_rejected/``. Readers of
the folder ignore names that begin with _. A part is done when it has a note in ``_done/``; ``_manifest.json`` describes
the run. If the target is a file, its parts are in a folder beside it until they are joined.
"""

import fcntl
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from batch_predict import csv_file
from batch_predict.source import Format
from training import files
from training.errors import PipelineError

MANIFEST = "_manifest.json"
DONE = "_done"
REJECTED = "_rejected"
MODEL = "_model"

Identity = dict[str, Any]
"""Two runs are the same if these are equal: input, model, settings, libraries. JSON values only."""


@dataclass(frozen=True)
class Done:
    """A written part: predicted and rejected rows, broken rules by "feature: rule", bytes of the predictions."""

    rows: int
    rejected: int
    broken_rules: dict[str, int]
    bytes: int


def total(parts: Sequence[Done]) -> Done:
    """The sum of parts."""
    rules: Counter[str] = Counter()
    for part in parts:
        rules.update(part.broken_rules)
    return Done(
        rows=sum(part.rows for part in parts),
        rejected=sum(part.rejected for part in parts),
        broken_rules=dict(sorted(rules.items())),
        bytes=sum(part.bytes for part in parts),
    )


@dataclass(frozen=True)
class PartFiles:
    """The files of the parts, by their number."""

    folder: Path
    format: Format

    def predictions(self, number: int) -> Path:
        """A part's predictions."""
        return self.folder / f"part-{number:05}.{self.format}"

    def rejected(self, number: int) -> Path:
        """A part's rejected rows; without any, there is no file."""
        return self.folder / REJECTED / f"part-{number:05}.{self.format}"

    def finish(self, number: int, done: Done) -> None:
        """Note that a part is complete."""
        with self.written(self._note(number)) as partial:
            partial.write_text(json.dumps(asdict(done)), encoding="utf-8")

    @staticmethod
    def written(path: Path) -> AbstractContextManager[Path]:
        """As ``files.replaced_file``, with a name for each process: a worker of a killed run may still be writing."""
        return files.replaced_file(path, writer=f"{os.uname().nodename}-{os.getpid()}")

    def done(self, number: int) -> Done | None:
        """What a finished part holds; None if it is not finished, or its file has another length."""
        try:
            done = Done(**json.loads(self._note(number).read_bytes()))
            return done if self.predictions(number).stat().st_size == done.bytes else None
        except FileNotFoundError:
            return None

    def _note(self, number: int) -> Path:
        return self.folder / DONE / f"{number:05}.json"


class Output:
    """The target of a run, a folder or a file, as the main process sees it."""

    def __init__(self, target: Path, table_format: Format, *, single_file: bool) -> None:
        self.target = target
        self.single_file = single_file
        folder = target.with_name(f"{target.name}.parts") if single_file else target
        self.files = PartFiles(folder.absolute(), table_format)
        self.manifest = target.with_name(f"{target.name}.manifest.json") if single_file else folder / MANIFEST
        self.rejected = target.with_suffix(f".rejected.{table_format}") if single_file else folder / REJECTED

    @property
    def model_directory(self) -> Path:
        """A copy of the model for the workers, during the run."""
        return self.files.folder / MODEL

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Create the folder and lock it against other runs; the lock ends with this process.

        Raises:
            PipelineError: another run has the lock.
        """
        self._refuse_foreign()
        self.files.folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.files.folder, os.O_RDONLY)
        try:
            _lock(descriptor, self.target)
            yield
            if self.single_file:
                with suppress(OSError):  # it has parts, or is gone
                    self.files.folder.rmdir()
        finally:
            os.close(descriptor)

    def begin(self, identity: Identity, *, restart: bool) -> bool:
        """Start a run, or continue it; True if it is already complete.

        Raises:
            PipelineError: the target holds another run's predictions, and ``restart`` is False.
        """
        former = self._read_manifest()
        if former is not None and not restart:
            differing = _differences(former["run"], identity)
            if differing:
                raise PipelineError(
                    f"{self.target} holds predictions of another run: {'; '.join(differing)}. "
                    "Use --restart to replace them, or name another output."
                )
            if former["finished"] is not None and self._is_whole(former["finished"]):
                return True
        elif former is not None:
            self._clear()
        for left_over in self.files.folder.rglob(".*.partial"):
            left_over.unlink(missing_ok=True)
        files.write_json(self.manifest, {"run": identity, "finished": None})
        return False

    def finish(self, identity: Identity, parts: int) -> Done:
        """Write the final files and the manifest, and remove everything else.

        Raises:
            PipelineError: a part is not there any more, or was cut.
        """
        done = [self.files.done(number) for number in range(parts)]
        if None in done:
            raise PipelineError(
                f"Part {done.index(None)} is no longer whole in {self.files.folder}. Run the same command again to "
                "continue."
            )
        whole = total([part for part in done if part is not None])
        if self.single_file:
            self._join(parts)
        files.write_json(self.manifest, {"run": identity, "finished": {"parts": parts, **asdict(whole)}})
        shutil.rmtree(self.model_directory, ignore_errors=True)
        if self.single_file:
            shutil.rmtree(self.files.folder)
        return whole

    def finished(self) -> Done:
        """What a complete run wrote."""
        manifest = self._read_manifest()
        assert manifest is not None  # noqa: S101 # `begin` returned True
        return Done(**{name: value for name, value in manifest["finished"].items() if name != "parts"})

    def _join(self, parts: int) -> None:
        with files.replaced_file(self.target) as partial:
            _join([self.files.predictions(number) for number in range(parts)], partial, self.files.format)
        rejected = [path for path in map(self.files.rejected, range(parts)) if path.exists()]
        if rejected:
            with files.replaced_file(self.rejected) as partial:
                _join(rejected, partial, self.files.format)

    def _is_whole(self, finished: dict[str, Any]) -> bool:
        if self.single_file:
            return self.target.exists()
        return all(self.files.done(number) is not None for number in range(finished["parts"]))

    def _read_manifest(self) -> dict[str, Any] | None:
        try:
            manifest: dict[str, Any] = json.loads(self.manifest.read_bytes())
        except FileNotFoundError:
            return None
        return manifest

    def _refuse_foreign(self) -> None:
        """Never replace files that batch prediction did not write."""
        if self._read_manifest() is not None:
            return
        occupied = (
            self.target.exists() or self.rejected.exists()
            if self.single_file
            else self.target.is_file() or (self.target.is_dir() and any(self.target.iterdir()))
        )
        if occupied:
            raise PipelineError(
                f"{self.target} exists, and batch prediction did not write it: name a new file or folder."
            )

    def _clear(self) -> None:
        # The manifest stays: a run that is killed here has left files that the next one must recognise as its own.
        if self.single_file:
            self.target.unlink(missing_ok=True)
            self.rejected.unlink(missing_ok=True)
        for suffix in Format:
            for path in self.files.folder.glob(f"part-*.{suffix}"):
                path.unlink()
        for name in (DONE, REJECTED, MODEL):
            shutil.rmtree(self.files.folder / name, ignore_errors=True)


def check_columns(schema: pa.Schema, table_format: Format) -> None:
    """Refuse columns that cannot be written: for each type it is tried.

    Raises:
        PipelineError: names the column.
    """
    for field in schema:
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        is_bytes = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)
        try:
            if is_bytes and table_format is Format.CSV:
                # Arrow would write it as if it were text, and stop at the first byte that is not.
                raise pa.ArrowInvalid("bytes")
            column = pa.table({field.name: pa.nulls(1, field.type)}).take(pa.array([0]))
            write(column, pa.BufferOutputStream(), table_format)
        except pa.ArrowException as error:
            instead = "use --format parquet, or leave it out." if table_format is Format.CSV else "leave it out."
            raise PipelineError(
                f"The column {field.name} is of type {field.type}, which cannot be written as {table_format}: {instead}"
            ) from error


def write(table: pa.Table, path: Path | pa.NativeFile, table_format: Format) -> None:
    """Write a table to a file, always with the same bytes for the same rows."""
    if table_format is Format.PARQUET:
        pq.write_table(table, path)
    else:
        pyarrow.csv.write_csv(table, path)


def _join(parts: Sequence[Path], path: Path, table_format: Format) -> None:
    """Join files of one schema, at least one, into one file, with one of them in memory at a time."""
    if table_format is Format.PARQUET:
        with pq.ParquetWriter(path, pq.read_schema(parts[0])) as writer:
            for part in parts:
                writer.write_table(pq.read_table(part, use_threads=False))
        return
    with path.open("wb") as joined:
        for number, part in enumerate(parts):
            with part.open("rb") as file:
                if number:
                    file.seek(csv_file.read_header(part)[1])
                while chunk := file.read(1 << 20):
                    joined.write(chunk)


def _lock(descriptor: int, target: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise PipelineError(f"Another run is writing to {target}: wait for it, or name another output.") from error


def _differences(former: Identity, now: Identity) -> list[str]:
    return [
        f"its {name} was {_shown(former.get(name))}, now it is {_shown(now[name])}"
        for name in now
        if former.get(name) != now[name]
    ]


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 200 else f"{text[:200]}…"
