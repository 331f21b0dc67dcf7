"""Replaces models without a restart: each worker follows ``deployed.json`` in ``MODELS_DIR``.

A worker looks at the files about once a second. If a new model is deployed, it loads and checks that model beside its
own, warms it up, and swaps between two batches. Workers of a server take turns. A model that cannot be served is
refused: the worker keeps its own, and says why.

The workers of a server tell each other in files of its own directory (that of its metrics). ``reload.asked`` holds the
number of the last request to look; ``served_<pid>.status`` what a worker serves, what it refused and why, and the last
number that it has heeded. So the worker that was asked knows when all have looked.
"""

import asyncio
import fcntl
import json
import logging
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import monotonic, perf_counter

from contract.dataset import Dataset
from contract.errors import BundleError, ErrorDetail, StartupError
from ledger import locks
from model.deployed import Deployment, DeploymentError
from serving import imported, memory
from serving.background import Background
from serving.bundle import Bundle
from serving.errors import Conflict, NotReady
from serving.models import LoadedModel, deployed_tag, find_and_load
from serving.prediction import Predictor
from serving.settings import Settings
from serving.telemetry import directory, series
from serving.telemetry.scrape import is_alive

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5
"""Seconds between two looks. A worker follows a change once two looks see the same files: copies take a while."""
ASK_SECONDS = 0.1
LOCK_SECONDS = 0.05
WAIT_SECONDS = 120.0
"""Longest time that a request to reload waits for the workers."""
_ASKED, _LOCK = "reload.asked.status", "reload.lock"

Signature = tuple[tuple[str, int, int, int], ...]
"""Path, inode, time and size of each file. Symbolic links are followed: volumes are swapped by a link."""


@dataclass(frozen=True)
class Status:
    """What a worker serves.

    Args:
        versions: of each model.
        refused: why it does not serve the deployed version, by model.
        heeded: the number of the last request that it has handled.
    """

    versions: dict[str, str]
    refused: dict[str, str] = field(default_factory=dict)
    heeded: int = 0


