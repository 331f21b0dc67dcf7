"""The files in which prometheus_client keeps the values of a process, on a disk that may be full.

Its own files are sparse and mapped into memory: the first write to a page for which the disk has no room kills the
process (SIGBUS). Ours take their space before they are mapped. Values without room stay in memory until there is some:
a full disk delays metrics, and never stops a prediction.
"""

import logging
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client.mmap_dict import _INITIAL_MMAP_SIZE, MmapedDict

logger = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
"""Seconds between two attempts to find room."""


class ReservedFile(MmapedDict):
    """A file of values whose space is taken before it is used.

    Raises:
        OSError: there is no room, here or when a new value is written.
    """

    if TYPE_CHECKING:

        def read_value(self, key: str) -> tuple[float, float]:
            """The value and its time."""

        def write_value(self, key: str, value: float, timestamp: float) -> None:
            """Write a value."""

        def close(self) -> None:
            """Close the file."""

    def __init__(self, filename: str) -> None:
        with Path(filename).open("ab") as file:
            reserve(file.fileno(), max(os.fstat(file.fileno()).st_size, _INITIAL_MMAP_SIZE))
        super().__init__(filename)  # type: ignore[no-untyped-call]

    def _init_value(self, key: str) -> None:
        # A key is written with its length before it, up to 8 bytes of padding and two floats behind it.
        needed = self._used + len(key.encode()) + 4 + 8 + 16
        capacity = self._capacity
        while capacity < needed:
            capacity *= 2
        if capacity > self._capacity:
            reserve(self._f.fileno(), capacity)
        super()._init_value(key)  # type: ignore[no-untyped-call]


def reserve(descriptor: int, size: int) -> None:
    """Make a file at least ``size`` bytes long, with its space taken.

    Raises:
        OSError: there is no room.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
        return
    missing = memoryview(bytes(max(size - os.fstat(descriptor).st_size, 0)))
    while missing:
        missing = missing[os.write(descriptor, missing) :]


class ValueFile:
    """What prometheus_client writes values to: one file for each kind of series and process."""

    def __init__(self, filename: str) -> None:
        self._filename = filename
        self._lock = threading.Lock()
        self._file: ReservedFile | None = None
        self._waiting: dict[str, tuple[float, float]] = {}
        self._retry_at = 0.0
        with self._lock:
            self._write_waiting()
        _FILES.append(self)

    def read_value(self, key: str) -> tuple[float, float]:
        """The value and its time; both are 0 for a new one."""
        if self._file is not None and key in self._file._positions:
            return self._file.read_value(key)
        with self._lock:
            found = self._waiting.setdefault(key, (0.0, 0.0))
            self._write_waiting()
        return found

    def write_value(self, key: str, value: float, timestamp: float) -> None:
        """Write a value, or keep it until there is room."""
        file = self._file
        if file is not None and key in file._positions:
            file.write_value(key, value, timestamp)
            return
        with self._lock:
            self._waiting[key] = value, timestamp
            self._write_waiting()

    def tend(self) -> int:
        """Write what waits, if there is room by now; return how many values still wait."""
        with self._lock:
            if self._waiting or self._file is None:
                self._write_waiting()
            return len(self._waiting)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write_waiting(self) -> None:
        now = time.monotonic()
        if now < self._retry_at:
            return
        try:
            if self._file is None:
                self._file = _open(Path(self._filename))
            for key, (value, timestamp) in list(self._waiting.items()):
                self._file.write_value(key, value, timestamp)
                del self._waiting[key]
        except OSError as error:
            self._retry_at = now + RETRY_SECONDS
            _told.full(error, self._filename)


def _open(path: Path) -> ReservedFile:
    """Open a file, or make it. It gets its name when it is whole: a scrape may come at any time."""
    if path.exists():
        return ReservedFile(str(path))
    partial = path.with_suffix(".new")
    try:
        made = ReservedFile(str(partial))
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    partial.rename(path)
    return made


class _Told:
    """Logs once that there is no room, and once that there is room again."""

    def __init__(self) -> None:
        self._is_full = False

    def full(self, error: OSError, filename: str) -> None:
        if not self._is_full:
            self._is_full = True
            logger.error(
                "metrics cannot be written: predictions go on, and new series wait until there is room",
                extra={"error": error.strerror or str(error), "directory": str(Path(filename).parent)},
            )

    def room(self) -> None:
        if self._is_full:
            self._is_full = False
            logger.warning("metrics are written again")


_FILES: list[ValueFile] = []
_told = _Told()


def tend() -> int:
    """Write the values of this process that wait, if there is room by now; return how many still wait."""
    waiting = sum(file.tend() for file in list(_FILES))
    if not waiting:
        _told.room()
    return waiting
