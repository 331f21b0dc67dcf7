"""The story of the loop: traffic shifts, drift is found, a challenger takes over, the quality recovers; and back again.

Real processes on real rows: the service with two workers, its ledger, callers of every protocol who never stop, the
worker of the loop with the whole pipeline. What shifts is told in ``load_tests.demo.client``: a new client asks for
inland districts alone, and in other units. ``make demo`` tells the same story.

The other one, in which the challenger is worse and is refused, is in ``test_retraining``, with the same pipeline.
"""

import logging
import os
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from open_inference.grpc.service import GRPCInferenceServiceStub

from contract.datasets.housing import HOUSING
from contract.table import FloatMatrix
from ledger import quality
from ledger.quality import Window
from ledger.reader import Reader
from ledger.times import now_us
from load_tests.demo.answers import Answer, from_json, from_response
from load_tests.demo.client import Districts
from load_tests.grpc_protocol import infer_request
from load_tests.http_protocols import Batch, HttpProtocol, InferJson, SingleRow
from load_tests.traffic import FEATURES, Traffic
from local_service import free_port, running_service
from model.session import Artifact
from serving.keys import Ring
from tests.integration.small_project import SmallProject
from tests.serving.locked import HASHES, KEYS
from tests.serving.running import PATIENT
from tests.serving.series import scrape
from tests.waiting import wait_until
from training.evaluation.plots import BLUE, GREY, INK, ORANGE, canvas

logger = logging.getLogger(__name__)
ADMIN = {"authorization": f"Bearer {KEYS[Ring.ADMIN]}"}
FORMS: dict[str, tuple[HttpProtocol, int]] = {"row": (SingleRow(), 1), "batch": (Batch(), 5), "v2": (InferJson(), 2)}
"""Callers over HTTP, and the rows of their requests. A fourth one calls over gRPC."""
GRPC = "grpc"
PAUSE = 0.05
"""Seconds between an answer and the next request of a caller."""
SECOND_US = 1_000_000
Ask = Callable[[FloatMatrix], Answer]


@dataclass(frozen=True)
class Answered:
    """What a caller asked, and what it was answered."""

    form: str
    rows: FloatMatrix
    answer: Answer


@dataclass
class Callers:
    """A caller for each form, without a retry of any kind, and one who sends what came true.

    ``traffic`` is what they ask for; it may be changed meanwhile.
    """

    url: str
    grpc_target: str
    traffic: Traffic
    answered: list[Answered] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    told: list[dict[str, Any]] = field(default_factory=list)
    """What came true, and is still to be sent."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def calling(self) -> Iterator[None]:
        """Ask until the block ends; a thread that breaks is raised then."""
        over = threading.Event()
        with ExitStack() as stack, ThreadPoolExecutor(len(FORMS) + 3) as pool:

            def client() -> httpx.Client:
                return stack.enter_context(httpx.Client(base_url=self.url, timeout=60, headers=ADMIN))

            channel = stack.enter_context(grpc.insecure_channel(self.grpc_target, [("grpc.enable_retries", 0)]))
            asks = {form: (self._post(client(), protocol), rows) for form, (protocol, rows) in FORMS.items()}
            asks[GRPC] = self._call(channel), 1
            threads: list[Future[None]] = [pool.submit(self._ask, form, *ask, over) for form, ask in asks.items()]
            threads.append(pool.submit(self._tell, client(), over))
            threads.append(pool.submit(self._probe, client(), over))
            try:
                yield
            finally:
                over.set()
                for thread in threads:
                    thread.result()

    def versions(self, last: int = 20) -> set[str]:
        """The versions of each caller's last answers."""
        newest: dict[str, list[str]] = defaultdict(list)
        for one in self.answered[-8 * last * len(FORMS) :]:
            newest[one.form].append(one.answer.version)
        return {version for versions in newest.values() for version in versions[-last:]}

    def _ask(self, form: str, ask: Ask, count: int, over: threading.Event) -> None:
        while not over.wait(PAUSE):
            with self._lock:
                rows, truth = self.traffic.labelled(count)
            try:
                answer = ask(rows)
            except (httpx.HTTPError, grpc.RpcError) as error:
                self.failed.append(f"{form}: {error!r}")
                continue
            with self._lock:
                self.answered.append(Answered(form, rows, answer))
                self.told += [
                    {"prediction_id": answer.prediction_id, "row": row, "actual": actual}
                    for row, actual in enumerate(truth.tolist())
                ]

    def _tell(self, client: httpx.Client, over: threading.Event) -> None:
        while True:
            ended = over.wait(0.5)
            with self._lock:
                entries, self.told = self.told, []
            if entries:
                counted = client.post("/feedback", json=entries).raise_for_status().json()
                assert counted["taken"] + counted["waiting"] == len(entries), counted
            elif ended:
                return

    def _probe(self, client: httpx.Client, over: threading.Event) -> None:
        while not over.wait(0.1):
            answer = client.get("/readyz")
            if answer.status_code != 200:
                self.failed.append(f"not ready: {answer.text}")

    @staticmethod
    def _post(client: httpx.Client, protocol: HttpProtocol) -> Ask:
        def ask(rows: FloatMatrix) -> Answer:
            asked = protocol.request(HOUSING, rows)
            answer = client.post(asked.path, content=asked.body, headers=dict(asked.headers))
            return from_json(answer.raise_for_status().json())

        return ask

    @staticmethod
    def _call(channel: grpc.Channel) -> Ask:
        infer = GRPCInferenceServiceStub(channel).ModelInfer
        return lambda rows: from_response(infer(infer_request(HOUSING, rows), timeout=60))


