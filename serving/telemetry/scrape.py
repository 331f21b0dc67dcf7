"""The answer of ``/metrics``: the series of all workers.

A scrape is exact: the worker that is asked has the others write what they have noted first. A dead worker's counters
are kept; its gauges are dropped. Its files are folded into one, or a worker that keeps dying would fill the disk and
slow down each scrape.
"""

import asyncio
import fcntl
import logging
import math
import os
import re
import shutil
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Metric, generate_latest
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from serving.telemetry import bulk
from serving.telemetry.files import ReservedFile

logger = logging.getLogger(__name__)

CONTENT_TYPE = CONTENT_TYPE_LATEST
KEPT_KINDS = {"counter", "histogram", "summary", "gauge_max"}
"""Kinds of files that outlive their worker. Of the others, ``gauge_all`` has the worker's pid in a label."""
FLUSH_TIMEOUT_SECONDS = 0.5
"""Longest time to wait for the other workers: one that is busy for longer is scraped as it stands."""
FOLDING, COPY, FOLDED = ".folding", ".copy", ".folded"
"""Endings of files of dead workers on their way into ``<kind>_dead.db``."""
_FILE = re.compile(r"(counter|histogram|summary|gauge_[a-z]+)_(\d+)\.db")


async def latest() -> bytes:
    """All series, in Prometheus' text format."""
    bulk.flush()
    await _peer().flush_others()
    return await asyncio.to_thread(_collect)


def join() -> None:
    """Take part in the scrapes of the other workers. Call it once, on the event loop of a worker that starts."""
    try:
        with _alone():
            # Do it even if nobody scrapes: this worker may replace one that keeps dying.
            bury_dead(_directory())
        _peer()
    except OSError as error:
        # On a full disk: the next scrape tries again.
        logger.error("the metrics directory fails: scrapes are less exact", extra={"error": error.strerror})  # noqa: TRY400 - no bug


def bury_dead(directory: Path) -> None:
    """Fold what dead workers counted into ``<kind>_dead.db``, and remove their gauges and sockets.

    The worker that does it may be killed at any point: the next one continues, and each file is counted once.
    """
    for path in directory.glob(f"*{FOLDED}"):
        _finish(path)
    for path in directory.glob(f"*{FOLDING}"):
        _fold_if_room(path)
    for path in sorted(directory.glob("*.db")):
        match = _FILE.fullmatch(path.name)
        if match is None or is_alive(int(match[2])):
            continue
        if match[1] in KEPT_KINDS:
            # A new worker may get the same pid: from here on, its file is another.
            _fold_if_room(path.rename(path.with_suffix(FOLDING)))
        else:
            path.unlink()
    for path in directory.glob("flush_*.sock"):
        if not is_alive(int(path.stem.removeprefix("flush_"))):
            path.unlink(missing_ok=True)


