"""Where the predictions go, and how far a run has come.

Parts are files of a folder: ``part-00000.parquet``, their rejected rows in ``_rejected/``. Names that begin with _ are
no part of the table for its readers. A part is done when ``_done/`` says so; ``_manifest.json`` says of which run it
is. A target that is a file has its folder beside it, until the parts are joined.
"""

import fcntl
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from batch_predict import writing
from batch_predict.source import Format
from contract.errors import PipelineError
from training import files

MANIFEST = "_manifest.json"
DONE = "_done"
REJECTED = "_rejected"
MODEL = "_model"

Identity = dict[str, Any]
"""What makes two runs the same: input, model, settings, libraries; as JSON has it."""


@dataclass(frozen=True)
class Done:
    """A part that was written: predicted and rejected rows, broken rules by "feature: rule", bytes of predictions."""

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
        """A part's rejected rows; there is no such file if there are none."""
        return self.folder / REJECTED / f"part-{number:05}.{self.format}"

    def finish(self, number: int, done: Done) -> None:
        """Say that a part is whole."""
        with self.written(self._note(number)) as partial:
            partial.write_text(json.dumps(asdict(done)), encoding="utf-8")

    @staticmethod
    def written(path: Path) -> AbstractContextManager[Path]:
        """As ``files.replaced_file``, under this process' name: what a killed run's worker still writes is another."""
        return files.replaced_file(path, writer=f"{os.uname().nodename}-{os.getpid()}")

    def done(self, number: int) -> Done | None:
        """What a finished part holds; None if it is not finished, or not as long as it was."""
        try:
            done = Done(**json.loads(self._note(number).read_bytes()))
            return done if self.predictions(number).stat().st_size == done.bytes else None
        except FileNotFoundError:
            return None

    def _note(self, number: int) -> Path:
        return self.folder / DONE / f"{number:05}.json"


class Output:
    """The target of a run, a folder or a file, for the one process that leads it."""

    def __init__(self, target: Path, table_format: Format, *, single_file: bool) -> None:
        self.target = target
        self.single_file = single_file
        folder = target.with_name(f"{target.name}.parts") if single_file else target
        self.files = PartFiles(folder.absolute(), table_format)
        self.manifest = target.with_suffix(".manifest.json") if single_file else folder / MANIFEST
        self.rejected = target.with_suffix(f".rejected.{table_format}") if single_file else folder / REJECTED

    @property
    def model_directory(self) -> Path:
        """Where the model is while the run goes on: every worker must find it."""
        return self.files.folder / MODEL

    @contextmanager
    def locked(self) -> Iterator[None]:
        """The folder, made if need be, for one run at a time; the lock ends with its process, however that ends.

        Raises:
            PipelineError: another run has it.
        """
        self._refuse_foreign()
        self.files.folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.files.folder, os.O_RDONLY)
        try:
            _lock(descriptor, self.target)
            yield
        finally:
            os.close(descriptor)

    def begin(self, identity: Identity, *, restart: bool) -> bool:
        """Start, or go on with what the same run has done before; the return says whether it is complete.

        Raises:
            PipelineError: the target holds another run's predictions, and ``restart`` does not say to replace them.
        """
        former = self._read_manifest()
        if former is not None and not restart:
            differing = _differences(former["run"], identity)
            if differing:
                raise PipelineError(
                    f"{self.target} holds predictions of another run: {'; '.join(differing)}. "
                    "Say --restart to replace them, or name another output."
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
        """Leave predictions, rejected rows and the manifest, and nothing else."""
        done = [self.files.done(number) for number in range(parts)]
        whole = total([part for part in done if part is not None])
        if self.single_file:
            self._join(parts)
        files.write_json(self.manifest, {"run": identity, "finished": {"parts": parts, **asdict(whole)}})
        shutil.rmtree(self.model_directory, ignore_errors=True)
        if self.single_file:
            shutil.rmtree(self.files.folder)
        return whole

    def finished(self) -> Done:
        """What a complete run has written."""
        manifest = self._read_manifest()
        assert manifest is not None  # noqa: S101 # `begin` said that it is complete
        return Done(**{name: value for name, value in manifest["finished"].items() if name != "parts"})

    def _join(self, parts: int) -> None:
        with files.replaced_file(self.target) as partial:
            writing.join([self.files.predictions(number) for number in range(parts)], partial, self.files.format)
        rejected = [path for path in map(self.files.rejected, range(parts)) if path.exists()]
        if rejected:
            with files.replaced_file(self.rejected) as partial:
                writing.join(rejected, partial, self.files.format)

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
        """What was not written by batch prediction is never written over."""
        if self._read_manifest() is not None:
            return
        occupied = (
            self.target.exists() or self.rejected.exists()
            if self.single_file
            else self.target.is_file() or (self.target.is_dir() and any(self.target.iterdir()))
        )
        if occupied:
            raise PipelineError(
                f"{self.target} is there, and is not of a batch prediction: name a new file or folder for the output."
            )

    def _clear(self) -> None:
        self.manifest.unlink()
        if self.single_file:
            self.target.unlink(missing_ok=True)
            self.rejected.unlink(missing_ok=True)
        for suffix in Format:
            for path in self.files.folder.glob(f"part-*.{suffix}"):
                path.unlink()
        for name in (DONE, REJECTED, MODEL):
            shutil.rmtree(self.files.folder / name, ignore_errors=True)


def _lock(descriptor: int, target: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise PipelineError(f"Another run writes to {target}: wait for it, or name another output.") from error


def _differences(former: Identity, now: Identity) -> list[str]:
    return [
        f"its {name} was {_shown(former.get(name))}, now it is {_shown(now[name])}"
        for name in now
        if former.get(name) != now[name]
    ]


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 200 else f"{text[:200]}…"
