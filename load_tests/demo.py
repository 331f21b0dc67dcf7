"""A service that has something to show: an hour's traffic in a minute, and what came true a little later.

``make demo`` starts it. The rows are those of the test split; three in four get their true value after some seconds, as
it would come after some days. Then the service stays, to be looked at, until Ctrl-C.
"""

import argparse
import asyncio
import json
import math
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import httpx
import numpy as np
from numpy.typing import NDArray
from open_inference.grpc.service import GRPCInferenceServiceStub
from rich.console import Console
from rich.progress import Progress

from contract import DATASETS
from contract.dataset import Task
from contract.errors import BundleError
from contract.table import FloatMatrix
from load_tests.grpc_protocol import infer_request
from load_tests.http_protocols import Batch, HttpProtocol, InferJson, SingleRow
from load_tests.traffic import FEATURES, Traffic
from local_service import PROJECT, running_service

SECONDS = 60.0
REQUESTS_PER_SECOND = 80.0
"""On average; from a third of it to twice as many within the hour."""
TRUTH_SHARE = 0.75
"""Rows whose true value comes back."""
TRUTH_DELAY = (3.0, 12.0)
"""Seconds from the prediction to its true value."""
BAD_SHARE = 0.02
BATCH_ROWS = (2, 40)
PROTOCOLS: Mapping[str, float] = {"single row": 0.62, "batch": 0.08, "infer, JSON": 0.15, "gRPC": 0.15}
"""Shares of the requests."""
_HTTP: Mapping[str, HttpProtocol] = {"single row": SingleRow(), "batch": Batch(), "infer, JSON": InferJson()}
IN_FLIGHT = 64


@dataclass
class Outcome:
    """What was sent, and what came back."""

    answers: Counter[str] = field(default_factory=Counter)
    """By protocol; ``refused`` are the bad rows."""
    rows: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    """By what the service did with them."""


class Demo:
    """Sends the traffic and the true values.

    Args:
        client: of the service.
        channel: to its gRPC port.
        traffic: what to send, a source for each dataset.
        seed: the same seed makes the same choices.
    """

    def __init__(
        self, client: httpx.AsyncClient, channel: grpc.aio.Channel, traffic: Sequence[Traffic], seed: int = 0
    ) -> None:
        self.outcome = Outcome()
        self._client = client
        self._infer = GRPCInferenceServiceStub(channel).ModelInfer
        self._traffic = traffic
        self._draw = np.random.default_rng(seed)
        self._room = asyncio.Semaphore(IN_FLIGHT)
        self._due: list[tuple[float, dict[str, Any]]] = []

    async def run(self, seconds: float, progress: Progress) -> None:
        """Send for so many seconds, and give back all true values.

        Raises:
            httpx.HTTPError, grpc.RpcError: the service went away, or answered a good row with an error.
        """
        loop = asyncio.get_running_loop()
        started = loop.time()
        sending = progress.add_task("Traffic of an hour", total=seconds)
        labelling = progress.add_task("True values", total=seconds + TRUTH_DELAY[1])
        async with asyncio.TaskGroup() as tasks:
            due = 0.0
            while due < seconds:
                await asyncio.sleep(started + due - loop.time())
                tasks.create_task(self._request(loop))
                due += self._draw.exponential(1 / rate(due / seconds))
                progress.update(sending, completed=min(due, seconds))
                if self._due and self._due[0][0] < loop.time():
                    tasks.create_task(self._give_back(loop.time()))
                progress.update(labelling, completed=loop.time() - started)
        progress.update(sending, completed=seconds)
        while self._due:
            await asyncio.sleep(0.2)
            await self._give_back(loop.time())
            progress.update(labelling, completed=loop.time() - started)
        progress.update(labelling, completed=seconds + TRUTH_DELAY[1])

    async def _request(self, loop: asyncio.AbstractEventLoop) -> None:
        traffic = self._traffic[int(self._draw.integers(len(self._traffic)))]
        protocol = str(self._draw.choice(list(PROTOCOLS), p=list(PROTOCOLS.values())))
        count = int(self._draw.integers(*BATCH_ROWS)) if protocol == "batch" else 1
        async with self._room:
            if self._draw.random() < BAD_SHARE:
                await self._refused(traffic)
                return
            rows, targets = traffic.labelled(count)
            prediction_id = await self._predict(protocol, traffic, rows)
        self.outcome.answers[protocol] += 1
        self.outcome.rows += count
        self._note(loop.time(), prediction_id, traffic, targets)

    async def _refused(self, traffic: Traffic) -> None:
        asked = SingleRow().request(traffic.dataset, traffic.bad_rows(1).rows)
        answer = await self._client.post(asked.path, content=asked.body, headers=asked.headers)
        self.outcome.answers["refused"] += answer.status_code == 400

    async def _predict(self, protocol: str, traffic: Traffic, rows: FloatMatrix) -> str:
        """Ask for predictions, and return their id."""
        if protocol == "gRPC":
            response = await self._infer(infer_request(traffic.dataset, rows))
            return str(response.parameters["prediction_id"].string_param)
        asked = _HTTP[protocol].request(traffic.dataset, rows)
        answer = await self._client.post(asked.path, content=asked.body, headers=asked.headers)
        answer.raise_for_status()
        content = answer.json()
        return str(content.get("parameters", content)["prediction_id"])

    def _note(self, now: float, prediction_id: str, traffic: Traffic, targets: NDArray[np.float64]) -> None:
        """Keep what came true for some of the rows, until it is due."""
        target = traffic.dataset.target
        for row, value in enumerate(targets.tolist()):
            if self._draw.random() < TRUTH_SHARE:
                actual = target.classes[int(value)] if traffic.dataset.task is Task.CLASSIFICATION else value
                entry = {"prediction_id": prediction_id, "row": row, "actual": actual}
                self._due.append((now + self._draw.uniform(*TRUTH_DELAY), entry))
        self._due.sort(key=lambda one: one[0])

    async def _give_back(self, now: float) -> None:
        entries = [entry for due, entry in self._due if due <= now]
        self._due = [(due, entry) for due, entry in self._due if due > now]
        if entries:
            answer = await self._client.post("/feedback", json=entries)
            answer.raise_for_status()
            content = answer.json()
            for name, count in content.items():
                if isinstance(count, int) and count:
                    self.outcome.labels[name] += count


