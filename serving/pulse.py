"""The pulse of a worker: twice a second it reports that it is alive, and every few seconds it checks the disks.

When the process that started the workers is gone, nobody would replace them: each ends as after SIGTERM.
"""

import asyncio
import logging
import shutil
import signal
import tempfile
from collections.abc import Mapping
from pathlib import Path

from ledger import log_output
from serving import heartbeat
from serving.settings import Settings
from serving.telemetry import directory, files, series

logger = logging.getLogger(__name__)

DISK_SECONDS = 5.0
LOW_BYTES = 16 * 1024 * 1024
"""Free space below which a disk is nearly full."""


class Pulse:
    """The pulse of one worker. All methods belong to its event loop: a beat shows that the loop still turns.

    Args:
        settings: say where the service writes.
        environment: has the pipe to write beats to, if the worker was started by a server of ours.
    """

    def __init__(self, settings: Settings, environment: Mapping[str, str]) -> None:
        self._disks = Disks(settings, environment)
        pipe = environment.get(heartbeat.VARIABLE)
        self._pipe = int(pipe) if pipe else None
        self._dropped = 0
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start to beat."""
        self._task = asyncio.create_task(self._watch_disks())
        self._beat()

    def stop(self) -> None:
        """Stop checking the disks. It keeps beating: as long as the loop turns, the worker does not hang."""
        if self._task is not None:
            self._task.cancel()

    def _beat(self) -> None:
        if self._pipe is None:
            return
        try:
            heartbeat.beat(self._pipe)
        except BrokenPipeError:
            logger.error("the server's parent process is gone: this worker drains and ends")  # noqa: TRY400 - no bug
            signal.raise_signal(signal.SIGTERM)
            return
        self._timer = asyncio.get_running_loop().call_later(heartbeat.SECONDS, self._beat)

    async def _watch_disks(self) -> None:
        while True:
            series.METRICS_WAITING.set(files.tend())
            dropped = log_output.dropped()
            series.LOG_DROPPED.inc(dropped - self._dropped)
            self._dropped = dropped
            self._disks.tell(await asyncio.to_thread(self._disks.free))
            await asyncio.sleep(DISK_SECONDS)


class Disks:
    """The places that the service writes to."""

    def __init__(self, settings: Settings, environment: Mapping[str, str]) -> None:
        places = {"temporary": Path(tempfile.gettempdir())}
        if directory.VARIABLE in environment:
            places["metrics"] = Path(environment[directory.VARIABLE])
        if settings.LEDGER == "on":
            places["ledger"] = settings.STATE_DIR
        if settings.LOG_FILE is not None:
            places["log"] = settings.LOG_FILE.parent
        self._places = places
        self._low: set[str] = set()

    def free(self) -> dict[str, int]:
        """Bytes that are free at each place; places that cannot be asked are left out."""
        found = {}
        for place, path in self._places.items():
            try:
                found[place] = shutil.disk_usage(path).free
            except OSError:
                continue  # The code that writes there reports it.
        return found

    def tell(self, free: Mapping[str, int]) -> None:
        """Show what is free; log once that a disk is nearly full, and once that it is no longer."""
        for place, number in free.items():
            series.DISK_FREE.labels(place).set(number)
            fields = {"place": place, "directory": str(self._places[place]), "free_bytes": number}
            if number < LOW_BYTES and place not in self._low:
                self._low.add(place)
                logger.warning("a disk is nearly full: predictions go on, and what has no room is lost", extra=fields)
            elif number >= 2 * LOW_BYTES and place in self._low:
                self._low.discard(place)
                logger.warning("a disk has room again", extra=fields)