class _Peer:
    """The socket on which the workers of a server ask each other to write what they have noted.

    It is a datagram socket in the metrics directory, which only this server's processes write to. A message is
    ``flush <pid> <number>``, its answer ``done <pid> <number>``.
    """

    def __init__(self, directory: Path, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        self._path = directory
        self._number = 0
        self._waiting: dict[bytes, tuple[set[int], asyncio.Future[None]]] = {}
        (directory / _socket_name(os.getpid())).unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(0)
        self._socket.bind(self._address(os.getpid()))
        loop.add_reader(self._socket, self._read)

    async def flush_others(self) -> None:
        """Have every other worker write what it has noted; return when all have, or after a time-out."""
        own = os.getpid()
        pids = {int(path.stem.removeprefix("flush_")) for path in self._path.glob("flush_*.sock")} - {own}
        self._number += 1
        number = b"%d" % self._number
        asked = {pid for pid in pids if self._send(pid, b"flush %d %s" % (own, number))}
        if not asked:
            return
        done = self.loop.create_future()
        self._waiting[number] = asked, done
        try:
            async with asyncio.timeout(FLUSH_TIMEOUT_SECONDS):
                await done
        except TimeoutError:
            logger.warning("a scrape did not wait for busy workers", extra={"workers": sorted(asked)})
        finally:
            del self._waiting[number]

    def _read(self) -> None:
        try:
            word, pid, number = self._socket.recv(100).split(b" ")
        except BlockingIOError:
            return
        if word == b"flush":
            bulk.flush()
            self._send(int(pid), b"done %d %s" % (os.getpid(), number))
        elif number in self._waiting:
            asked, done = self._waiting[number]
            asked.discard(int(pid))
            if not asked and not done.done():
                done.set_result(None)

    def _send(self, pid: int, message: bytes) -> bool:
        """Whether the worker was there to take it."""
        try:
            self._socket.sendto(message, self._address(pid))
        except (FileNotFoundError, ConnectionRefusedError, BlockingIOError):
            # Dead, or so busy that its socket is full.
            return False
        return True

    def _address(self, pid: int) -> str:
        path = str(self._path / _socket_name(pid))
        # An address holds 107 bytes; by the number of the open directory it is short whatever the path is.
        return path if len(os.fsencode(path)) < 100 else f"/proc/self/fd/{self._directory}/{_socket_name(pid)}"


def _socket_name(pid: int) -> str:
    return f"flush_{pid}.sock"


_peers: list[_Peer] = []


def _peer() -> _Peer:
    """The socket of this worker, opened on the first call on its event loop."""
    loop = asyncio.get_running_loop()
    if not _peers or _peers[-1].loop is not loop:
        _peers.append(_Peer(_directory(), loop))
    return _peers[-1]


class _Current(Collector):
    """The series of all workers but those that were withdrawn, in the order that the text format wants."""

    def __init__(self, directory: Path) -> None:
        self._workers = MultiProcessCollector(CollectorRegistry(), str(directory))

    def collect(self) -> Iterable[Metric]:
        """Every family with its samples."""
        for metric in self._workers.collect():
            metric.samples = [sample for sample in metric.samples if math.isfinite(sample.value)]
            if metric.type == "histogram":
                # The collector has sum and count before the buckets.
                metric.samples.sort(key=_histogram_order)
            yield metric


def _histogram_order(sample: Sample) -> tuple[list[tuple[str, str]], int, float]:
    """Each histogram with its buckets, ascending, then count and sum."""
    labels = sorted(pair for pair in sample.labels.items() if pair[0] != "le")
    return labels, ("bucket", "count", "sum").index(sample.name.rpartition("_")[2]), float(sample.labels.get("le", 0))


def _collect() -> bytes:
    with _alone():
        directory = _directory()
        bury_dead(directory)
        registry = CollectorRegistry()
        registry.register(_Current(directory))
        return generate_latest(registry)


def _fold_if_room(source: Path) -> None:
    """Fold a file; on a full disk, leave it as it was, so that scrapes go on reading it by itself."""
    try:
        _fold(source)
    except OSError:
        source.with_suffix(COPY).unlink(missing_ok=True)
        unfolded = source.with_suffix(".db")
        if source.exists() and not unfolded.exists():
            source.rename(unfolded)


def _fold(source: Path) -> None:
    """Fold ``<kind>_<pid>.folding`` into ``<kind>_dead.db``.

    The sums are made in a copy. Once it is whole, it gets the name ``<kind>_<pid>.folded``, and from then on it stands
    for both files. A scrape reads none of these.
    """
    target, copy, folded = _dead(source), source.with_suffix(COPY), source.with_suffix(FOLDED)
    copy.unlink(missing_ok=True)
    if target.exists():
        shutil.copyfile(target, copy)
    _add(source, copy, larger=_kind(source) == "gauge_max")
    copy.rename(folded)
    _finish(folded)


def _finish(folded: Path) -> None:
    """Replace the files with their sums. The source is removed first, so that nobody folds it again."""
    folded.with_suffix(FOLDING).unlink(missing_ok=True)
    folded.rename(_dead(folded))


def _kind(path: Path) -> str:
    return path.name.rpartition("_")[0]


def _dead(path: Path) -> Path:
    return path.with_name(f"{_kind(path)}_dead.db")


def _add(source: Path, target: Path, *, larger: bool) -> None:
    """Add each value of ``source`` to the one in ``target``, or keep the larger of both."""
    sums = ReservedFile(str(target))
    try:
        for key, value, _, _ in MmapedDict.read_all_values_from_file(str(source)):
            known, _ = sums.read_value(key)
            sums.write_value(key, max(known, value) if larger else known + value, 0.0)
    finally:
        sums.close()


def is_alive(pid: int) -> bool:
    """Whether a process runs."""
    try:
        # A killed worker is a zombie until its parent looks after it, which BentoML's does every 10 seconds.
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _directory() -> Path:
    return Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])


@contextmanager
def _alone() -> Iterator[None]:
    """A lock: no worker reads what another one folds."""
    with (_directory() / "scrape.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