def rate(moment: float) -> float:
    """Requests a second at a moment of the hour, 0 to 1: it rises to one busy time, and falls."""
    return REQUESTS_PER_SECOND * (1 - 0.7 * math.cos(2 * math.pi * moment))


async def _show(url: str, target: str, seconds: float, console: Console) -> Outcome:
    traffic = [Traffic.read(dataset, PROJECT / FEATURES) for dataset in DATASETS.values()]
    limits = httpx.Limits(max_connections=IN_FLIGHT)
    async with (
        httpx.AsyncClient(base_url=url, timeout=30, limits=limits) as client,
        grpc.aio.insecure_channel(target) as channel,
    ):
        demo = Demo(client, channel, traffic)
        with Progress(console=console) as progress:
            await demo.run(seconds, progress)
        return demo.outcome


def told(outcome: Outcome, url: str) -> Iterable[str]:
    """What was done and where to look, line by line."""
    sent = ", ".join(f"{count:,} {name}" for name, count in outcome.answers.most_common())
    labels = ", ".join(f"{count:,} {name}" for name, count in outcome.labels.most_common())
    yield f"{sum(outcome.answers.values()):,} requests ({sent}), {outcome.rows:,} rows; true values: {labels}."
    yield ""
    yield f"  {url}/logs?window=1h  the predictions, for people"
    yield f"  {url}/logs/stats      requests, rows, latency and distribution by model"
    yield f"  {url}/models/info     the models, with their live quality"
    yield f"  API_URL={url} make monitor    all of it in the terminal, as it happens"


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve, send, and stay until Ctrl-C. Return 1 if the service does not start."""
    parser = argparse.ArgumentParser(description="A service with an hour's traffic and what came true.")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="length of the hour (default: 60)")
    parser.add_argument("--once", action="store_true", help="end after the traffic, and print the statistics")
    options = parser.parse_args(arguments)
    console = Console()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    environment = {
        # A ledger of its own: these predictions are nobody's.
        "STATE_DIR": str(PROJECT / "state" / "demo"),
        "DATABASE_URL": "",
        "API_PORT": os.environ.get("API_PORT") or "8000",
        "GRPC_PORT": os.environ.get("GRPC_PORT") or "8001",
    }
    try:
        with running_service(environment=environment) as url:
            outcome = asyncio.run(_show(url, f"127.0.0.1:{environment['GRPC_PORT']}", options.seconds, console))
            for line in told(outcome, url):
                console.print(line, highlight=False, soft_wrap=True)
            if options.once:
                console.print(json.dumps(httpx.get(f"{url}/logs/stats").raise_for_status().json(), indent=1))
                return 0
            console.print("\nThe service stays until Ctrl-C.")
            signal.pause()
    except BundleError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
