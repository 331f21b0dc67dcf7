"""Files that are there whole or not at all: each is written beside its place, then moved there."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def _partial(path: Path, writer: str = "") -> Path:
    # A fixed name: what a killed stage left is overwritten by its next run. In the same directory, so that the move
    # stays inside one file system.
    return path.parent / f".{path.name}{f'.{writer}' if writer else ''}.partial"


@contextmanager
def replaced_file(path: Path, *, writer: str = "") -> Iterator[Path]:
    """A path to write to, which takes the place of ``path`` when the block succeeds; else ``path`` stays as it was.

    Args:
        path: what is written.
        writer: the name of one of several that may write it at once.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(path, writer)
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def replaced_directory(path: Path) -> Iterator[Path]:
    """An empty directory, which takes the place of ``path`` when the block succeeds; else ``path`` stays as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial, former = _partial(path), path.parent / f".{path.name}.former"
    for left_over in (partial, former):
        if left_over.exists():
            shutil.rmtree(left_over)
    partial.mkdir()
    try:
        yield partial
        # rename(2) refuses a directory that is not empty, so the old one steps aside first.
        if path.exists():
            path.rename(former)
        partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(former, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text."""
    with replaced_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    """Write indented JSON.

    Raises:
        ValueError: for NaN and infinities, which JSON does not have.
    """
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + os.linesep)


def write_parquet(path: Path, frame: "pd.DataFrame") -> None:
    """Write a table without its index."""
    with replaced_file(path) as partial:
        frame.to_parquet(partial, index=False)


def sha256(path: Path) -> str:
    """The checksum of a file, as ``sha256sum`` writes it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
