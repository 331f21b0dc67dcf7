"""Work that goes on beside the requests until it is stopped."""

import asyncio
from collections.abc import Coroutine
from typing import Any


class Background:
    """One such task of an event loop."""

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Do it from now on."""
        self._task = asyncio.create_task(work)

    async def stop(self) -> None:
        """Do it no longer; when this returns, it has ended. Nothing happens if it was never begun."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            self._task = None
