"""Draining: after SIGTERM, keep serving for a while without being ready.

uvicorn stops listening as soon as it is told to stop. A load balancer, or Kubernetes, notices that a server is leaving
only with its next probe, and sends it requests until then. So SIGTERM first makes the server not ready. It reaches
uvicorn later, once every prober has asked. SIGINT (Ctrl-C) stops the server at once.
"""

import asyncio
import signal
import threading
from collections.abc import Callable
from types import FrameType


class Draining:
    """Whether this process is draining. There is one instance, ``DRAINING``."""

    def __init__(self) -> None:
        self.begun = False

    def on_sigterm(self, begin: Callable[[], None], seconds: float) -> None:
        """On SIGTERM, call ``begin``; ``seconds`` later, call the handler that was there before.

        Further SIGTERMs during the drain are ignored. Some supervisors signal a whole process group, and our parent
        then passes its own SIGTERM on as well.

        Must be called on the event loop that ``begin`` belongs to. It does nothing if ``seconds`` is 0, outside the
        main thread (as in tests), or where nothing handles SIGTERM.
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
