"""Write files and directories atomically: a reader finds the old one or the new one, never a part."""

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
    # A fixed name, so that the next run overwrites what a killed stage left. In the same directory, so that the move
    # stays within one file system.
    return path.parent / f".{path.name}{f'.{writer}' if writer else ''}.partial"


@contextmanager
def replaced_file(path: Path, *, writer: str = "") -> Iterator[Path]:
    """A temporary path to write to. It replaces ``path`` if the block succeeds; otherwise ``path`` stays as it was.

    Args:
        path: the file to write.
        writer: distinguishes processes that may write the same file at once.
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
    """An empty directory to write to. It replaces ``path`` if the block succeeds; otherwise ``path`` stays as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial, former = _partial(path), path.parent / f".{path.name}.former"
    for left_over in (partial, former):
        if left_over.exists():
            shutil.rmtree(left_over)
    partial.mkdir()
    try:
        yield partial
        # rename(2) does not replace a directory that has files, so the old one is moved away first.
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
        ValueError: for NaN and infinity, which JSON cannot express.
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
