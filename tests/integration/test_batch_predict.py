"""Batch prediction as people run it: constant memory, kills, and a Ray cluster of two nodes on this machine."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contract.datasets.iris import IRIS
from load_tests.benchmark.batch_predict import measure
from local_service import free_port
from tests.integration.conftest import Newcomer
from tests.waiting import wait_until

ROWS = 400_000
PART_ROWS = 4_000
WITHIN = 180.0


def flowers(path: Path, rows: int) -> Path:
    """A table in the ranges of the contract, a thousandth of it bad, written piece by piece."""
    low, high = IRIS.bounds
    draw = np.random.default_rng(rows)
    schema = pa.schema([("id", pa.int64()), *((name, pa.float64()) for name in IRIS.feature_names)])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, rows, 100_000):
            values = draw.uniform(low, high, (min(100_000, rows - start), len(low)))
            values[::1000, 0] = np.nan
            ids = np.arange(start, start + len(values))
            writer.write_table(pa.table([pa.array(ids), *(pa.array(column) for column in values.T)], schema=schema))
    return path


def contents(folder: Path) -> dict[str, bytes]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return flowers(tmp_path_factory.mktemp("flowers") / "flowers.parquet", ROWS)


def command(table: Path, target: Path, *options: str) -> list[str]:
    words = ["-m", "batch_predict", str(table), str(target), "--model", "iris@champion"]
    return [".venv/bin/python", *words, "--part-rows", str(PART_ROWS), *options]


@contextmanager
def running(newcomer: Newcomer, words: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(words, cwd=newcomer.clone, env=newcomer.variables(), start_new_session=True) as process:
        try:
            yield process
        finally:
            process.kill()


def parts(target: Path) -> int:
    return len(list((target / "_done").glob("*.json")))


@pytest.fixture(scope="module")
def whole(served_once: Newcomer, table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run that nobody disturbed."""
    target = tmp_path_factory.mktemp("whole") / "out"
    subprocess.run(command(table, target), cwd=served_once.clone, env=served_once.variables(), check=True)
    return target


def test_every_row_is_predicted_as_the_service_does(served_once: Newcomer, whole: Path, table: Path) -> None:
    written = pq.ParquetDataset(whole).read()
    rejected = pq.ParquetDataset(whole / "_rejected").read()
    assert written["id"].to_pylist() == [row for row in range(ROWS) if row % 1000]
    assert rejected["input_row"].to_pylist() == list(range(0, ROWS, 1000))
    assert set(rejected["reasons"].to_pylist()) == {
        f"sepal_length, row {row}: the value is not a number (NaN)." for row in range(0, ROWS, 1000)
    }
    rows = pq.read_table(table).slice(1, 999).select(list(IRIS.feature_names)).to_pylist()
    with served_once.serving("bentoml serve") as url:
        answers = httpx.post(f"{url}/predict/iris/batch", json={"rows": rows}).raise_for_status().json()["predictions"]
    ours = written.slice(0, 999).to_pylist()
    assert [
        {
            "prediction": row["prediction"],
            "label": row["label"],
            "confidence": row["confidence"],
            "probabilities": {name: row[f"probability_{name}"] for name in IRIS.target.classes},
        }
        for row in ours
    ] == answers


def test_a_run_that_is_killed_goes_on_and_gives_the_same_bytes(
    served_once: Newcomer, whole: Path, table: Path, tmp_path: Path
) -> None:
    target = tmp_path / "out"
    with running(served_once, command(table, target, "--processes", "2")) as process:
        wait_until(lambda: parts(target) >= 2, "two parts")
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGKILL)
        process.wait()
    before = parts(target)
    assert before < ROWS // PART_ROWS
    # What it leaves ends by itself.
    assert not psutil.wait_procs(family, timeout=WITHIN)[1]
    subprocess.run(command(table, target), cwd=served_once.clone, env=served_once.variables(), check=True)
    assert contents(target) == contents(whole)


