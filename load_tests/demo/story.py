"""The acts of the demo: a normal hour, a new client, drift, retraining, takeover, and what is better since."""

import asyncio
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
from rich.console import Console
from rich.progress import Progress

from contract import DATASETS
from load_tests.demo.client import Districts
from load_tests.demo.project import ProjectCopy
from load_tests.demo.sender import IN_FLIGHT, Outcome, Sender
from load_tests.errors import LoadTestError
from load_tests.traffic import FEATURES, Traffic

BUSY, CALM = 80.0, 20.0
"""Requests a second: in the hour on average, from a third of it to twice as many; and while the model trains."""
HOUR_TRUTHS = (0.75, (3.0, 12.0))
"""Of the normal hour: the share of the rows whose true value comes back, and after how many seconds."""
CLIENT_TRUTHS = (1.0, (0.5, 3.0))
AFTER_SECONDS = 20.0
"""Of traffic after the takeover."""
JOB_WITHIN, JOB_SECONDS = 120.0, 1800.0
"""Until a job is asked for; until it has ended."""
HOUR, CLIENT, AFTER = "a normal hour", "the new client", "the new client, later"
MODEL = "housing"


class Story:
    """Tells it.

    Args:
        project: the copy that is retrained.
        client: of the service that serves the copy's models.
        sender: of the traffic.
        console: where to tell it.
    """

    def __init__(self, project: ProjectCopy, client: httpx.AsyncClient, sender: Sender, console: Console) -> None:
        self._project = project
        self._client = client
        self._sender = sender
        self._console = console
        self._first = ""
        """The version at the beginning."""

    async def tell(self, seconds: float) -> None:
        """All acts.

        Args:
            seconds: length of the hour.

        Raises:
            LoadTestError: something did not happen; the sentence says what.
            httpx.HTTPError: the service went away.
        """
        before, after = Districts.halves(self._project.folder / FEATURES)
        self._first = await self._version()
        await self._hour(seconds)
        await self._shift(before)
        await self._drift()
        if await self._retrained(after):
            await self._later(min(AFTER_SECONDS, seconds))

    async def _version(self) -> str:
        answer = await self._client.get("/health")
        return str(answer.raise_for_status().json()["models"][MODEL])

    async def _hour(self, seconds: float) -> None:
        self._say("1", f"A normal hour, in {seconds:.0f} s", f"housing {self._first} answers rows of the test split.")
        sender = self._sender
        sender.act, (sender.truth_share, sender.truth_delay) = HOUR, HOUR_TRUTHS
        started = time.monotonic()

        def done() -> float:
            passed = min((time.monotonic() - started) / seconds, 1.0)
            sender.rate = rate(passed)
            return passed

        await self._progress("Traffic", done)

    async def _shift(self, districts: Districts) -> None:
        self._say(
            "2",
            "The traffic shifts",
            "A new client asks for inland districts alone, and in other units: the floor area (in 10 m²) where the "
            "number of rooms belongs, incomes in pounds. Every value is within its range, so nothing is refused.",
        )
        sender = self._sender
        sender.traffic[MODEL] = districts
        sender.act, sender.rate, (sender.truth_share, sender.truth_delay) = CLIENT, BUSY, CLIENT_TRUTHS
        await self._progress(f"{len(districts)} districts", lambda: districts.sent / len(districts))
        sender.rate = CALM
        self._console.print(
            f"RMSE of the predictions, in 100k USD: {sender.rmse(HOUR):.3f} in the normal hour, "
            f"[bold]{sender.rmse(CLIENT):.3f}[/] since then. What came true is sent to POST /feedback."
        )

    async def _drift(self) -> None:
        self._say("3", "Drift is found", "The worker of the loop searches hourly; here somebody types it:")
        self._console.print("$ python -m loop.drift --model housing", style="bold")
        with self._console.status("compare recent predictions with training"):
            found = await self._project.run("loop.drift", "--model", MODEL)
        self._console.print(found.strip(), soft_wrap=True)

    async def _retrained(self, after: Districts) -> bool:
        """Whether the challenger took over."""
        self._say("4", "A challenger is trained", "The worker of the loop starts, sees the drift, and asks for it:")
        with self._project.worker():
            with self._console.status("the worker starts"):
                number = await self._job()
            reason = await self._follow(number, after)
        self._console.print(reason, soft_wrap=True)
        return self._sender.act == AFTER

    async def _job(self) -> int:
        until = time.monotonic() + JOB_WITHIN
        while time.monotonic() < until:
            content = await self._get("/retrain/jobs")
            if content["jobs"]:
                job = content["jobs"][0]
                self._console.print(f"Job {job['id']}, trigger: {job['trigger']} ({job['who']}).")
                return int(job["id"])
            await asyncio.sleep(0.3)
        raise LoadTestError(f"No retraining was asked for. The worker's log: {_tail(self._project.worker_log)}")

    async def _follow(self, number: int, after: Districts) -> str:
        """Show how far the job is until it has ended and a new version answers; why it ended as it did."""
        until = time.monotonic() + JOB_SECONDS
        with Progress(console=self._console) as progress:
            task = progress.add_task("", total=1.0)
            while time.monotonic() < until:
                job = await self._get(f"/retrain/status/{number}")
                progress.update(task, completed=job["progress"], description=job["stage"])
                if self._sender.act == CLIENT and self._newest() not in {"", self._first}:
                    self._take_over(after)
                if job["state"] == "failed":
                    raise LoadTestError(f"The retraining failed: {job['reason']} {job['log'][-1000:]}")
                if job["state"] == "refused":
                    return str(job["reason"])
                if job["state"] == "done" and self._sender.act == AFTER:
                    return str(job["reason"])
                await asyncio.sleep(0.2)
        raise LoadTestError(f"Job {number} does not end. The worker's log: {_tail(self._project.worker_log)}")

    def _take_over(self, after: Districts) -> None:
        """From now on, send districts that the new model has not learned from."""
        self._sender.traffic[MODEL], self._sender.act = after, AFTER
        failed = len(self._sender.outcome.failed)
        self._console.print(
            f"[bold]housing {self._newest()} answers[/]: each worker swaps it in between two batches, without a "
            f"restart. Failed requests so far: {failed}."
        )

    def _newest(self) -> str:
        return next((one.version for one in reversed(self._sender.answered) if one.model == MODEL), "")

    async def _later(self, seconds: float) -> None:
        self._say("5", "The quality recovers", "The client's other districts, which no model has learned from:")
        sender = self._sender
        sender.rate = BUSY / 2
        started = time.monotonic()
        await self._progress("Traffic", lambda: (time.monotonic() - started) / seconds)
        version = self._newest()
        self._console.print(
            f"RMSE: {sender.rmse(HOUR):.3f} in the normal hour, {sender.rmse(CLIENT, self._first):.3f} for the new "
            f"client by {self._first}, [bold]{sender.rmse(AFTER, version):.3f}[/] by {version}."
        )

    async def _get(self, path: str) -> Any:
        answer = await self._client.get(path)
        return answer.raise_for_status().json()

    async def _progress(self, label: str, done: Callable[[], float]) -> None:
        with Progress(console=self._console) as progress:
            task = progress.add_task(label, total=1.0)
            while (share := done()) < 1:
                progress.update(task, completed=share)
                await asyncio.sleep(0.1)
            progress.update(task, completed=1.0)

    def _say(self, number: str, title: str, what: str) -> None:
        self._console.print(f"\n[bold]{number}. {title}[/]", highlight=False)
        self._console.print(what, highlight=False, soft_wrap=True)


