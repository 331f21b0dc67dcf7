"""The ONNX model as every server of the benchmark runs it: one session with one thread.

``python -m load_tests.benchmark.peers.onnx_model model.onnx ROWS SECONDS`` prints the rows/s of one process.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

FloatMatrix = NDArray[np.float64]

ONNX_VARIABLE = "BENCHMARK_ONNX"
"""The environment variable that names the model file."""


def load(path: str | Path | None = None) -> Callable[[FloatMatrix], NDArray[np.float64]]:
    """A function from rows ``[N, F]`` to predictions ``[N]``.

    Args:
        path: of the model file; by default what the environment names.
    """
    options = ort.SessionOptions()
    # As in our own service: servers have a process a core, threads in the session would only wait for each other.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path or os.environ[ONNX_VARIABLE]), options, providers=["CPUExecutionProvider"])
    (feed,) = (tensor.name for tensor in session.get_inputs())
    fetch = [session.get_outputs()[0].name]

    def predict(rows: FloatMatrix) -> NDArray[np.float64]:
        (outputs,) = session.run(fetch, {feed: rows})
        return np.asarray(outputs, dtype=np.float64).reshape(-1)

    return predict


def rows_per_second(path: str, rows: int, seconds: float) -> float:
    """Rows a second of this process, with calls of ``rows`` rows."""
    from load_tests.benchmark import payloads  # the peers' environments lack what it needs

    predict = load(path)
    calls = [np.ascontiguousarray(batch) for batch in payloads.batches(payloads.table(), rows)]
    predict(calls[0])
    done = 0
    started = perf_counter()
    while perf_counter() - started < seconds:
        predict(calls[done % len(calls)])
        done += 1
    return done * rows / (perf_counter() - started)


if __name__ == "__main__":
    sys.stdout.write(str(rows_per_second(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))))
