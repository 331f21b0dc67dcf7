"""The spool: files in which predictions wait for the database.

Each worker appends to a segment of its own, and begins a new one when it is large or old. It holds a lock on the
segment it writes: a segment without a lock is finished. What was written survives the death of the process.

A segment is ``MAGIC``, then records: a mark, the length of what follows, the record, its CRC-32. Where bytes are
damaged, the mark leads to the next record.
"""

import fcntl
import logging
import os
import socket
import struct
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from uuid import uuid4

from contract.table import FloatMatrix
from ledger import locks
from ledger.record import ErrorCount, Record
from ledger.values import pack

logger = logging.getLogger(__name__)

MAGIC = b"LEDGER1\n"
"""The first bytes of a segment; the digit is the version of the format."""
SUFFIX = ".spool"
_UNFINISHED_SUFFIX = ".new"
SEGMENT_BYTES = 4 * 1024 * 1024
SEGMENT_SECONDS = 60.0
"""A segment with records is finished at this age in seconds, so that its space is freed."""
PART_BYTES = 1024 * 1024
"""Bytes of a segment that are read at once, if no record is longer."""
RETRY_SECONDS = 1.0
"""Time between two attempts to write to a disk that has failed, and between two looks at the size of the spool."""
WARN_SECONDS = 60.0
"""Time between two warnings that segments are being dropped."""

_MARK = b"\xf1LR\x01"
_HEAD = struct.Struct("<4sI")
"""The mark, and the length of the record with its checksum, which covers all bytes before it."""
_PREDICTION = struct.Struct("<4sIB16sqdIIHH")
"""Head, kind, id, time, milliseconds, rows; bytes of the features (or ``_NOT_KEPT``), the source, the request id."""
_ERRORS = struct.Struct("<4sIBqHI")
"""Head, kind, minute, status, requests; then the source."""
_CHECKSUM = struct.Struct("<I").pack
_IS_PREDICTION, _IS_ERRORS = 1, 2
_NOT_KEPT = 0xFFFFFFFF


def encode(
    id: str,  # noqa: A002 - as in Record
    request_id: str,
    time_us: int,
    model: str,
    version: str,
    protocol: str,
    milliseconds: float,
    rows: FloatMatrix | None,
    outputs: FloatMatrix,
) -> bytes:
    """A prediction as a record of a segment. The arguments are those of ``Record``, which takes time to make."""
    source = _source(model, version, protocol)
    identifier = request_id.encode()
    features = b"" if rows is None else pack(rows)
    values = pack(outputs)
    length = _PREDICTION.size - _HEAD.size + len(source) + len(identifier) + len(features) + len(values) + 4
    content = b"".join(
        (
            _PREDICTION.pack(
                _MARK,
                length,
                _IS_PREDICTION,
                bytes.fromhex(id),
                time_us,
                milliseconds,
                len(outputs),
                _NOT_KEPT if rows is None else len(features),
                len(source),
                len(identifier),
            ),
            source,
            identifier,
            features,
            values,
        )
    )
    return content + _CHECKSUM(zlib.crc32(content))


def encode_errors(count: ErrorCount) -> bytes:
    """A count of refused or failed requests as a record of a segment."""
    source = _source(count.model, "", count.protocol)
    length = _ERRORS.size - _HEAD.size + len(source) + 4
    content = _ERRORS.pack(_MARK, length, _IS_ERRORS, count.minute, count.status, count.requests) + source
    return content + _CHECKSUM(zlib.crc32(content))


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """What was read of a segment.

    Args:
        records, errors: in the order in which they were written.
        position: where the next part begins, in bytes.
        torn: how many torn or damaged stretches were skipped.
    """

    records: list[Record]
    errors: list[ErrorCount]
    position: int
    torn: int

    @property
    def empty(self) -> bool:
        """Whether there is nothing to commit."""
        return not self.records and not self.errors