def rate(moment: float) -> float:
    """Requests a second at a moment of the hour, 0 to 1: it rises to one busy time, and falls."""
    return BUSY * (1 - 0.7 * math.cos(2 * math.pi * moment))


async def tell(project: ProjectCopy, url: str, target: str, seconds: float, console: Console) -> Outcome:
    """Send traffic to a service, and tell the story with it.

    Args:
        project: the copy whose models the service has.
        url: of the service.
        target: of its gRPC port.
        seconds: length of the normal hour.
        console: where to tell it.

    Raises:
        LoadTestError: something did not happen; the sentence says what.
        httpx.HTTPError: the service went away.
    """
    features = project.folder / FEATURES
    traffic = {name: Traffic.read(dataset, features) for name, dataset in DATASETS.items()}
    async with (
        httpx.AsyncClient(base_url=url, timeout=30, limits=httpx.Limits(max_connections=IN_FLIGHT)) as client,
        httpx.AsyncClient(base_url=url, timeout=30) as asking,
        grpc.aio.insecure_channel(target) as channel,
    ):
        sender = Sender(client, channel, traffic)
        flowing = asyncio.create_task(sender.run())
        try:
            await Story(project, asking, sender, console).tell(seconds)
        finally:
            sender.stop()
            await flowing
        return sender.outcome


def told(outcome: Outcome, project: ProjectCopy, url: str) -> Iterator[str]:
    """What was done and where to look, line by line."""
    sent = ", ".join(f"{count:,} {name}" for name, count in outcome.answers.most_common())
    labels = ", ".join(f"{count:,} {name}" for name, count in outcome.labels.most_common())
    yield f"{sum(outcome.answers.values()):,} requests ({sent}), {outcome.rows:,} rows; true values: {labels}."
    yield f"Failed requests: {len(outcome.failed)}{': ' + outcome.failed[0] if outcome.failed else ''}."
    yield ""
    yield f"  {url}/logs?window=1h    the predictions, for people"
    yield f"  {url}/models/info       the models, with their live quality"
    yield f"  {url}/retrain/jobs      the job; its figures are in /retrain/status/1"
    yield f"  {project.folder}/reports/drift/report.html         what has drifted, with pictures"
    yield f"  {project.folder}/reports/retraining/housing.html   champion and challenger, row by row"
    yield f"  API_URL={url} make monitor    all of it in the terminal, as it happens"
    if (project.folder / "models/previous.json").is_file():
        yield ""
        yield "Go back to the version before, and see /health name it:"
        yield f"  {project.rollback_command()}"


def statistics(url: str) -> str:
    """What ``/logs/stats`` says."""
    return json.dumps(httpx.get(f"{url}/logs/stats").raise_for_status().json(), indent=1)


def _tail(log: Path) -> str:
    return log.read_text(errors="replace").strip()[-1500:]
