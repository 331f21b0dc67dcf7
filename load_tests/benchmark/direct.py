"""onnxruntime called directly, in as many processes as the services have workers: what their rows/s are held against.

``python -m load_tests.benchmark.direct model.onnx`` prints the rows a second of one process.
"""

import subprocess
import sys
from pathlib import Path
from time import perf_counter

import numpy as np

from load_tests.benchmark import payloads
from load_tests.benchmark.errors import BenchmarkError
from load_tests.benchmark.peers import onnx_model

PROJECT = Path(__file__).parents[2]


def rows_per_second(onnx: Path, *, rows: int, seconds: float, processes: int) -> float:
    """Rows a second of several processes at once, each with calls of ``rows`` rows in turn.

    Raises:
        BenchmarkError: a process failed.
    """
    command = [sys.executable, "-m", "load_tests.benchmark.direct", str(onnx), str(rows), str(seconds)]
    started = [
        subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # noqa: S603 # our own command
        for _ in range(processes)
    ]
    total = 0.0
    for process in started:
        output, errors = process.communicate()
        if process.returncode:
            raise BenchmarkError(f"onnxruntime called directly failed: {errors.strip()[-500:]}")
        total += float(output)
    return total


def measure(onnx: Path, rows: int, seconds: float) -> float:
    """Rows a second of this process."""
    predict = onnx_model.load(onnx)
    calls = [np.ascontiguousarray(batch) for batch in payloads.batches(payloads.table(), rows)]
    predict(calls[0])
    done = 0
    started = perf_counter()
    while perf_counter() - started < seconds:
        predict(calls[done % len(calls)])
        done += 1
    return done * rows / (perf_counter() - started)


if __name__ == "__main__":
    print(measure(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))  # noqa: T201 # the command's answer