class Reloader:
    """Follows what is deployed, in one worker. All methods belong to its event loop.

    Args:
        bundle: the models of the worker.
        settings: where the models are.
        server: the directory of the server.
    """

    def __init__(self, bundle: Bundle, settings: Settings, server: Path | None = None) -> None:
        self._bundle = bundle
        self._models = settings.MODELS_DIR
        self._keys = settings.model_keys
        self._server = server or _server()
        self._refused: dict[str, str] = {}
        self._watching = Background()
        for name in bundle.predictors:
            for outcome in ("done", "refused"):
                series.RELOADS.labels(name, outcome)
            series.RELOAD_REFUSED.labels(name).set(0)

    def start(self) -> None:
        """Start to follow."""
        try:
            _write_status(self._server, self._status(0))
        except OSError as error:
            # It is written again with the next change; until then nobody waits for this worker.
            logger.error("this worker cannot say what it serves", extra={"error": error.strerror})  # noqa: TRY400 - no bug
        self._watching.start(self._watch())

    async def stop(self) -> None:
        """Stop following."""
        await self._watching.stop()
        _status_file(self._server, os.getpid()).unlink(missing_ok=True)

    async def everywhere(self) -> dict[int, Status]:
        """Have all workers serve what is deployed now; return what each serves.

        Raises:
            Conflict: workers refuse a model; says which and why.
            NotReady: workers have not answered in time; says which.
        """
        number = await asyncio.to_thread(self._ask)
        deadline = monotonic() + WAIT_SECONDS
        while True:
            workers = await asyncio.to_thread(_statuses, self._server)
            late = [pid for pid, status in workers.items() if status.heeded < number]
            if not late or monotonic() > deadline:
                break
            await asyncio.sleep(ASK_SECONDS)
        refused = [
            ErrorDetail((pid, name), f"worker {pid} serves {status.versions[name]}: {reason}", "refused")
            for pid, status in workers.items()
            for name, reason in status.refused.items()
        ]
        if refused:
            raise Conflict(_told("The deployed model is refused", refused), refused)
        if late:
            waited = [
                ErrorDetail((pid,), f"worker {pid} has not looked within {WAIT_SECONDS:g} s", "late") for pid in late
            ]
            raise NotReady(_told("Not all workers have reloaded", waited), waited)
        return workers

    async def roll_back(self, name: str) -> dict[int, Status]:
        """Deploy what was deployed before, everywhere; return what each worker serves.

        Raises:
            Conflict: there is nothing to go back to, it cannot be served, or the pointer cannot be written.
            NotReady: workers have not answered in time.
        """
        deployment = Deployment(self._models)
        dataset = self._bundle[name].dataset
        try:
            # Before the pointer moves.
            way_back = deployment.way_back(name)
            await asyncio.to_thread(lambda: find_and_load(dataset, way_back, self._models, self._keys()))
            tag = await asyncio.to_thread(deployment.roll_back, name)
        except (DeploymentError, StartupError) as error:
            raise Conflict(f"{name} is not rolled back. {error}") from None
        except OSError as error:
            raise Conflict(
                f"{name} is not rolled back: {self._models} cannot be written to ({error.strerror}). Where the volume "
                "is read-only or the models are in the image, roll back where they come from."
            ) from None
        logger.warning("rolled back", extra={"model": name, "tag": tag})
        return await self.everywhere()

    async def _watch(self) -> None:
        seen: Signature | None = None
        heeded: Signature | None = None
        number = -1
        failing = False
        while True:
            try:
                signature, asked = await asyncio.to_thread(self._look)
                if asked != number or (signature == seen and signature != heeded):
                    heeded, number = signature, asked
                    await self._follow(asked)
                seen = signature
                failing = False
            except OSError as error:
                # A full disk, most likely: it is tried again at each look, and told once.
                number = -1
                if not failing:
                    logger.warning("what is deployed cannot be followed for now", extra={"error": str(error)})
                failing = True
            except Exception:
                # A bug: the next change is followed all the same.
                logger.exception("what is deployed was not followed")
            await asyncio.sleep(POLL_SECONDS)

    def _look(self) -> tuple[Signature, int]:
        return _signature(self._models), _asked(self._server)

    async def _follow(self, number: int) -> None:
        """Serve what is deployed, or say why not."""
        # Usually there is nothing to do; then no worker has to wait for the lock.
        if any([not await self._serves_deployed(name) for name in self._bundle.predictors]):
            lock = await self._lock()
            try:
                for name, predictor in self._bundle.predictors.items():
                    await self._follow_model(name, predictor)
            finally:
                os.close(lock)
        await asyncio.to_thread(self._remove_unused)
        await asyncio.to_thread(_write_status, self._server, self._status(number))

    async def _serves_deployed(self, name: str) -> bool:
        try:
            tag = await asyncio.to_thread(deployed_tag, name, self._models)
        except StartupError:
            return False
        if tag != f"{name}:{self._bundle[name].version}":
            return False
        self._accept(name)
        return True

    async def _follow_model(self, name: str, predictor: Predictor) -> None:
        if await self._serves_deployed(name):
            return
        started, former = perf_counter(), predictor.version
        try:
            model = await asyncio.to_thread(self._load_deployed, predictor.dataset, former)
            if model is not None:
                await predictor.replace(model)
        except Exception as error:  # noqa: BLE001 - a model may raise anything; it is logged, and told to whoever asks
            self._refuse(name, error)
            return
        self._accept(name)
        if model is not None:
            await asyncio.to_thread(memory.give_back)
            series.RELOADS.labels(name, "done").inc()
            fields = {"model": name, "version": predictor.version, "former": former}
            logger.info("model reloaded", extra={**fields, "duration_ms": round((perf_counter() - started) * 1000)})

    def _load_deployed(self, dataset: Dataset, served: str) -> LoadedModel | None:
        """The deployed model, loaded and checked; None if it is the version that is served.

        Raises:
            StartupError: why it cannot be served.
        """
        tag = deployed_tag(dataset.name, self._models)
        if tag == f"{dataset.name}:{served}":
            return None
        return find_and_load(dataset, tag, self._models, self._keys())

    def _remove_unused(self) -> None:
        """Remove what was imported before, but the deployed models and the way back."""
        deployment = Deployment(self._models)
        for name in self._bundle.predictors:
            try:
                kept = {deployed_tag(name, self._models)}
                if (previous := deployment.previous().get(name)) is not None:
                    kept.add(previous.tag)
            except (DeploymentError, StartupError) as error:
                fields = {"model": name, "reason": str(error)}
                logger.warning("no imported models are removed from the BentoML store", extra=fields)
            else:
                imported.remove_unused(name, self._models, kept)

    def _accept(self, name: str) -> None:
        if self._refused.pop(name, None) is not None:
            series.RELOAD_REFUSED.labels(name).set(0)

    def _refuse(self, name: str, error: Exception) -> None:
        expected = isinstance(error, BundleError | OSError)
        reason = str(error) if expected else f"{type(error).__name__}: {error}"
        series.RELOADS.labels(name, "refused").inc()
        series.RELOAD_REFUSED.labels(name).set(1)
        self._refused[name] = reason
        fields = {"model": name, "served": self._bundle[name].version, "reason": reason}
        logger.error("model refused", extra=fields, exc_info=None if expected else error)

    async def _lock(self) -> int:
        """Wait until no other worker of this server loads a model."""
        while True:
            lock = locks.acquire(self._server / _LOCK)
            if lock is not None:
                return lock
            await asyncio.sleep(LOCK_SECONDS)

    def _status(self, number: int) -> Status:
        versions = {name: predictor.version for name, predictor in self._bundle.predictors.items()}
        return Status(versions, dict(self._refused), number)

    def _ask(self) -> int:
        """Ask all workers to look; return the number that they will have heeded."""
        with (self._server / _ASKED).open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            number = _asked(self._server) + 1
            file.truncate(0)
            file.write(b"%d" % number)
        return number


