"""Raw CSV to a registered model: one module for each stage."""

import os
import sys
from types import TracebackType


def _say_stopped(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """End in one line after Ctrl-C, wherever the stage was; DVC has its own."""
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
    elif "DVC_STAGE" not in os.environ:
        sys.stderr.write("Stopped. Nothing of this stage was kept; run it again.\n")


if sys.argv[:1] == ["-m"]:  # `python -m training.…`, of which this is the first module; the imports take seconds
    sys.excepthook = _say_stopped
