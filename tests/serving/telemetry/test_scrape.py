"""Files of workers that are dead, written by processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

from local_service import PROJECT
from serving.telemetry.scrape import bury_dead

WORKER = """
import sys
from prometheus_client import Counter, Gauge, Histogram
number = float(sys.argv[1])
Counter("rows", "Rows.", ["model"]).labels("iris").inc(number)
Counter("own", "Of one worker.", ["number"]).labels(sys.argv[1]).inc()
histogram = Histogram("wait_seconds", "Wait.", buckets=(1, 2))
histogram.observe(number)
Gauge("last", "Time.", multiprocess_mode="max").set(number)
Gauge("in_progress", "Now.", multiprocess_mode="livesum").set(number)
Gauge("info", "Model.", ["version"], multiprocess_mode="livemostrecent").labels("v1").set(1)
Gauge("seen", "By pid.").set(number)
"""


def run_worker(directory: Path, number: float) -> None:
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(directory)}
    subprocess.run([sys.executable, "-c", WORKER, str(number)], env=environment, check=True)


def samples(directory: Path) -> dict[str, float]:
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(directory))
    return {
        f"{sample.name}{sorted(sample.labels.values()) or ''}": sample.value
        for metric in registry.collect()
        for sample in metric.samples
    }


def test_dead_workers_leave_what_they_counted(tmp_path: Path) -> None:
    for number in (0.5, 1.5):
        run_worker(tmp_path, number)
    counted = {name: value for name, value in samples(tmp_path).items() if not name.startswith(("in_", "info", "seen"))}
    assert counted["rows_total['iris']"] == 2
    bury_dead(tmp_path)
    assert samples(tmp_path) == counted
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {"counter_dead.db", "histogram_dead.db", "gauge_max_dead.db"}
    # Again and again, and with more of them.
    bury_dead(tmp_path)
    run_worker(tmp_path, 1.0)
    bury_dead(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == files
    now = samples(tmp_path)
    assert (now["rows_total['iris']"], now["wait_seconds_count"], now["wait_seconds_sum"]) == (3, 3, 3)
    assert [now[f"wait_seconds_bucket['{bound}']"] for bound in ("1.0", "2.0", "+Inf")] == [2, 3, 3]
    assert now["last"] == 1.5


@pytest.mark.parametrize("name", ["counter_{}.db", "gauge_livesum_{}.db", "gauge_all_{}.db"])
def test_the_files_of_the_living_stay(tmp_path: Path, name: str) -> None:
    alive = tmp_path / name.format(os.getpid())
    alive.write_bytes(b"")
    other = tmp_path / "unrelated.db"
    other.write_bytes(b"")
    bury_dead(tmp_path)
    assert {alive, other} == set(tmp_path.iterdir())


BURY = """
import itertools, os, shutil, signal, sys
from pathlib import Path
from serving.telemetry.scrape import bury_dead

def killed_at(directory, operation):
    if pid := os.fork():
        return os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    def count(event, _):
        nonlocal operation
        if event in {"os.rename", "os.remove", "os.truncate", "open", "mmap.__new__", "shutil.copyfile"}:
            operation -= 1
            if operation == 0:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(count)
    bury_dead(directory)
    os._exit(0)

made = Path(sys.argv[1])
for operation in itertools.count(1):
    directory = shutil.copytree(made, made.with_name(str(operation)))
    if not killed_at(directory, operation):
        break
    killed_at(directory, 3)
"""
"""Bury in processes each of which is killed when it is about to touch the file system for the nth time; the next one,
which goes on from there, is killed too. A process of its own forks them: that of the tests has threads."""


def test_whoever_is_killed_while_it_buries_counts_nothing_twice_and_loses_nothing(tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.mkdir()
    run_worker(made, 0.5)
    bury_dead(made)
    run_worker(made, 1.5)
    subprocess.run([sys.executable, "-c", BURY, str(made)], cwd=PROJECT, check=True)
    bury_dead(made)
    expected = samples(made)
    assert expected["rows_total['iris']"] == 2
    interrupted = sorted(path for path in tmp_path.iterdir() if path != made)
    assert len(interrupted) > 20
    for directory in interrupted:
        bury_dead(directory)
        assert samples(directory) == expected, f"killed at {directory.name}"
        assert {path.name for path in directory.iterdir()} == {path.name for path in made.iterdir()}
