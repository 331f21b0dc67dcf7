"""What Locust runs: ``locust -f load_tests/locustfile.py``, or ``make load`` with a service of its own.

Options of ours stand beside Locust's own (``--users``, ``--run-time``, ``--tags``, ``--config-users``, …); what is not
given comes from the profile of the shape in ``thresholds.yaml``.
"""

import math
import os
import signal
import sys
from pathlib import Path
from typing import Any, cast

import gevent  # type: ignore[import-untyped]  # two functions of it
import locust.stats
from locust import LoadTestShape, events
from locust.env import Environment
from locust.runners import Runner

from load_tests.arrivals import Process
from load_tests.errors import LoadTestError
from load_tests.grpc_user import GrpcUser
from load_tests.load_test import BAD_SHARE, VARIATION, LoadTest
from load_tests.shapes import Shape, users_at
from load_tests.summary import SUMMARY_FILE
from load_tests.thresholds import THRESHOLDS_FILE
from load_tests.traffic import FEATURES
from load_tests.users import BatchUser, InferBinaryUser, InferJsonUser, LoadUser, SingleRowUser
from local_service import bypass_proxies

USER_CLASSES: tuple[type[LoadUser], ...] = (SingleRowUser, BatchUser, InferJsonUser, InferBinaryUser, GrpcUser)


def three_digits(response_time: float) -> float:
    """The bucket of a response time (ms): three significant digits, at least 0.01 ms."""
    if response_time < 0.01:
        return 0.01
    return round(response_time, 2 - math.floor(math.log10(response_time)))


# Locust's own buckets are whole milliseconds: too coarse for a service that answers in two.
locust.stats.bucket_response_time = three_digits  # type: ignore[assignment]  # a key of a dict: any number does


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]  # Locust does not annotate it
def add_options(parser: Any) -> None:
    """Add our options to Locust's."""
    parser.add_argument("--shape", choices=[*Shape], default=Shape.STEADY.value, help="Users over time")
    parser.add_argument("--arrivals", choices=[*Process], help="Arrival process; default: the profile's")
    parser.add_argument("--variation", type=float, default=VARIATION, help="Coefficient of variation of gamma arrivals")
    parser.add_argument("--rate", type=float, help="Requests a second of all users; default: the profile's")
    parser.add_argument("--bad-share", type=float, default=BAD_SHARE, help="Share of requests with a bad row")
    parser.add_argument("--grpc-target", default="127.0.0.1:8001", help="Where the service speaks gRPC")
    parser.add_argument("--seed", type=int, default=0, help="Of the rows and the arrivals")
    for name, default, what in (
        ("--features", FEATURES, "Folder of the test splits"),
        ("--thresholds", THRESHOLDS_FILE, "Loads and limits by shape"),
        ("--summary", SUMMARY_FILE, "JSON file for the figures of the run"),
    ):
        parser.add_argument(name, type=Path, default=default, help=what, include_in_web_ui=False)
    parser.add_argument(
        "--no-thresholds", action="store_true", help="Check no limits: for a load of one's own", include_in_web_ui=False
    )


class ProfileShape(LoadTestShape):
    """The shape that ``--shape`` names, with ``--users`` at its peak, for ``--run-time``."""

    use_common_options = True

    def tick(self) -> tuple[int, float] | None:
        """The number of users now; new ones start at once."""
        options: Any = cast(Runner, self.runner).environment.parsed_options  # set before the first tick
        elapsed = self.get_run_time()  # type: ignore[no-untyped-call]  # Locust does not annotate it
        count = users_at(Shape(options.shape), elapsed, options.run_time, options.num_users)
        return None if count is None else (count, max(1.0, float(options.num_users)))


@events.init.add_listener  # type: ignore[untyped-decorator]  # Locust does not annotate it
def set_up(environment: Environment, **_: Any) -> None:
    """Prepare the test and register its listeners, or exit with the reason."""
    bypass_proxies(os.environ)
    try:
        test = LoadTest(environment, USER_CLASSES)
    except LoadTestError as error:
        sys.exit(str(error))
    # Python raises KeyboardInterrupt wherever the process is. In a user's greenlet, or in a callback of gRPC, it is
    # lost, and Locust goes on: raise it where Locust waits for it.
    gevent.signal_handler(signal.SIGINT, gevent.getcurrent().throw, KeyboardInterrupt)
    environment.events.test_start.add_listener(test.start)
    environment.events.quitting.add_listener(test.finish)
    environment.events.quit.add_listener(test.tell)
