"""Predict parts on a Ray cluster, with Ray Data. Only this file knows Ray, and it imports Ray on demand."""

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pyarrow import ArrowException

import batch_predict
import contract
import model
import training
from batch_predict.output import Done
from batch_predict.part_worker import Job, PartWorker
from batch_predict.parts import Part
from batch_predict.processes import failure
from contract.errors import BundleError
from training.errors import PipelineError


class RayWorker:
    """A worker in a process of the cluster; Ray Data creates it."""

    def __init__(self, job: Job, parts: Sequence[Part]) -> None:
        self._worker = PartWorker(job)
        self._parts = {part.number: part for part in parts}

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """Predict part ``item["number"]``; ``failed`` is the reason if that is impossible."""
        part = self._parts[int(item["number"])]
        try:
            self._worker.predict(part)
        except BundleError as error:
            return {"number": part.number, "failed": str(error)}
        except (OSError, ArrowException) as error:
            return {"number": part.number, "failed": failure(part, error)}
        return {"number": part.number, "failed": ""}


def run(job: Job, parts: Sequence[Part], address: str, done: Callable[[Done], None]) -> None:
    """Predict parts on a cluster and call ``done`` for each. Ray repeats the parts of a process or node that died.

    Every node needs the project's dependencies, and the input and output under the same paths.

    Raises:
        PipelineError: Ray is not installed, there is no cluster, or a part cannot be read or written.
    """
    # Ray reads these when it is imported: send no usage data, print no progress.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as error:
        raise PipelineError(
            "Ray is not installed: `make ray` adds it to .venv. Without --ray, this machine predicts alone."
        ) from error
    packages = [str(Path(package.__file__ or "").parent) for package in (contract, model, training, batch_predict)]
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
                    f"Part {row['number']} was predicted but is not in {job.files.folder}: every node must see this "
                    "folder under this path. Use storage that all machines share."
                )
            done(written)
    except ray.exceptions.RayError as error:
        raise PipelineError(
            f"The Ray cluster at {address} failed. Run the same command again to continue. {error}"
        ) from error
    finally:
        ray.shutdown()
