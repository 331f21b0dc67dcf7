"""Writes the lines of the log to standard output, and to a file that is rotated.

Logging never waits. A thread writes the lines: otherwise a pipe that nobody reads, or a disk that hangs, would stop the
event loop. Lines that cannot be written are dropped and counted.
"""

import logging
import os
import sys
import threading
from logging.handlers import RotatingFileHandler
from pathlib import Path
from queue import SimpleQueue

MOST_LINES = 1000
"""Maximum lines that wait; further ones are dropped."""
FLUSH_SECONDS = 1.0
"""Maximum seconds that a flush waits for the lines before it."""


class LineHandler(logging.Handler):
    """Base of both handlers: formats in the calling thread, and writes in its own."""

    def __init__(self) -> None:
        super().__init__()
        self.dropped = 0
        self._told = 0
        self._queue: SimpleQueue[str | threading.Event] = SimpleQueue()
        threading.Thread(target=self._run, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Hand a line to the thread."""
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001 - as logging has it: a line that cannot be made must not end its request
            self.handleError(record)
            return
        if self._queue.qsize() >= MOST_LINES:
            self.dropped += 1
        else:
            self._queue.put(line)

    def flush(self) -> None:
        """Wait until what was logged is written, for a second at most."""
        written = threading.Event()
        self._queue.put(written)
        written.wait(FLUSH_SECONDS)

    def write(self, line: str) -> None:
        """Write a line.

        Raises:
            OSError: it cannot be written.
        """
        raise NotImplementedError

    def _run(self) -> None:
        while True:
            given = self._queue.get()
            if isinstance(given, threading.Event):
                given.set()
                continue
            try:
                self.write(given)
                if self.dropped > self._told:
                    lost, self._told = self.dropped - self._told, self.dropped
                    self.write(self._line(f"{lost} lines of the log were dropped: they could not be written"))
            except (OSError, ValueError):  # the latter of a stream that is closed
                self.dropped += 1

    def _line(self, message: str) -> str:
        return self.format(logging.LogRecord(__name__, logging.WARNING, __file__, 0, message, None, None))


class OutputHandler(LineHandler):
    """Writes to standard output."""

    def write(self, line: str) -> None:
        """Write a line past Python's buffer, which would keep it and fail again when the process ends."""
        try:
            descriptor = sys.stdout.fileno()
        except OSError:
            sys.stdout.write(f"{line}\n")  # Standard output was replaced, as tests do.
            return
        content = memoryview(f"{line}\n".encode(errors="backslashreplace"))
        while content:
            content = content[os.write(descriptor, content) :]


class FileHandler(LineHandler):
    """Writes to a file.

    Args:
        file: it is made, if there is none.
        most_bytes: size at which a new one is begun.
        backups: former ones that are kept.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, file: Path, most_bytes: int, backups: int) -> None:
        self._file = _File(file, maxBytes=most_bytes, backupCount=backups, encoding="utf-8")
        super().__init__()

    def write(self, line: str) -> None:
        """Write a line."""
        self._file.emit(logging.makeLogRecord({"msg": line}))

    def close(self) -> None:
        """Close the file."""
        super().close()
        self._file.close()


class _File(RotatingFileHandler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802, ARG002 - logging's name
        raise


def dropped() -> int:
    """Lines that this process has dropped so far."""
    return sum(handler.dropped for handler in logging.getLogger().handlers if isinstance(handler, LineHandler))


def flush() -> None:
    """Wait until what was logged is written, for a second at most: a process that ends by a signal does not."""
    for handler in logging.getLogger().handlers:
        handler.flush()
