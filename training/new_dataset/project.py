"""The files that make a dataset, written together or not at all, and taken out without a trace."""

import csv
import hashlib
import io
import keyword
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from contract import DATASETS
from contract.dataset import Dataset, Task
from contract.errors import DataError, cut
from contract.feature import listed
from contract.table import check_table
from contract.violation import Rule
from local_service import PROJECT
from model.deployed import Deployment
from training.data_preparation import CHECKSUMS, RAW
from training.errors import PipelineError
from training.files import replaced_file
from training.new_dataset import contract_module, settings_files
from training.new_dataset.inference import Found, infer
from training.new_dataset.table import read

PARAMS, DVC, LOCK = Path("params.yaml"), Path("dvc.yaml"), Path("dvc.lock")
RESERVED = frozenset({"store", "utc", "dataset", "target"})
"""``models/store`` is the pipeline's; the others are names in a contract's module."""
BATCH = "_batch"
"""The API method of ``iris_batch`` would have the name of the one that takes batches of ``iris``."""
REFERENCE = ("README.md", "docs/index.md", "docs/reference")
"""Pages with tables that are generated from contracts and parameters."""
Files = Mapping[Path, bytes | None]
"""What files hold, by their path in the project; None where there is none."""


@dataclass(frozen=True)
class Plan:
    """What makes a table a dataset.

    Args:
        name: of the dataset.
        found: what is known of the table.
        files: every file that is written, in this order.
        is_new: whether there is no such dataset yet.
        changes: by file, the text it has and the text it would have, where they differ.
    """

    name: str
    found: Found
    files: Files
    is_new: bool
    changes: Mapping[Path, tuple[str, str]]

    @property
    def module(self) -> Path:
        """The contract."""
        return module_of(self.name)


def module_of(name: str) -> Path:
    """The contract of a dataset."""
    return Path(f"contract/datasets/{name}.py")


def plan(path: Path, target: str, name: str, task: Task | None, drop: Sequence[str] = ()) -> Plan:
    """What to write for a table. Writes nothing.

    Args:
        path: of the table.
        target: the column to predict.
        name: of the dataset.
        task: what to predict of it; found out without it.
        drop: columns to leave out.

    Raises:
        PipelineError: the table cannot be a dataset of that name.
    """
    _check_name(name)
    present = DATASETS.get(name)
    if present is not None and present.target.name != target:
        raise PipelineError(
            f"The name {name} is taken: that dataset predicts {present.target.name}. Choose another with NAME=…, or "
            f"take it out first: make dataset-remove NAME={name}"
        )
    table = read(path)
    for column in drop:
        if column not in table.columns or column == target:
            raise PipelineError(f"DROP: {cut(column)!r} is no feature; there is {listed(list(table.columns))}.")
        del table.columns[column]
        table.left_out[column] = "DROP says so"
    if present is not None and not set(present.feature_names) & set(table.columns):
        raise PipelineError(f"The name {name} is taken: that dataset has other columns. Choose another with NAME=….")
    if present is not None and task not in (None, present.task):
        raise PipelineError(
            f"{name} is a {present.task}, and its parameters and plots are for that. To change its task, take it out "
            f"first: make dataset-remove NAME={name}"
        )
    found = infer(table, target, task, present)
    text = contract_module.source(name, found, path.name)
    dataset = contract_module.load(name, text)
    if present is not None and (dataset.features, dataset.target) == (present.features, present.target):
        text = (PROJECT / module_of(name)).read_text(encoding="utf-8")  # as a person left it
    copy = _csv(found)
    content = {
        RAW / f"{name}.csv": copy,
        RAW / CHECKSUMS: _checksums(name, copy),
        PARAMS: settings_files.params_with(_text(PARAMS), name, found, _duplicates(dataset, found)),
        module_of(name): text,
        # The last: a stage without its files would stop the pipeline.
        DVC: settings_files.dvc_with(_text(DVC), name, found),
    }
    changes = {file: (_text(file), after) for file, after in content.items() if _text(file) != after}
    return Plan(name, found, {file: content[file].encode() for file in changes}, present is None, changes)


def _check_name(name: str) -> None:
    wrong = not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", name) or name.endswith(BATCH)
    # YAML reads some words as values: yes, off, null.
    if wrong or keyword.iskeyword(name) or name in RESERVED or yaml.safe_load(name) != name:
        raise PipelineError(
            f"{name!r} cannot be the name of a dataset: write up to 40 lower-case letters, digits and _; no "
            f"keyword of Python, no value of YAML such as yes, none of {', '.join(sorted(RESERVED))}, and no {BATCH} "
            "at the end. Choose one with NAME=…"
        )


def _text(path: Path) -> str:
    file = PROJECT / path
    return file.read_text(encoding="utf-8") if file.exists() else ""