@pytest.fixture
def project(small_project: SmallProject, tmp_path: Path) -> Iterator[SmallProject]:
    with small_project.copied(tmp_path) as copy:
        yield copy


def test_a_shift_is_found_learned_deployed_and_taken_back(project: SmallProject, tmp_path: Path) -> None:
    port = free_port()
    settings = {
        **{name: project.environment[name] for name in ("BENTOML_HOME", "STATE_DIR")},
        "MODELS_DIR": str(project.folder / "models"),
        "ADMIN_KEYS": HASHES[Ring.ADMIN],
        "GRPC_PORT": str(port),
        "LEDGER": "on",
        **PATIENT,
        "WORKERS": "2",
    }
    first, features = project.deployed(), project.folder / FEATURES
    before, after = Districts.halves(features)
    moments: dict[str, int] = {}
    with (
        running_service(environment=settings, log=tmp_path / "service.log") as url,
        httpx.Client(base_url=url, timeout=60, headers=ADMIN) as client,
    ):
        callers = Callers(url, f"127.0.0.1:{port}", Traffic.read(HOUSING, features))
        with callers.calling():
            wait_until(lambda: len(callers.answered) >= 600, "the champion answers")
            assert callers.versions() == {first}

            # A new client takes the others' place.
            callers.traffic = before
            moments["shift"] = now_us()
            wait_until(lambda: before.sent >= len(before), "every district of the first half was asked for")

            found = project.run("loop.drift", "--model", "housing", "--fail", status=3)
            assert "DRIFT of" in found
            assert "AveRooms" in found
            drifted = 'ml_drift_detected{feature="AveRooms",model="housing"} 1.0'
            wait_until(lambda: drifted in client.get("/metrics").text.splitlines(), "the drift is published")
            moments["drift"] = now_us()

            # As Alertmanager sends it.
            alert = {"status": "firing", "labels": {"alertname": "FeatureDrift", "model": "housing"}}
            (number,) = client.post("/retrain/alert", json={"alerts": [alert]}).raise_for_status().json()["jobs"]

            def job() -> Any:
                return client.get(f"/retrain/status/{number}").raise_for_status().json()

            with project.worker():
                wait_until(lambda: job()["stage"].startswith("train on"), "it trains")
                moments["retraining"] = now_us()
                wait_until(lambda: callers.versions(1) != {first} or job()["finished_at"], "an end", 900)
                callers.traffic = after
                wait_until(lambda: job()["finished_at"], "the job ends", 600)
            ended = job()
            assert (ended["state"], ended["trigger"]) == ("done", "alert"), ended
            second = project.deployed()
            assert ended["result"]["challenger"] == second
            assert ended["result"]["test_split_rows_left_out"] > 0
            check_project(project, first, ended)
            # By itself, without a restart.
            wait_until(lambda: callers.versions() == {second}, "the challenger answers every caller")
            assert scrape(client).value("ml_worker_starts_total") == 2

            def live() -> float:
                """What ``/models/info`` says of the last hour; 0 before it says anything."""
                told = client.get("/models/info").raise_for_status().json()["models"]["housing"]
                assert told["version"] == second
                windows = told["live_quality"].get("windows", {})
                return float(windows.get("1h", {}).get("metrics", {}).get("rmse", 0))

            wait_until(live, "the live quality of the new version is known")

            moments["rollback"] = now_us()
            told = client.post("/models/rollback", json={"model": "housing"}).raise_for_status().json()
            assert {workers["housing"] for workers in told["workers"].values()} == {first}
            wait_until(lambda: callers.versions(100) == {first}, "the champion answers every caller again")

        answered = Counter(version for one in callers.answered for version in [one.answer.version] * len(one.rows))
        reader = Reader(project.engine)
        wait_until(lambda: labelled(reader)[0].size == answered.total(), "all of it is on record, with its truth")

        def hour() -> dict[str, Window]:
            """The live quality of the last hour, by version."""
            known = quality.read(project.engine, minimum_rows=1)
            return {one.version: one.windows["1h"] for one in known if one.model == "housing"}

        wait_until(
            lambda: {version: window.rows for version, window in hour().items()} == answered, "the quality of all rows"
        )
        live_rmse = {version: window.metrics["rmse"] for version, window in hour().items()}

    assert callers.failed == []
    assert set(answered) == {first, second}
    check_answers(callers.answered, {version: project.artifact(version) for version in answered})
    for form in (*FORMS, GRPC):
        seen = [one.answer.version for one in callers.answered if one.form == form]
        assert [version for version, _ in groupby(seen)] == [first, second, first]

    times, errors, versions = labelled(reader)
    took_over = int(times[versions == second].min())
    moments = dict(sorted((moments | {"takeover": took_over}).items(), key=lambda one: one[1]))
    normal = rmse(errors[times < moments["shift"]])
    shifted = rmse(errors[(times >= moments["shift"]) & (times < took_over)])
    recovered = live_rmse[second]
    assert shifted > 1.1 * normal
    assert recovered < 0.7 * shifted
    assert live_rmse == pytest.approx({version: rmse(errors[versions == version]) for version in answered})
    assert rmse(errors[times > times[versions == second].max()]) > 1.3 * recovered
    picture = Path(os.environ.get("PICTURES") or tmp_path) / "story.png"
    logger.info(
        "%d answers, none failed, of %d rows; RMSE %.3f, after the shift %.3f, after the takeover %.3f; gate: %s",
        len(callers.answered),
        answered.total(),
        normal,
        shifted,
        recovered,
        ended["reason"],
    )
    draw(picture, times, errors, versions == second, moments)
    assert picture.stat().st_size > 20_000


