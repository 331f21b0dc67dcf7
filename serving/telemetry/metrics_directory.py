"""A metrics directory of this server's own.

BentoML empties the one of its home at every start, also one that then fails, and with it what a server that is running
there has counted.
"""

import atexit
import os
import shutil
import tempfile

from bentoml._internal.configuration.containers import BentoMLContainer

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


def take_own() -> None:
    """Give this server a fresh directory, and its workers, who find it in their environment, the same.

    Call it before the server starts. A directory that the user has set is taken as it is.
    """
    directory = os.environ.get(VARIABLE)
    if directory is None:
        directory = tempfile.mkdtemp(prefix="bentoml-metrics-")
        atexit.register(shutil.rmtree, directory, ignore_errors=True)
    BentoMLContainer.prometheus_multiproc_dir.set(directory)