def read_segment(path: Path, position: int, *, finished: bool, most: int | None = None) -> Part:
    """Read about ``PART_BYTES`` of a segment.

    Args:
        path: the segment.
        position: where to begin: 0, or the position of the part before.
        finished: nobody writes it any more. Then an incomplete end is torn, else it may still be completed.
        most: how many records to read at most; None for all that are in the bytes.

    Raises:
        FileNotFoundError: it was dropped.
    """
    records: list[Record] = []
    errors: list[ErrorCount] = []
    torn = 0
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(position)
        content = file.read(PART_BYTES)
        whole = position + len(content) >= size
        offset = len(MAGIC) if position == 0 and content.startswith(MAGIC) else 0
        while most is None or len(records) + len(errors) < most:
            body = _body(content, offset)
            if body is not None:
                if body[_HEAD.size] == _IS_PREDICTION:
                    records.append(_prediction(body))
                else:
                    errors.append(_errors(body))
                offset += len(body) + 4
            elif not whole:
                if records or errors:
                    break  # This record begins the next part.
                # The record is longer than a part, or damaged: read the rest of the segment to find out.
                content += file.read()
                whole = True
            elif offset == len(content):
                break
            else:
                following = _next_record(content, offset + 1)
                if following is None and not finished:
                    break  # It may still be completed.
                torn += 1
                offset = len(content) if following is None else following
    return Part(records, errors, position + offset, torn)


def _body(content: bytes, offset: int) -> bytes | None:
    """The record at this offset without its checksum; None if there is no whole one."""
    if len(content) - offset < _HEAD.size:
        return None
    mark, length = _HEAD.unpack_from(content, offset)
    end = offset + _HEAD.size + length
    if mark != _MARK or end > len(content):
        return None
    body = content[offset : end - 4]
    return body if content[end - 4 : end] == _CHECKSUM(zlib.crc32(body)) else None


def _next_record(content: bytes, start: int) -> int | None:
    offset = content.find(_MARK, start)
    while offset >= 0:
        if _body(content, offset) is not None:
            return offset
        offset = content.find(_MARK, offset + 1)
    return None


def _prediction(body: bytes) -> Record:
    _, _, _, identifier, time_us, milliseconds, count, length, source_length, id_length = _PREDICTION.unpack_from(body)
    id_start = _PREDICTION.size + source_length
    id_end = id_start + id_length
    identity = (
        identifier.hex(),
        body[id_start:id_end].decode(),
        time_us,
        *_source_of(body[_PREDICTION.size : id_start]),
        milliseconds,
    )
    if length == _NOT_KEPT:
        return Record.of_bytes(identity, count, None, body[id_end:])
    end = id_end + length
    return Record.of_bytes(identity, count, body[id_end:end], body[end:])


def _errors(body: bytes) -> ErrorCount:
    _, _, _, minute, status, requests = _ERRORS.unpack_from(body)
    model, _, protocol = _source_of(body[_ERRORS.size :])
    return ErrorCount(minute, model, protocol, status, requests)


@cache
def _source(model: str, version: str, protocol: str) -> bytes:
    """Model, version and protocol. There are few combinations, so they are cached."""
    return f"{model}\0{version}\0{protocol}".encode()


@cache
def _source_of(content: bytes) -> tuple[str, str, str]:
    model, version, protocol = content.decode().split("\0")
    return model, version, protocol


def segments(directory: Path) -> list[Path]:
    """The segments of a spool, the oldest first."""
    return sorted(path for path in directory.iterdir() if path.suffix == SUFFIX) if directory.is_dir() else []


def begun(segment: Path) -> float:
    """Unix time at which a segment was begun, from its name."""
    return int(segment.name.partition("-")[0], 16) / 1e6


def is_finished(segment: Path) -> bool:
    """Whether nobody writes this segment any more: its writer has closed it, or is dead."""
    return not locks.is_held(segment)


def size(directory: Path) -> int:
    """The bytes of all segments of a spool."""
    return sum(_size(path) for path in segments(directory))


def prepare(directory: Path) -> None:
    """Make the directory of a spool, and check that segments can be written to it.

    Raises:
        OSError: they cannot.
    """
    directory.mkdir(parents=True, exist_ok=True)
    probe = directory / f"{_new_name()}{_UNFINISHED_SUFFIX}"
    probe.write_bytes(MAGIC)
    probe.unlink()


def sweep(directory: Path) -> None:
    """Remove unfinished files of processes that were killed while they began a segment."""
    for path in directory.glob(f"*{_UNFINISHED_SUFFIX}"):
        if time.time() - _modified(path) > SEGMENT_SECONDS and not locks.is_held(path):
            path.unlink(missing_ok=True)


