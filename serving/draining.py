"""From SIGTERM to the end: first nobody new is sent here, then what was taken is finished.

uvicorn stops listening as soon as it is told to stop. A load balancer, or Kubernetes, learns only with its next probe
that this server is leaving, and until then sends it requests, which would be refused. So SIGTERM first costs the
readiness alone, and reaches uvicorn after a time in which every prober has asked once. SIGINT, as of Ctrl-C, stops at
once.
"""

import asyncio
import signal
import threading
from collections.abc import Callable
from types import FrameType


class Draining:
    """Whether this process is leaving. There is one, as there is one SIGTERM."""

    def __init__(self) -> None:
        self.begun = False

    def on_sigterm(self, begin: Callable[[], None], seconds: float) -> None:
        """Call ``begin`` at SIGTERM, and the handler that is there now ``seconds`` later.

        A SIGTERM that comes meanwhile changes nothing: some supervisors send it to the whole group of processes, of
        which this one's parent then passes its own on.

        Must be called on the event loop that ``begin`` belongs to. Without seconds to wait, in a thread that is not the
        main one (as in tests) or where nobody handles SIGTERM, it does nothing.
        """
        stop = signal.getsignal(signal.SIGTERM)
        if not seconds or threading.current_thread() is not threading.main_thread() or not callable(stop):
            return
        loop = asyncio.get_running_loop()

        def leave() -> None:
            if not self.begun:
                self.begun = True
                begin()
                loop.call_later(seconds, stop, signal.SIGTERM, None)

        def handle(_: int, __: FrameType | None) -> None:
            loop.call_soon_threadsafe(leave)

        signal.signal(signal.SIGTERM, handle)


DRAINING = Draining()
