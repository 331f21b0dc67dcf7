"""The one door, in a worker of this process: what observers are told, and a model that is replaced under load."""

import asyncio
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple, cast

import grpc
import httpx
import numpy as np
import pytest
from open_inference.grpc import protocol as pb
from open_inference.grpc.service import GRPCInferenceServiceStub
from sklearn.linear_model import LogisticRegression

from contract.dataset import Dataset
from contract.datasets.housing import HOUSING
from contract.datasets.iris import IRIS
from serving import prediction
from serving.errors import NotReady
from serving.host import BundleService
from serving.models import LoadedModel, load
from serving.prediction import Observers, Prediction, Predictor, new_id
from serving.settings import Settings
from serving.telemetry import bulk
from serving.telemetry.call import Call, Endpoint
from serving.telemetry.request_log import RequestLog
from tests.serving import tiny_models
from tests.serving.protocol.wire import message, tensor
from tests.serving.worker import LocalWorker
from tests.waiting import wait_until


class Answered(NamedTuple):
    """What a caller is told."""

    id: str
    version: str
    probabilities: list[float]


class Caller:
    """Asks for the class of one flower in every form."""

    def __init__(self, worker: LocalWorker) -> None:
        self.http = httpx.Client(base_url=worker.url, timeout=30)
        self.channel = grpc.insecure_channel(worker.target)
        self._stub = GRPCInferenceServiceStub(self.channel)

    def flat(self, row: np.ndarray) -> Answered:
        body = dict(zip(IRIS.feature_names, row.tolist(), strict=True))
        content = self.http.post("/predict/iris", json=body, headers={"X-Request-ID": "flat"}).json()
        return Answered(content["prediction_id"], content["model"]["version"], list(content["probabilities"].values()))

    def batch(self, row: np.ndarray) -> Answered:
        body = {"rows": [dict(zip(IRIS.feature_names, row.tolist(), strict=True))]}
        content = self.http.post("/predict/iris/batch", json=body, headers={"X-Request-ID": "batch"}).json()
        (one,) = content["predictions"]
        return Answered(content["prediction_id"], content["model"]["version"], list(one["probabilities"].values()))

    def v2(self, row: np.ndarray) -> Answered:
        body = {"inputs": [tensor("x", row[None])], "outputs": [{"name": "probabilities"}]}
        content = self.http.post("/v2/models/iris/infer", json=body, headers={"X-Request-ID": "v2"}).json()
        return Answered(content["parameters"]["prediction_id"], content["model_version"], content["outputs"][0]["data"])

    def grpc(self, row: np.ndarray) -> Answered:
        wanted = [pb.ModelInferRequest.InferRequestedOutputTensor(name="probabilities")]
        request = message("iris", tensor("x", row[None]), raw=False, outputs=wanted)
        answer = self._stub.ModelInfer(request, timeout=30, metadata=[("x-request-id", "grpc")])
        return Answered(
            answer.parameters["prediction_id"].string_param,
            answer.model_version,
            list(answer.outputs[0].contents.fp64_contents),
        )


FORMS: list[Callable[[Caller, np.ndarray], Answered]] = [Caller.flat, Caller.batch, Caller.v2, Caller.grpc]
PROTOCOLS = {"flat": "http", "batch": "http", "v2": "v2", "grpc": "grpc"}


@pytest.fixture(scope="module")
def caller(worker: LocalWorker) -> Iterator[Caller]:
    made = Caller(worker)
    with made.http, made.channel:
        yield made


class Recorder:
    """The smallest observer."""

    def __init__(self) -> None:
        self.seen: list[Prediction] = []

    def predicted(self, predictions: Sequence[Prediction]) -> None:
        self.seen.extend(predictions)


class Broken:
    """An observer with a bug."""

    def predicted(self, _: Sequence[Prediction]) -> None:
        raise KeyError("the bug")


async def flush() -> None:
    bulk.flush()


@pytest.fixture
def recorder(worker: LocalWorker) -> Iterator[Recorder]:
    made = Recorder()
    worker.bundle.observers.add(made)
    worker.call(flush())
    made.seen.clear()
    yield made
    worker.bundle.observers.remove(made)


