"""What the service says about itself: metrics, logs and traces.

Each worker writes metrics files of its own, and a scrape sums them over the workers. Labels come from the contract and
the routes, never from callers, so that the number of series is bounded.
"""

import os

from prometheus_client import values

from serving.errors import startup_errors
from serving.telemetry import directory, files

_PID = os.getpid()


def share() -> None:
    """Write metrics to the metrics directory from now on, where every worker's scrape finds them."""
    values.MmapedDict = files.ValueFile  # type: ignore[attr-defined, assignment]  # prometheus_client uses its three methods
    # A worker never forks. Asking for the process id at each of six increments took 16 % of a request.
    values.ValueClass = values.MultiProcessValue(lambda: _PID)


with startup_errors():
    directory.prepare(os.environ)

if values.ValueClass is not values.MutexValue:
    share()

UNKNOWN = "unknown"
"""Label of every path and every model that is not served."""
