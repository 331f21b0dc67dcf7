"""Sends traffic over every protocol until it is told to stop, and gives back what came true."""

import asyncio
import heapq
import itertools
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc
import httpx
import numpy as np
from numpy.typing import NDArray
from open_inference.grpc.service import GRPCInferenceServiceStub

from contract.dataset import Task
from contract.table import FloatMatrix
from load_tests.demo.answers import Answer, from_json, from_response
from load_tests.grpc_protocol import infer_request
from load_tests.http_protocols import Batch, HttpProtocol, InferJson, SingleRow
from load_tests.traffic import Traffic

BAD_SHARE = 0.02
BATCH_ROWS = (2, 40)
PROTOCOLS: Mapping[str, float] = {"single row": 0.62, "batch": 0.08, "infer, JSON": 0.15, "gRPC": 0.15}
"""Shares of the requests."""
_HTTP: Mapping[str, HttpProtocol] = {"single row": SingleRow(), "batch": Batch(), "infer, JSON": InferJson()}
IN_FLIGHT = 64
GIVEN_BACK_EVERY = 0.5
"""Seconds."""
MOST_ARREARS = 1.0
"""Seconds: a machine that is slower does not have to send later what was due before."""


@dataclass
class Outcome:
    """What was sent, and what came back."""

    answers: Counter[str] = field(default_factory=Counter)
    """By protocol; ``refused`` are the bad rows."""
    rows: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    """By what the service did with them."""
    failed: list[str] = field(default_factory=list)
    """Why: requests without the answer that they should have."""


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer to good rows.

    Args:
        act: which part of the story it belongs to.
        errors: prediction minus truth, by row; of classes, 1 where another one came true.
    """

    model: str
    act: str
    version: str
    errors: tuple[float, ...]


class Sender:
    """Sends until it is stopped. What it sends, and how fast, may be changed meanwhile.

    Args:
        client: of the service.
        channel: to its gRPC port.
        traffic: what to send, by model.
        seed: the same seed makes the same choices.

    Attributes:
        act: which part of the story it is.
        rate: requests a second, on average.
        truth_share: of the rows whose true value comes back.
        truth_delay: seconds from a prediction to its true value: from, to.
    """

    def __init__(
        self, client: httpx.AsyncClient, channel: grpc.aio.Channel, traffic: Mapping[str, Traffic], seed: int = 0
    ) -> None:
        self.traffic = dict(traffic)
        self.act = ""
        self.rate = 1.0
        self.truth_share = 1.0
        self.truth_delay = (0.0, 1.0)
        self.outcome = Outcome()
        self.answered: list[Answered] = []
        self._client = client
        self._infer = GRPCInferenceServiceStub(channel).ModelInfer
        self._draw = np.random.default_rng(seed)
        self._room = asyncio.Semaphore(IN_FLIGHT)
        self._due: list[tuple[float, int, dict[str, Any]]] = []
        self._number = itertools.count()
        self._over = asyncio.Event()

    def stop(self) -> None:
        """Send no more: ``run`` ends when all is answered and what came true is given back."""
        self._over.set()

    def rmse(self, act: str, version: str | None = None) -> float:
        """Of Housing's predictions in an act, by a version or by all; NaN without any."""
        errors = [
            error
            for one in self.answered
            if one.model == "housing" and one.act == act and version in {None, one.version}
            for error in one.errors
        ]
        return math.sqrt(math.fsum(error**2 for error in errors) / len(errors)) if errors else math.nan

    async def run(self) -> None:
        """Send until ``stop`` is called."""
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as tasks:
            giving = tasks.create_task(self._giving_back())
            due = loop.time()
            while not self._over.is_set():
                due = max(due, loop.time() - MOST_ARREARS)
                await asyncio.sleep(due - loop.time())
                tasks.create_task(self._request())
                due += self._draw.exponential(1 / self.rate)
            giving.cancel()
        await self._give_back(math.inf)

    async def _request(self) -> None:
        name = list(self.traffic)[int(self._draw.integers(len(self.traffic)))]
        act, traffic = self.act, self.traffic[name]
        protocol = str(self._draw.choice(list(PROTOCOLS), p=list(PROTOCOLS.values())))
        count = int(self._draw.integers(*BATCH_ROWS)) if protocol == "batch" else 1
        async with self._room:
            try:
                if traffic.can_be_bad and self._draw.random() < BAD_SHARE:
                    await self._refused(traffic)
                    return
                rows, targets = traffic.labelled(count)
                answer = await self._predict(protocol, traffic, rows)
            except (httpx.HTTPError, grpc.RpcError, KeyError) as error:
                self.outcome.failed.append(f"{protocol}: {error!r}")
                return
        self.outcome.answers[protocol] += 1
        self.outcome.rows += count
        classes = traffic.dataset.task is Task.CLASSIFICATION
        pairs = zip(answer.values, targets.tolist(), strict=True)
        errors = tuple(float(said != true) if classes else said - true for said, true in pairs)
        self.answered.append(Answered(name, act, answer.version, errors))
        self._note(answer.prediction_id, traffic, targets)

    async def _refused(self, traffic: Traffic) -> None:
        asked = SingleRow().request(traffic.dataset, traffic.bad_rows(1).rows)
        answer = await self._client.post(asked.path, content=asked.body, headers=asked.headers)
        if answer.status_code == httpx.codes.BAD_REQUEST:
            self.outcome.answers["refused"] += 1
        else:
            self.outcome.failed.append(f"a bad row: status {answer.status_code}")

    async def _predict(self, protocol: str, traffic: Traffic, rows: FloatMatrix) -> Answer:
        if protocol == "gRPC":
            return from_response(await self._infer(infer_request(traffic.dataset, rows)))
        asked = _HTTP[protocol].request(traffic.dataset, rows)
        answer = await self._client.post(asked.path, content=asked.body, headers=asked.headers)
        return from_json(answer.raise_for_status().json())

    def _note(self, prediction_id: str, traffic: Traffic, targets: NDArray[np.float64]) -> None:
        """Keep what came true for some of the rows, until it is due."""
        target, now = traffic.dataset.target, asyncio.get_running_loop().time()
        for row, value in enumerate(targets.tolist()):
            if self._draw.random() < self.truth_share:
                actual = target.classes[int(value)] if target.classes else value
                entry = {"prediction_id": prediction_id, "row": row, "actual": actual}
                heapq.heappush(self._due, (now + self._draw.uniform(*self.truth_delay), next(self._number), entry))

    async def _giving_back(self) -> None:
        while True:
            await asyncio.sleep(GIVEN_BACK_EVERY)
            await self._give_back(asyncio.get_running_loop().time())

    async def _give_back(self, now: float) -> None:
        """Send the true values that are due."""
        entries = []
        while self._due and self._due[0][0] < now:
            entries.append(heapq.heappop(self._due)[2])
        if not entries:
            return
        try:
            answer = await self._client.post("/feedback", json=entries)
            content = answer.raise_for_status().json()
        except httpx.HTTPError as error:
            self.outcome.failed.append(f"true values: {error!r}")
            return
        for name, count in content.items():
            if isinstance(count, int) and count:
                self.outcome.labels[name] += count