class SpoolWriter:
    """Appends records to segments. Each writer has its own, and is used by one thread at a time.

    A disk that fails, such as a full one, never raises: what cannot be written is counted, and writing is tried again.

    Args:
        directory: of the spool; made if there is none.
        limit_bytes: of all segments in the spool. Above it the oldest ones are dropped.

    Attributes:
        written, unwritten: records that were written, and that were lost because the disk failed.
        dropped: segments that were dropped because of the limit.
    """

    def __init__(self, directory: Path, limit_bytes: int) -> None:
        self.written = 0
        self.unwritten = 0
        self.dropped = 0
        self._directory = directory
        self._limit = limit_bytes
        # Segments are small, so that dropping one drops a small part of a full spool.
        self._segment_bytes = min(SEGMENT_BYTES, limit_bytes // 16)
        self._descriptor: int | None = None
        self._size = 0
        self._begun = 0.0
        self._looked = -RETRY_SECONDS
        self._failed: float | None = None
        """Time of the disk's last failure, if nothing was written since."""
        self._warned = -WARN_SECONDS

    def append(self, records: Sequence[bytes]) -> None:
        """Write encoded records, with one system call unless the disk is full."""
        if not records:
            return
        now = time.monotonic()
        if self._failed is not None and now - self._failed < RETRY_SECONDS:
            self.unwritten += len(records)
            return
        content = memoryview(b"".join(records))
        done = 0
        try:
            if self._descriptor is None or now - self._looked >= RETRY_SECONDS:
                self._looked = now
                self._make_room(now)
            if self._descriptor is None:
                self._descriptor, self._size = self._begin()
                self._begun = now
            while done < len(content):
                done += os.write(self._descriptor, content[done:])
        except OSError as error:
            self._fail(error, now, records, done)
            return
        self.written += len(records)
        self._size += len(content)
        if self._failed is not None:
            self._failed = None
            logger.warning("the ledger records again", extra={"unwritten": self.unwritten})
        if self._size >= self._segment_bytes:
            self.finish()

    def tend(self) -> None:
        """Finish a segment that is old. Call it now and then, also when there is nothing to append."""
        if self._descriptor is not None and time.monotonic() - self._begun >= SEGMENT_SECONDS:
            self.finish()

    def finish(self) -> None:
        """Finish the segment; the next record begins a new one."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _begin(self) -> tuple[int, int]:
        """A new segment: its descriptor, which holds its lock, and its size.

        It gets its name once it is locked, so that it never looks finished too early.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        name = _new_name()
        unfinished = self._directory / f"{name}{_UNFINISHED_SUFFIX}"
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            magic = memoryview(MAGIC)
            while magic:
                magic = magic[os.write(descriptor, magic) :]
            unfinished.rename(self._directory / f"{name}{SUFFIX}")
        except OSError:
            os.close(descriptor)
            unfinished.unlink(missing_ok=True)
            raise
        return descriptor, len(MAGIC)

    def _fail(self, error: OSError, now: float, records: Sequence[bytes], done: int) -> None:
        """Count the records that were not written, and finish the segment: its end may be torn. The end is not cut off:
        the drainer may have read up to it.
        """
        for record in records:
            done -= len(record)
            if done < 0:
                self.unwritten += 1
            else:
                self.written += 1
        if self._failed is None:
            logger.error(
                "the ledger does not record: its disk fails; predictions go on",
                extra={"error": error.strerror or str(error), "directory": str(self._directory)},
            )
        self._failed = now
        self.finish()

    def _make_room(self, now: float) -> None:
        """Drop the oldest finished segments until the spool is within its limit."""
        found = [(path, _size(path)) for path in segments(self._directory)]
        excess = sum(size for _, size in found) + self._segment_bytes - self._limit
        if excess <= 0:
            return
        for path, size in found:
            if excess > 0 and is_finished(path) and _remove(path):
                excess -= size
                self.dropped += 1
        if excess > 0:
            # All other segments are being written; ours can be dropped the next time.
            self.finish()
        if now - self._warned >= WARN_SECONDS:
            self._warned = now
            logger.error(
                "the spool is full: the oldest records are dropped. Is the database reachable?",
                extra={"dropped_segments": self.dropped, "limit_bytes": self._limit},
            )


def _new_name() -> str:
    """A name in order of time, unique over hosts and processes."""
    host = "".join(letter if letter.isalnum() else "-" for letter in socket.gethostname())[:40]
    return f"{time.time_ns() // 1000:016x}-{host}-{os.getpid()}-{uuid4().hex[:12]}"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return time.time()


def _remove(path: Path) -> bool:
    try:
        path.unlink()
    except FileNotFoundError:
        return False  # The drainer or another worker has removed it.
    return True
