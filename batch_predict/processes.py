"""Predict parts in processes of this machine."""

import signal
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait

from pyarrow import ArrowException

from batch_predict.output import Done
from batch_predict.part_worker import Job, PartWorker
from batch_predict.parts import Part
from contract.errors import BundleError
from training import console
from training.errors import PipelineError

ATTEMPTS = 3
"""How often a part is tried if its process dies, for instance for lack of memory."""


class _Process:
    """A process and its pipe. It ends when the pipe closes, so that a killed run leaves no process behind."""

    def __init__(self, job: Job) -> None:
        # Spawned, not forked: a fork would copy the locks of this process' threads, and the ends of other pipes.
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, job), daemon=True)
        self._process.start()
        theirs.close()
        self.part: Part | None = None

    def give(self, part: Part) -> None:
        self.part = part
        try:
            self.pipe.send(part)
        except BrokenPipeError:
            return  # it died: the next read from the pipe fails

    def stop(self) -> None:
        self.pipe.close()
        self._process.terminate()
        self._process.join()


def run(job: Job, parts: Sequence[Part], processes: int, done: Callable[[Done], None]) -> None:
    """Predict parts in several processes, or in this one if ``processes`` is 1, and call ``done`` for each.

    If a process dies, another one repeats its part.

    Raises:
        PipelineError: a part cannot be read or written, or its process dies ``ATTEMPTS`` times.
    """
    if processes == 1:
        _alone(job, parts, done)
        return
    waiting = deque(parts)
    deaths: dict[int, int] = {}
    workers: list[_Process] = []
    try:
        while waiting and len(workers) < processes:
            workers.append(_Process(job))
            workers[-1].give(waiting.popleft())
        while workers:
            for pipe in wait([worker.pipe for worker in workers]):
                worker = next(worker for worker in workers if worker.pipe is pipe)
                part = worker.part
                assert part is not None  # noqa: S101 # a process without a part is stopped
                try:
                    answer = worker.pipe.recv()
                except (EOFError, ConnectionResetError):
                    workers.remove(worker)
                    worker.stop()
                    deaths[part.number] = deaths.get(part.number, 0) + 1
                    _died(part, deaths[part.number])
                    waiting.appendleft(part)
                    worker = _Process(job)
                    workers.append(worker)
                else:
                    if isinstance(answer, str):
                        raise PipelineError(answer)
                    done(answer)
                if waiting:
                    worker.give(waiting.popleft())
                else:
                    workers.remove(worker)
                    worker.stop()
    finally:
        for worker in workers:
            worker.stop()


def _alone(job: Job, parts: Sequence[Part], done: Callable[[Done], None]) -> None:
    worker = PartWorker(job)
    for part in parts:
        try:
            written = worker.predict(part)
        except (OSError, ArrowException) as error:
            raise PipelineError(failure(part, error)) from error
        done(written)


def _died(part: Part, deaths: int) -> None:
    if deaths == ATTEMPTS:
        raise PipelineError(
            f"{deaths} processes died at part {part.number} ({part.file.name}, from row {part.first_row}). If "
            "memory is short, use fewer --processes or --part-rows. Run the same command again to continue."
        )
    console.log.warning("A process died at part %d; another one repeats it.", part.number)


def _serve(pipe: Connection, job: Job) -> None:
    """Receive parts, predict them, send back what was done, or a sentence if that is impossible."""
    # Ctrl-C reaches this process too; the main process ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        worker = PartWorker(job)
        while True:
            part: Part = pipe.recv()
            pipe.send(worker.predict(part))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the main process is gone
    except BundleError as error:
        _tell(pipe, str(error))
    except (OSError, ArrowException) as error:
        _tell(pipe, failure(part, error))


def _tell(pipe: Connection, sentence: str) -> None:
    with suppress(BrokenPipeError):  # the main process may be gone
        pipe.send(sentence)


def failure(part: Part, error: Exception) -> str:
    """The sentence for a part that cannot be read or written."""
    return (
        f"Part {part.number} ({part.file.path}, from row {part.first_row}) cannot be predicted: {error}. "
        "Run the same command again to continue."
    )