@pytest.mark.parametrize("ask", FORMS, ids=lambda ask: ask.__name__)
def test_an_observer_is_told_of_every_protocol(
    worker: LocalWorker, caller: Caller, recorder: Recorder, ask: Callable[[Caller, np.ndarray], Answered]
) -> None:
    row = tiny_models.table(IRIS).features[3]
    answered = ask(caller, row)
    worker.call(flush())
    (seen,) = recorder.seen
    assert (seen.id, seen.model, seen.version) == (answered.id, "iris", answered.version)
    assert seen.rows.tolist() == [row.tolist()]
    assert seen.outputs.tolist() == [answered.probabilities]
    assert (seen.call.request_id, seen.call.endpoint.protocol) == (ask.__name__, PROTOCOLS[ask.__name__])
    assert 0 <= seen.queue_seconds < 30
    assert 0 < seen.inference_seconds < 30


def test_refused_rows_are_no_predictions(worker: LocalWorker, caller: Caller, recorder: Recorder) -> None:
    assert caller.http.post("/predict/iris", json={}).status_code == 400
    assert caller.http.post("/v2/models/iris/infer", json={"inputs": []}).status_code == 400
    worker.call(flush())
    assert recorder.seen == []


def test_a_broken_observer_harms_neither_callers_nor_the_others(
    worker: LocalWorker, caller: Caller, caplog: pytest.LogCaptureFixture
) -> None:
    observers = worker.bundle.observers
    broken, recorder = Broken(), Recorder()
    observers.add(broken)
    observers.add(recorder)  # behind the broken one
    try:
        answered = caller.flat(tiny_models.table(IRIS).features[0])
        worker.call(flush())
    finally:
        observers.remove(broken)
        observers.remove(recorder)
    assert [seen.id for seen in recorder.seen] == [answered.id]
    assert any(record.getMessage() == "observer failed" and record.exc_info for record in caplog.records)


def test_large_batches_reach_the_observers_without_waiting_for_a_flush(
    worker: LocalWorker, caller: Caller, recorder: Recorder
) -> None:
    rows = [HOUSING.example] * (prediction.PENDING_ROWS + 1)
    caller.http.post("/predict/housing/batch", json={"rows": rows}).raise_for_status()

    async def seen() -> int:
        return sum(len(one.rows) for one in recorder.seen)

    assert worker.call(seen()) == len(rows)


def other_iris() -> LoadedModel:
    """Another version of Iris, which answers otherwise."""
    onnx, card = tiny_models.artifact(IRIS, LogisticRegression(C=0.01, max_iter=1000))
    return load(IRIS, tiny_models.store(IRIS, onnx=onnx, card=card))


def probabilities_of(model: LoadedModel, rows: np.ndarray) -> list[list[float]]:
    probabilities: list[list[float]] = model.artifact.outputs(rows).tolist()
    return probabilities


def test_a_model_is_replaced_under_load(worker: LocalWorker, recorder: Recorder) -> None:
    """Every answer names the version that made it, in every protocol, and none is lost."""
    predictor = worker.bundle["iris"]
    first, second = predictor.model, other_iris()
    rows = tiny_models.table(IRIS).features[:50]
    expected = {model.version: probabilities_of(model, rows) for model in (first, second)}
    stop = threading.Event()

    def load_up(form: int) -> list[tuple[int, Answered]]:
        made = Caller(worker)
        answers: list[tuple[int, Answered]] = []
        with made.http, made.channel:
            while not stop.is_set():
                index = len(answers) % len(rows)
                answers.append((index, FORMS[form % len(FORMS)](made, rows[index])))
        return answers

    def has_answered(version: str, before: int) -> bool:
        worker.call(flush())
        return sum(seen.version == version for seen in recorder.seen[before:]) >= 20

    with ThreadPoolExecutor(8) as pool:
        running = [pool.submit(load_up, form) for form in range(8)]
        try:
            for model in [second, first] * 5:
                served = len(recorder.seen)
                worker.call(predictor.replace(model))
                assert predictor.version == model.version
                # Only when the new one has answered some does the next one come.
                wait_until(partial(has_answered, model.version, served), "the new model answers")
        finally:
            stop.set()
        answers = [answer for future in running for answer in future.result()]
    for index, answered in answers:
        assert answered.probabilities == expected[answered.version][index]
    worker.call(flush())
    told = {seen.id: seen.version for seen in recorder.seen}
    assert {answered.id: answered.version for _, answered in answers} == told
    assert min(Counter(told.values()).values()) > 50


