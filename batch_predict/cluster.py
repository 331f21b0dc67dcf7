"""Parts predicted by a Ray cluster, by Ray Data. The only file that knows Ray, which is imported on demand."""

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pyarrow import ArrowException

import contract
import training
from batch_predict.output import Done
from batch_predict.part_worker import Job, PartWorker
from batch_predict.plan import Part
from batch_predict.processes import failure
from contract.errors import PipelineError


class RayWorker:
    """A worker in a process of the cluster, as Ray Data makes it."""

    def __init__(self, job: Job, parts: Sequence[Part]) -> None:
        self._worker = PartWorker(job)
        self._parts = {part.number: part for part in parts}

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """Predict the part with the number ``item["number"]``; a sentence in ``failed`` if it cannot be done."""
        part = self._parts[int(item["number"])]
        try:
            self._worker.predict(part)
        except (OSError, ArrowException) as error:
            return {"number": part.number, "failed": failure(part, error)}
        return {"number": part.number, "failed": ""}


def run(job: Job, parts: Sequence[Part], address: str, done: Callable[[Done], None]) -> None:
    """Predict parts by a cluster; ``done`` is told of each. Ray does again what a process or a node that died had.

    Every node must find the input and the output under the same paths, and have the project's dependencies.

    Raises:
        PipelineError: Ray is not installed, there is no cluster, or a part cannot be read or written.
    """
    # Ray reads these when it is imported. Nothing is sent anywhere, and no line is written that says nothing.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as error:
        raise PipelineError(
            "Ray is not installed: `make ray` adds it to .venv. Without --ray this machine predicts by itself."
        ) from error
    packages = [str(Path(package.__file__ or "").parent) for package in (contract, training)]
    try:
        ray.init(address=address, runtime_env={"py_modules": packages}, log_to_driver=False, logging_level="WARNING")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise PipelineError(
            f"There is no Ray cluster at {address} ({error}). Start one with `ray start --head`, and run this command "
            "on one of its machines."
        ) from error
    try:
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        ray.data.DataContext.get_current().enable_progress_bars = False
        numbers = ray.data.from_items([{"number": part.number} for part in parts], override_num_blocks=len(parts))
        cores = max(1, int(ray.cluster_resources().get("CPU", 1)))
        predicted = numbers.map(
            RayWorker,
            fn_constructor_args=[job, list(parts)],
            compute=ray.data.ActorPoolStrategy(size=min(len(parts), cores)),
            num_cpus=1,
        )
        for row in predicted.iter_rows():
            if row["failed"]:
                raise PipelineError(row["failed"])
            written = job.files.done(row["number"])
            if written is None:
                raise PipelineError(
                    f"Part {row['number']} was predicted, and is not in {job.files.folder}: every node must see this "
                    "folder under this path. Use a storage that all machines share."
                )
            done(written)
    except ray.exceptions.RayError as error:
        raise PipelineError(
            f"The Ray cluster at {address} could not go on; the same command goes on with what is done. {error}"
        ) from error
    finally:
        ray.shutdown()