@pytest.mark.weekly
def test_memory_does_not_grow_with_the_table(served_once: Newcomer, tmp_path: Path) -> None:
    peaks = []
    for rows in (1_000_000, 4_000_000):
        source = flowers(tmp_path / f"{rows}.parquet", rows)
        words = command(source, tmp_path / f"{rows}-out.parquet", "--part-rows", "100000")
        peaks.append(measure(words, served_once.clone, served_once.variables()).peak_bytes)
    # The larger table has 96 MB more of features alone.
    assert peaks[1] < peaks[0] + 60e6


class Cluster:
    """Two nodes of one core each, with addresses of their own in this machine's loopback network."""

    def __init__(self, newcomer: Newcomer, stack: ExitStack, folder: Path) -> None:
        port = free_port()
        self.address = f"127.0.0.2:{port}"
        self._environment = {**newcomer.variables(), "RAY_USAGE_STATS_ENABLED": "0"}
        self._newcomer, self._stack, self._folder = newcomer, stack, folder
        self.nodes = [
            self._start("127.0.0.2", "--head", f"--port={port}", f"--temp-dir={folder}/s", "--include-dashboard=false"),
            self._start("127.0.0.3", f"--address={self.address}"),
        ]

    def _start(self, host: str, *options: str) -> psutil.Process:
        log = self._folder / f"{host}.log"
        sink = self._stack.enter_context(log.open("wb"))
        process = self._stack.enter_context(
            subprocess.Popen(
                [
                    *(".venv/bin/ray", "start", "--block", f"--node-ip-address={host}", "--num-cpus=1"),
                    *("--object-store-memory=100000000", "--disable-usage-stats", *options),
                ],
                cwd=self._newcomer.clone,
                env=self._environment,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        )
        self._stack.callback(end, process.pid)
        wait_until(lambda: "runtime started" in log.read_text() or process.poll() is not None, "a node of Ray")
        assert process.poll() is None, log.read_text()
        return psutil.Process(process.pid)

    def workers(self) -> list[psutil.Process]:
        """The processes that predict, of all nodes."""
        found = []
        for node in self.nodes:
            for process in node.children(recursive=True):
                with suppress(psutil.NoSuchProcess):  # some come and go
                    if "MapWorker" in " ".join(process.cmdline()):
                        found.append(process)
        return found

    def busy_nodes(self) -> int:
        """How many nodes have such a process."""
        parents = set()
        for worker in self.workers():
            with suppress(psutil.NoSuchProcess):
                parents.add(worker.ppid())
        return len(parents)


def end(pid: int) -> None:
    """End a process and all that it started, by their ids."""
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    for process in psutil.wait_procs(family, timeout=20)[1]:
        with suppress(psutil.NoSuchProcess):
            process.kill()


@pytest.fixture
def cluster(served_once: Newcomer) -> Iterator[Cluster]:
    served_once.run("make ray")
    # A socket's path may have 107 bytes: pytest's folders are too deep.
    folder = Path(f"/tmp/ray-{os.getpid()}")  # noqa: S108
    folder.mkdir()
    with ExitStack() as stack:
        stack.callback(subprocess.run, ["rm", "-r", str(folder)], check=True)
        yield Cluster(served_once, stack, folder)


@pytest.mark.weekly
def test_a_cluster_of_two_nodes_gives_the_same_bytes_though_a_worker_is_killed(
    served_once: Newcomer, cluster: Cluster, whole: Path, table: Path, tmp_path: Path
) -> None:
    target = tmp_path / "out"
    with running(served_once, command(table, target, "--ray", cluster.address)) as process:
        wait_until(lambda: parts(target) >= 2 or process.poll() is not None, "two parts")
        early = cluster.workers()
        for worker in early:
            worker.suspend()  # or it would do all, on a machine where the other node takes its time
        wait_until(lambda: cluster.busy_nodes() == 2 or process.poll() is not None, "a worker on each node")
        assert parts(target) < ROWS // PART_ROWS
        early[0].kill()
        for worker in early[1:]:
            worker.resume()
        assert process.wait(timeout=WITHIN) == 0
    assert contents(target) == contents(whole)
