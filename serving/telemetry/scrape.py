"""What ``/metrics`` answers: the series of all workers, those that have died included as far as it is true.

What a dead worker counted stays counted. What it said of itself, such as requests in progress, goes. Its files are
folded into one, or a worker that keeps dying would fill the disk and slow each scrape.
"""

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from bentoml._internal.configuration.containers import BentoMLContainer
from prometheus_client import CONTENT_TYPE_LATEST
from prometheus_client.mmap_dict import MmapedDict

_FILE = re.compile(r"(counter|histogram|summary|gauge_[a-z]+)_(\d+)\.db")
CONTENT_TYPE = CONTENT_TYPE_LATEST
FOLDED = {"counter", "histogram", "summary", "gauge_max"}
"""Kinds of files that outlive their worker. Of the others, ``gauge_all`` has the worker's pid in a label."""


def latest() -> bytes:
    """All series, in Prometheus' text format."""
    with _alone():
        bury_dead(_directory())
        text: bytes = BentoMLContainer.metrics_client.get().generate_latest()
        return text


def tidy() -> None:
    """Bury the dead also where nobody scrapes: a worker that starts may come for one that keeps dying."""
    with _alone():
        bury_dead(_directory())


def bury_dead(directory: Path) -> None:
    """Fold what dead workers counted into ``<kind>_dead.db``, and remove what they said of themselves."""
    for path in sorted(directory.glob("*.db")):
        match = _FILE.fullmatch(path.name)
        if match is None or _alive(int(match[2])):
            continue
        kind = match[1]
        if kind in FOLDED:
            _fold(path, directory / f"{kind}_dead.db", larger=kind == "gauge_max")
        path.unlink()


def _fold(source: Path, target: Path, *, larger: bool) -> None:
    """Add each value of ``source`` to the one in ``target``, or keep the larger of both."""
    sums = MmapedDict(str(target))
    try:
        for key, value, _, _ in MmapedDict.read_all_values_from_file(str(source)):
            known, _ = sums.read_value(key)
            sums.write_value(key, max(known, value) if larger else known + value, 0.0)
    finally:
        sums.close()


def _alive(pid: int) -> bool:
    try:
        # Who was killed is a zombie until its parent looks after it, which BentoML's does every 10 seconds.
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _directory() -> Path:
    return Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])


@contextmanager
def _alone() -> Iterator[None]:
    """One worker at a time: none reads what another folds."""
    with (_directory() / "scrape.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