def check_project(project: SmallProject, champion: str, job: Any) -> None:
    """The project is that of the challenger, as if somebody had trained and committed it."""
    result = job["result"]
    assert (project.alias("champion"), project.alias("previous")) == (result["challenger"], champion)
    added = project.json("models/housing/card.json")["parameters"]["feedback_rows"]
    assert added == result["training_rows_added"]
    assert "Data and pipelines are up to date" in project.run("dvc", "status")
    report = (project.folder / "reports/retraining/housing.html").read_text()
    assert job["reason"] in report
    assert report.count("data:image/png;base64,") == 3
    features = list(HOUSING.feature_names)
    train, test = (
        pd.read_parquet(project.folder / f"data/features/housing/{name}.parquet")[features].astype(np.float32)
        for name in ("train", "test")
    )
    assert len(train) == 16_512 + added
    assert train.merge(test).empty, "no row of the test split is in the training split"


def check_answers(answered: list[Answered], artifacts: dict[str, Artifact]) -> None:
    """Every answer is, bit by bit, what the version computes that it names: none is of two."""
    for version, artifact in artifacts.items():
        ours = [one for one in answered if one.answer.version == version]
        expected = artifact.outputs(np.concatenate([one.rows for one in ours]))[:, 0].tolist()
        assert [value for one in ours for value in one.answer.values] == expected


def labelled(reader: Reader) -> tuple[NDArray[np.int64], FloatMatrix, NDArray[np.str_]]:
    """Housing's labelled rows on record: when they were predicted, prediction minus truth, and the version."""
    chunks = list(reader.rows_for("housing", since_us=0, until_us=now_us(), labelled=True))
    if not chunks:
        return np.empty(0, dtype=np.int64), np.empty(0), np.empty(0, dtype=np.str_)
    times = np.concatenate([chunk.time_us for chunk in chunks])
    order = np.argsort(times, kind="stable")
    errors = np.concatenate([chunk.outputs[:, 0] - chunk.actuals for chunk in chunks])
    versions = np.concatenate([np.full(len(chunk), chunk.model.version) for chunk in chunks])
    return times[order], errors[order], versions[order]


def rmse(errors: FloatMatrix) -> float:
    return float(np.sqrt(np.mean(errors**2)))


def draw(
    path: Path, times: NDArray[np.int64], errors: FloatMatrix, later: NDArray[np.bool_], moments: dict[str, int]
) -> None:
    """The RMSE of short times, by the version that answered, and the moments of the story."""
    start = int(times[0])
    seconds = (times - start) / SECOND_US
    places = {name: (moment - start) / SECOND_US for name, moment in moments.items()}
    width = max(2, round(seconds[-1] / 100))
    # No time is of two acts.
    edges = np.unique([*np.arange(0, seconds[-1], width), *places.values()])
    slots = np.searchsorted(edges, seconds, side="right")
    with canvas(path, 3.8) as figure:
        axes = figure.subplots()
        for mask, colour, label in ((~later, ORANGE, "answers of the champion"), (later, BLUE, "of the challenger")):
            members = [mask & (slots == slot) for slot in np.unique(slots[mask])]
            points = [(seconds[one].mean(), rmse(errors[one])) for one in members if one.sum() >= 30]
            axes.plot(*zip(*points, strict=True), "o", color=colour, markersize=3.5, label=label)
        axes.set(
            ylim=(0, 1.25 * axes.get_ylim()[1]),
            xlim=(0, seconds[-1]),
            xlabel="seconds",
            ylabel=f"RMSE of {width} s, in 100k USD",
        )
        for name, place in places.items():
            axes.axvline(place, color=GREY, linewidth=1)
            axes.text(place, axes.get_ylim()[1], name, color=INK, fontsize=9, ha="right", va="top", rotation=90)
        figure.legend(loc="outside upper left", ncols=2)