def served_by_others(name: str) -> str | None:
    """The tag that another worker of this server serves; None if there is none.

    A worker that replaces another must not fail because what is deployed by now cannot be served.
    """
    if directory.VARIABLE not in os.environ:
        return None
    found = [status.versions[name] for status in _statuses(_server()).values() if name in status.versions]
    return f"{name}:{found[0]}" if found else None


def _server() -> Path:
    return Path(os.environ[directory.VARIABLE])


def _told(what: str, details: list[ErrorDetail]) -> str:
    rest = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    return f"{what}: {details[0].msg}{rest}"


def _signature(models: Path) -> Signature:
    found = []
    for path in Deployment(models).watched():
        try:
            stat = path.stat()
        except OSError:
            continue
        found.append((str(path), stat.st_ino, stat.st_mtime_ns, stat.st_size))
    return tuple(found)


def _asked(server: Path) -> int:
    try:
        return int((server / _ASKED).read_text() or 0)
    except FileNotFoundError:
        return 0


def _status_file(server: Path, pid: int) -> Path:
    return server / f"served_{pid}.status"


def _write_status(server: Path, status: Status) -> None:
    path = _status_file(server, os.getpid())
    partial = path.with_name(f".{path.name}")
    partial.write_text(json.dumps(asdict(status)))
    partial.replace(path)


def _statuses(server: Path) -> dict[int, Status]:
    """What the living workers of a server say, by process id."""
    found = {}
    for path in sorted(server.glob("served_*.status")):
        pid = int(path.stem.removeprefix("served_"))
        try:
            if is_alive(pid):
                found[pid] = Status(**json.loads(path.read_text()))
            else:
                path.unlink(missing_ok=True)
        except FileNotFoundError:
            continue  # The worker has just ended.
    return found