def _csv(found: Found) -> str:
    """The copy of the table: its features, then its target."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*(column.feature.name for column in found.columns), found.target.name])
    writer.writerows(zip(*(column.cells for column in found.columns), found.target_cells, strict=True))
    return buffer.getvalue()


def _checksums(name: str, table: str) -> str:
    """The checksum file with the line of a table, or without it if the text is empty."""
    lines = [line for line in _text(RAW / CHECKSUMS).splitlines() if not line.endswith(f" {name}.csv")]
    if table:
        lines.append(f"{hashlib.sha256(table.encode()).hexdigest()}  {name}.csv")
    return "".join(f"{line}\n" for line in sorted(lines, key=lambda line: line.split()[-1]))


def _duplicates(dataset: Dataset, found: Found) -> int:
    """How many rows repeat an earlier one; and a check that the contract takes the table.

    Raises:
        PipelineError: it does not, which is a bug.
    """
    columns = {column.feature.name: column.cells for column in found.columns} | {found.target.name: found.target_cells}
    try:
        check_table(dataset, columns)
    except DataError as error:
        repeated = [each for each in error.violations if each.rule is Rule.DUPLICATE]
        if len(repeated) < len(error.violations):
            raise PipelineError(f"The contract that was found does not take the table: {error}") from error
        return len(repeated)
    return 0


def write(files: Files) -> None:
    """Write or remove files, then write the tables of the documentation anew: all of it, or nothing.

    Raises:
        PipelineError: the documentation cannot be written with these files.
    """
    with _undone_on_failure(list(files)):
        for path, content in files.items():
            _put(path, content)
        made = subprocess.run(  # our own command
            [sys.executable, "-m", "docs_reference"], cwd=PROJECT, capture_output=True, text=True, check=False
        )
        if made.returncode:
            raise PipelineError(
                f"The project does not work with this dataset; nothing is written.\n{made.stderr[-2000:]}"
            )


def _put(path: Path, content: bytes | None) -> None:
    file = PROJECT / path
    if content is None:
        file.unlink(missing_ok=True)
        return
    with replaced_file(file) as partial:
        partial.write_bytes(content)


@contextmanager
def _undone_on_failure(paths: Sequence[Path]) -> Iterator[None]:
    """If the block fails or is stopped, files have what they had before it."""
    pages = [
        page for name in REFERENCE for page in ([PROJECT / name] if "." in name else (PROJECT / name).glob("*.md"))
    ]
    every = [*paths, *(page.relative_to(PROJECT) for page in pages if page.exists())]
    before = {path: (PROJECT / path).read_bytes() if (PROJECT / path).exists() else None for path in every}
    try:
        yield
    except BaseException:
        for path, content in before.items():
            _put(path, content)
        raise


def remove(name: str) -> list[Path]:
    """Take a dataset out: its files, its part of others, and what the pipeline made of it. Returns what is gone.

    Raises:
        PipelineError: there is no such dataset, or other code needs it.
    """
    if name not in DATASETS:
        raise PipelineError(f"There is no dataset {name!r}; there is {', '.join(DATASETS)}.")
    users = [path for path in _code() if f"contract.datasets.{name} " in path.read_text(encoding="utf-8")]
    if users:
        raise PipelineError(
            f"{name} is needed by {users[0].relative_to(PROJECT)}"
            + (f" and {len(users) - 1} other files: it cannot be taken out." if users[1:] else ": change that first.")
        )
    content: dict[Path, bytes | None] = {
        DVC: settings_files.dvc_without(_text(DVC), name).encode(),
        module_of(name): None,
        PARAMS: settings_files.params_without(_text(PARAMS), name).encode(),
        RAW / CHECKSUMS: _checksums(name, "").encode(),
        RAW / f"{name}.csv": None,
        Path(f"metrics/{name}.json"): None,
        Path(f"data/feedback/{name}.parquet.dvc"): None,
        LOCK: _lock_without(name),
    }
    files = {path: new for path, new in content.items() if _bytes(path) != new}
    write(files)
    made = [
        *(Path(f"data/{folder}/{name}.parquet") for folder in ("prepared", "feedback")),
        *(Path(f"{folder}/{name}") for folder in ("data/features", "models", "reports/plots")),
        Path(f"models/store/{name}.bentomodel"),
        *(each.relative_to(PROJECT) for each in (PROJECT / "contract/datasets/__pycache__").glob(f"{name}.*")),
    ]
    made = [path for path in made if (PROJECT / path).exists()]
    for path in made:
        file = PROJECT / path
        shutil.rmtree(file) if file.is_dir() else file.unlink()
    Deployment(PROJECT / "models").forget(name)
    return [*files, *(path for path in made if "__pycache__" not in path.parts)]


def _code() -> Iterator[Path]:
    for pattern in ("*.py", "*/**/*.py"):
        for path in PROJECT.glob(pattern):
            hidden = any(part.startswith(".") for part in path.relative_to(PROJECT).parts)
            if not hidden and not path.is_relative_to(PROJECT / "models"):
                yield path


def _bytes(path: Path) -> bytes | None:
    file = PROJECT / path
    return file.read_bytes() if file.exists() else None


def _lock_without(name: str) -> bytes | None:
    """``dvc.lock`` as it was committed, if that has no such stage; else without the stage.

    What the pipeline wrote there since then names the folders that the dataset was in. ``make train`` writes it anew.
    """
    present = _bytes(LOCK)
    if present is None or not _has_stage(present, name):
        return present
    git = ["git", "show", f"HEAD:./{LOCK}"]
    committed = subprocess.run(  # noqa: S603 # ours
        git,
        cwd=PROJECT,
        capture_output=True,
        check=False,
    )
    if committed.returncode == 0 and not _has_stage(committed.stdout, name):
        return committed.stdout
    stage = rf"^  {settings_files.TRAIN}{name}:\n(?:    .*\n)+"
    return re.sub(stage, "", present.decode(), flags=re.MULTILINE).encode()


def _has_stage(lock: bytes, name: str) -> bool:
    return f"{settings_files.TRAIN}{name}" in yaml.safe_load(lock)["stages"]