def test_a_replaced_model_is_named_everywhere(worker: LocalWorker, caller: Caller) -> None:
    predictor = worker.bundle["iris"]
    first, second = predictor.model, other_iris()
    worker.call(predictor.replace(second))
    try:
        assert caller.http.get("/v2/models/iris").json()["versions"] == [second.version]
        assert caller.http.get("/models/info").json()["models"]["iris"]["version"] == second.version
        assert caller.http.get("/health").json()["models"]["iris"] == second.version
        assert caller.http.get(f"/v2/models/iris/versions/{first.version}/ready").status_code == 404
        assert caller.http.get(f"/v2/models/iris/versions/{second.version}/ready").status_code == 200
        page = caller.http.get("/metrics").text
        for name in ("ml_model_info", "ml_model_test_metric"):
            described = [line for line in page.splitlines() if line.startswith(name)]
            assert any(f'version="{second.version}"' in line for line in described)
            assert not any(f'version="{first.version}"' in line for line in described)
    finally:
        worker.call(predictor.replace(first))


def test_the_log_names_the_version_that_answered(
    worker: LocalWorker, caller: Caller, caplog: pytest.LogCaptureFixture
) -> None:
    predictor = worker.bundle["iris"]
    first, second = predictor.model, other_iris()
    row = tiny_models.table(IRIS).features[0]
    with caplog.at_level("DEBUG", "serving.telemetry.request_log"):
        for model in (second, first):
            worker.call(predictor.replace(model))
            for ask in FORMS:
                caplog.clear()
                answered = ask(caller, row)
                worker.call(flush())
                (record,) = [one for one in caplog.records if one.getMessage() == "request answered"]
                assert vars(record)["version"] == answered.version == model.version


def test_a_version_that_left_is_not_answered_by_another(worker: LocalWorker, caller: Caller) -> None:
    predictor = worker.bundle["iris"]
    first = predictor.model
    body = {"inputs": [tensor("x", tiny_models.table(IRIS).features[:1])]}
    path = f"/v2/models/iris/versions/{first.version}/infer"
    assert caller.http.post(path, json=body).status_code == 200
    worker.call(predictor.replace(other_iris()))
    try:
        assert caller.http.post(path, json=body).status_code == 404
    finally:
        worker.call(predictor.replace(first))


def test_a_predictor_that_is_closed_while_its_model_is_replaced_stays_closed() -> None:
    first, second = load(IRIS, tiny_models.store(IRIS)), other_iris()
    rows = tiny_models.table(IRIS).features[:1]

    async def story() -> None:
        predictor = Predictor(first, Settings(), Observers())
        replacing = asyncio.create_task(predictor.replace(second))
        await asyncio.sleep(0)  # it warms up
        assert predictor.version == first.version
        await predictor.close()
        await replacing
        call = Call(Endpoint("/predict/iris", "http", IRIS), None, RequestLog(slow_seconds=60))
        with pytest.raises(NotReady):
            await predictor.predict(rows, call)

    asyncio.run(story())


def test_identifiers_are_uuids_that_sort_by_time() -> None:
    made = [uuid.UUID(new_id()) for _ in range(5000)]
    assert all((one.version, one.variant) == (7, uuid.RFC_4122) for one in made)
    assert len(set(made)) == len(made)
    stamps = [one.int >> 64 for one in made]
    assert stamps == sorted(stamps)


@pytest.mark.parametrize("dataset", [HOUSING, IRIS], ids=lambda dataset: dataset.name)
def test_the_api_methods_answer_in_python_too(
    worker: LocalWorker, dataset: Dataset, pinned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ``bentoml`` users call a service in a notebook."""
    monkeypatch.setenv("MODELS_DIR", str(pinned))
    from service import PredictionService

    class Notebook:
        bundle = worker.bundle

    method = cast(BundleService, PredictionService).apis[f"predict_{dataset.name}"]
    answer = worker.call(method.func(Notebook(), dataset.row.model_validate(dataset.example)))
    row = np.array([list(dataset.example.values())])
    outputs = tiny_models.expected(dataset, row)[0]
    expected = outputs[0] if dataset is HOUSING else int(outputs.argmax())
    assert answer.prediction == expected
