"""The users: one class for each kind of request, each with a task for every dataset of the registry.

Importing Locust patches the standard library for gevent: this module is for Locust's process alone.
"""

import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any, ClassVar

from locust import FastHttpUser, User, tag

from contract import DATASETS
from contract.dataset import Dataset
from contract.table import FloatMatrix
from load_tests.answers import Asked, WrongAnswer
from load_tests.arrivals import Arrivals
from load_tests.http_protocols import Batch, HttpAnswer, HttpProtocol, InferBinary, InferJson, SingleRow
from load_tests.traffic import Traffic

TIMEOUT_SECONDS = 10.0
POOL_ROWS = 25_000
"""Rows in the requests that a class prepares for a dataset: encoding them during the run would be measured."""
LARGEST_POOL, SMALLEST_POOL = 500, 10
AUTHORIZATION = {"authorization": f"Bearer {key}"} if (key := os.environ.get("API_KEY")) else {}
"""Sent with every request, as a header or as metadata: the key in ``API_KEY``."""


@dataclass(frozen=True)
class Prepared:
    """An encoded request, and the answer to expect."""

    asked: Asked
    content: Any


def _task(dataset: Dataset) -> Callable[["LoadUser"], None]:
    @tag(dataset.name)
    def predict(user: "LoadUser") -> None:
        user.ask(dataset)

    predict.__name__ = f"predict_{dataset.name}"
    return predict


class LoadUser(User):
    """A user whose requests follow the arrivals of its class, with a share of bad rows.

    ``rows`` in a request, and the ``weight`` of a class among the users, can be set by Locust's ``--config-users``.
    """

    abstract = True
    tasks = [_task(dataset) for dataset in DATASETS.values()]  # noqa: RUF012 # Locust's own attribute
    rows = 1

    arrivals: ClassVar[Arrivals]
    pools: ClassVar[dict[tuple[str, bool], list[Prepared]]]
    bad_share: ClassVar[float]

    @classmethod
    def prepare(cls, traffic: dict[str, Traffic]) -> None:
        """Encode the requests, before the first user starts."""
        cls.pools = {}
        count = min(LARGEST_POOL, max(SMALLEST_POOL, POOL_ROWS // cls.rows))
        for name, source in traffic.items():
            good, bad = [], []
            for _ in range(count):
                rows = source.rows(cls.rows)
                good.append(Prepared(Asked(source.dataset, cls.rows), cls.encoded(source.dataset, rows)))
                if source.can_be_bad:
                    broken = source.bad_rows(cls.rows)
                    asked = Asked(source.dataset, cls.rows, broken.feature)
                    bad.append(Prepared(asked, cls.encoded(source.dataset, broken.rows)))
            cls.pools[name, False], cls.pools[name, True] = good, bad

    @classmethod
    def encoded(cls, dataset: Dataset, rows: FloatMatrix) -> Any:
        """Encode ``rows`` as a request of this class."""
        raise NotImplementedError

    def send(self, request: Prepared, name: str) -> None:
        """Send a request, check the answer, and report it to Locust."""
        raise NotImplementedError

    def on_start(self) -> None:
        """Join the arrivals and wait for the first one."""
        self._due = perf_counter()
        self.arrivals.join(self._due)
        self.wait()  # type: ignore[no-untyped-call]  # Locust does not annotate it

    def on_stop(self) -> None:
        """Leave the arrivals."""
        self.arrivals.leave()

    def wait_time(self) -> float:
        """Seconds until the next arrival is due, whatever the last answer took."""
        now = perf_counter()
        self._due = self.arrivals.take(now)
        return max(0.0, self._due - now)

    def ask(self, dataset: Dataset) -> None:
        """Handle one arrival: send good rows, or sometimes bad ones."""
        self.arrivals.lateness.add(perf_counter() - self._due)
        bad = bool(self.pools[dataset.name, True]) and random.random() < self.bad_share  # noqa: S311 # no secret
        request = random.choice(self.pools[dataset.name, bad])  # noqa: S311 # no secret
        self.send(request, stats_name(type(self).__name__, dataset, bad=bad))


def stats_name(user_class: str, dataset: Dataset, *, bad: bool) -> str:
    """The name in Locust's statistics; its first word is the user class."""
    return f"{user_class} {dataset.name}{' bad rows' if bad else ''}"


class HttpLoadUser(LoadUser, FastHttpUser):
    """A user over HTTP, with a connection of its own."""

    abstract = True
    network_timeout = connection_timeout = TIMEOUT_SECONDS
    default_headers = AUTHORIZATION

    protocol: ClassVar[HttpProtocol]

    @classmethod
    def encoded(cls, dataset: Dataset, rows: FloatMatrix) -> Any:
        """Encode a POST request."""
        return cls.protocol.request(dataset, rows)

    def send(self, request: Prepared, name: str) -> None:
        """POST a request. The response time ends when the body is read, before the check."""
        post = request.content
        with self.client.post(
            post.path, data=post.body, headers=dict(post.headers), name=name, catch_response=True
        ) as response:
            content = response.content if response.status_code else repr(response.error).encode()
            answer = HttpAnswer(response.status_code, response.headers or {}, content or b"")
            try:
                self.protocol.check(request.asked, answer)
            except WrongAnswer as wrong:
                response.failure(str(wrong))
            else:
                response.success()


class SingleRowUser(HttpLoadUser):
    """``POST /predict/{dataset}``."""

    weight = 5
    protocol = SingleRow()


class BatchUser(HttpLoadUser):
    """``POST /predict/{dataset}/batch``."""

    weight = 1
    rows = 100
    protocol = Batch()


class InferJsonUser(HttpLoadUser):
    """``POST /v2/models/{dataset}/infer`` with JSON."""

    weight = 2
    protocol = InferJson()


class InferBinaryUser(HttpLoadUser):
    """``POST /v2/models/{dataset}/infer`` with raw bytes."""

    weight = 1
    rows = 100
    protocol = InferBinary()
