"""Where log lines go, and from which level on."""

import logging

FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"


def configure(level: str) -> None:
    """Our lines to standard error, ours and BentoML's from ``level`` on.

    Called once a process, when the service is imported: BentoML has set its own logging up by then.
    """
    logging.getLogger("bentoml").setLevel(level)
    ours = logging.getLogger("serving")
    ours.setLevel(level)
    if not ours.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter(FORMAT))
        ours.addHandler(handler)
        ours.propagate = False
