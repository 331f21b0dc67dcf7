"""The pipe by which workers say that they live, to the process that has started them."""

import os
import struct
from contextlib import suppress

VARIABLE = "WORKER_HEARTBEAT_FD"
"""In which a worker finds the pipe."""
SECONDS = 0.5
"""Between two beats."""
BEAT = struct.Struct("<i")
"""The process id of a worker."""


def beat(descriptor: int) -> None:
    """Say that this worker lives.

    Raises:
        BrokenPipeError: nobody looks after it any more: the process that started it is gone.
    """
    with suppress(BlockingIOError):  # It has been stopped for hours, and the pipe is full.
        os.write(descriptor, BEAT.pack(os.getpid()))
