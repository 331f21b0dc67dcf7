"""The pipe through which workers tell the process that started them that they are alive."""

import os
import struct
from contextlib import suppress

VARIABLE = "WORKER_HEARTBEAT_FD"
"""The variable that gives a worker the pipe's descriptor."""
SECONDS = 0.5
"""Between two beats."""
BEAT = struct.Struct("<i")
"""The process id of a worker."""


def beat(descriptor: int) -> None:
    """Say that this worker is alive.

    Raises:
        BrokenPipeError: the process that started this worker is gone.
    """
    with suppress(BlockingIOError):  # The parent was stopped for hours, and the pipe is full.
        os.write(descriptor, BEAT.pack(os.getpid()))
