"""The series of the real service, with two workers."""

import os
import random
import re
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest
from open_inference.grpc import protocol as pb
from open_inference.grpc.service import GRPCInferenceServiceStub

from contract import DATASETS, buckets, deciles
from contract.dataset import Dataset
from contract.datasets.housing import HOUSING
from contract.datasets.iris import IRIS
from serving.protocol.waiting import LISTENERS
from tests.serving import tiny_models
from tests.serving.protocol.wire import message, rows_of, tensor
from tests.serving.running import Running, running
from tests.serving.series import Labels, Scrape, scrape
from tests.waiting import wait_until


@dataclass(frozen=True)
class Watched:
    """A service that only these tests call, and its metrics page before the first call."""

    service: Running
    first: Scrape


@pytest.fixture(scope="module")
def alone(pinned: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    log = tmp_path_factory.mktemp("watched") / "service.log"
    with running(pinned, log, WORKERS="2", LOG_LEVEL="ERROR") as service:
        # The first worker answers before the second has started.
        wait_until(lambda: scrape(service.client).value("ml_worker_starts_total") == 2, "two workers")
        yield Watched(service, scrape(service.client))


@pytest.fixture
def watched(alone: Watched) -> httpx.Client:
    return alone.service.client


@pytest.fixture
def stub(alone: Watched) -> GRPCInferenceServiceStub:
    return alone.service.stub


def bodies_of(dataset: Dataset, count: int) -> list[dict[str, float]]:
    rows = np.resize(tiny_models.table(dataset).features, (count, len(dataset.features))).tolist()
    return [dict(zip(dataset.feature_names, row, strict=True)) for row in rows]


def test_what_is_predicted_is_counted(watched: httpx.Client, stored: dict[str, str]) -> None:
    before = scrape(watched)
    bodies = bodies_of(HOUSING, 300)
    watched.post("/predict/housing/batch", json={"rows": bodies[:290]}).raise_for_status()
    for body in bodies[290:]:
        watched.post("/predict/housing", json=body).raise_for_status()
    grown = partial(scrape(watched).since(before).value, model="housing")

    assert grown("ml_predictions_total", version=stored["housing"]) == 300
    assert grown("ml_batch_rows_sum") == 300
    assert grown("ml_batch_rows_count") == 11
    assert grown("ml_batch_rows_bucket", le="1.0") == 10
    assert grown("ml_batch_rows_bucket", le="512.0") == 11
    assert grown("ml_queue_wait_seconds_count") == grown("ml_inference_seconds_count") == 11
    assert grown("ml_inference_seconds_sum") > 0
    matrix = np.array([list(body.values()) for body in bodies])
    outputs = tiny_models.expected(HOUSING, matrix)[:, 0]
    assert grown("ml_predicted_value_count") == 300
    assert grown("ml_predicted_value_sum") == pytest.approx(outputs.sum())
    card = tiny_models.artifact(HOUSING)[1]
    expected = {
        feature.name: deciles.count(feature.deciles, column).tolist()
        for feature, column in zip(card.features, matrix.T, strict=True)
    }
    for name, counts in expected.items():
        found = [grown("ml_feature_decile_total", feature=name, decile=str(decile)) for decile in range(10)]
        assert found == counts
    found = [grown("ml_prediction_decile_total", decile=str(decile)) for decile in range(10)]
    assert found == deciles.count(card.prediction_deciles, outputs).tolist()


def test_predicted_classes_are_counted(watched: httpx.Client) -> None:
    before = scrape(watched)
    bodies = bodies_of(IRIS, 120)
    watched.post("/predict/iris/batch", json={"rows": bodies}).raise_for_status()
    grown = scrape(watched).since(before)
    outputs = tiny_models.expected(IRIS, np.array([list(body.values()) for body in bodies]))
    counts = np.bincount(outputs.argmax(axis=1), minlength=3).tolist()
    found = grown.of("ml_predicted_class_total", "label", model="iris")
    assert [found[label] for label in IRIS.target.classes] == counts
    name = "ml_prediction_confidence"
    assert grown.value(f"{name}_count") == 120
    assert grown.value(f"{name}_sum") == pytest.approx(outputs.max(axis=1).sum())
    most_sure = grown.value(f"{name}_bucket", le="+Inf") - grown.value(f"{name}_bucket", le="0.99")
    assert most_sure == (outputs.max(axis=1) > 0.99).sum()


def test_the_warm_up_is_not_counted(alone: Watched) -> None:
    first = alone.first
    assert first.value("ml_predictions_total") == first.value("ml_batch_rows_count") == 0
    assert len(first.of("ml_predictions_total", "model")) == len(DATASETS)
    # Nothing was predicted, so there is no time of it: 1970 would ring an alarm.
    assert not first.of("ml_last_prediction_timestamp_seconds", "model")


@pytest.mark.parametrize("dataset", DATASETS.values(), ids=lambda dataset: dataset.name)
def test_the_model_is_described(watched: httpx.Client, stored: dict[str, str], dataset: Dataset) -> None:
    now, card, name = scrape(watched), tiny_models.artifact(dataset)[1], dataset.name
    run = tiny_models.RUN
    assert run.run_id is not None
    assert run.trained_at is not None
    labels = {"run_id": run.run_id, "algorithm": card.algorithm, "trained_at": run.trained_at.isoformat()}
    # One series, though each of two workers says so.
    assert now.of("ml_model_info", "version", model=name, **labels) == {stored[name]: 1}
    assert now.value("ml_model_trained_timestamp_seconds", model=name) == run.trained_at.timestamp()
    assert now.of("ml_model_test_metric", "metric", model=name, version=stored[name]) == card.metrics
    for feature in card.features:
        shares = now.of("ml_feature_reference_share", "decile", model=name, feature=feature.name)
        names = buckets.labels(next(each for each in dataset.features if each.name == feature.name))
        assert [shares[name] for name in names] == feature.decile_shares
    shares = now.of("ml_prediction_reference_share", "decile", model=name)
    assert [shares[decile] for decile in sorted(shares)] == card.prediction_decile_shares
    assert now.of("ml_class_reference_share", "label", model=name) == card.class_shares


GOOD = list(HOUSING.example.values())
REFUSALS = [
    ("/predict/housing", {**HOUSING.example, "MedInc": -1}, ("MedInc", "out_of_range", 1)),
    ("/predict/housing", {**HOUSING.example, "MedInc": "8"}, ("MedInc", "not_a_number", 1)),
    ("/predict/housing", {key: 1 for key in HOUSING.example if key != "AveOccup"}, ("AveOccup", "missing", 1)),
    ("/predict/housing", {**HOUSING.example, "sqft": 1}, ("other", "unknown_field", 1)),
    ("/predict/housing", [], ("other", "malformed", 1)),
    (
        "/predict/housing/batch",
        {"rows": [{**HOUSING.example, "HouseAge": 1e6}] * 300},
        ("HouseAge", "out_of_range", 100),  # the check stops there
    ),
    ("/predict/housing/batch", {"rows": []}, ("other", "malformed", 1)),
    ("/predict/housing/batch", {"rows": [3]}, ("other", "malformed", 1)),
    ("/v2/models/housing/infer", [[*GOOD[:-1], 5], GOOD, [*GOOD[:-1], 6]], ("Longitude", "out_of_range", 2)),
    ("/v2/models/housing/infer", [[*GOOD[:-1], "x"]], ("Longitude", "not_a_number", 1)),
    ("/v2/models/housing/infer", [[*GOOD, 1]], ("other", "malformed", 1)),
]


@pytest.mark.parametrize(("path", "body", "refused"), REFUSALS)
def test_refused_rows_are_counted_by_feature_and_reason(
    watched: httpx.Client, path: str, body: object, refused: tuple[str, str, int]
) -> None:
    feature, reason, rows = refused
    before = scrape(watched)
    if path.startswith("/v2"):
        assert isinstance(body, list)
        shape = [len(body), len(body[0])]
        body = {"inputs": [{"name": "input", "datatype": "FP64", "shape": shape, "data": body}]}
    assert watched.post(path, json=body).status_code == 400
    after = scrape(watched)
    key = {"model": "housing", "feature": feature, "reason": reason}
    assert after.since(before).value("ml_refused_rows_total", **key) == rows
    assert after.series() - before.series() <= {key for key in after.series() if key[0].startswith("bentoml_")}


def test_rows_refused_over_grpc_are_counted(watched: httpx.Client, stub: GRPCInferenceServiceStub) -> None:
    before = scrape(watched)
    request = pb.ModelInferRequest(model_name="iris")
    for name in IRIS.feature_names:
        tensor = request.inputs.add(name=name, datatype="FP64", shape=[2])
        tensor.contents.fp64_contents.extend([1.0, float("nan") if name == "petal_width" else 1.0])
    with pytest.raises(grpc.RpcError, match="INVALID_ARGUMENT"):
        stub.ModelInfer(request)
    key = {"model": "iris", "feature": "petal_width", "reason": "not_a_number"}
    assert scrape(watched).since(before).value("ml_refused_rows_total", **key) == 1


@pytest.mark.parametrize(
    ("path", "endpoint"),
    [
        ("/predict/iris", "/predict/iris"),
        ("/models/info", "/models/info"),
        ("/v2", "/v2"),
        ("/v2/", "/v2"),
        ("/v2/models/iris", "/v2/models/iris"),
        ("/v2/models/iris/versions/none", "/v2/models/iris"),
        ("/v2/models/iris/versions/none/infer", "/v2/models/iris/infer"),
        ("/v2/models/iris/infer/", "/v2/models/iris/infer"),
        ("/v2/models/tulips/infer", "unknown"),
        ("/predict/iris/", "unknown"),
        ("/nowhere?at=all", "unknown"),
        ("/metrics/else", "unknown"),
    ],
)
def test_traffic_is_counted_by_endpoint(watched: httpx.Client, path: str, endpoint: str) -> None:
    before = scrape(watched)
    status = str(watched.get(path).status_code)
    grown = scrape(watched).since(before)
    for name in ("bentoml_service_request_total", "bentoml_service_request_duration_seconds_count"):
        assert grown.value(name, endpoint=endpoint, http_response_code=status) == grown.value(name) == 1


QUIET = [
    "/livez",
    "/readyz",
    "/healthz",
    "/health",
    "/metrics",
    "/metrics/prometheus",
    "/docs",
    "/",
    "/docs.json",
    "/openapi.json",
]
QUIET += ["/static_content/swagger-ui.css", "/v2/health/live", "/v2/health/ready", "/v2/models/iris/ready"]


@pytest.mark.parametrize("path", QUIET)
def test_probes_scrapes_and_pages_are_no_traffic(watched: httpx.Client, path: str) -> None:
    before = scrape(watched)
    assert watched.get(path).status_code == 200
    after = scrape(watched)
    assert after.value("bentoml_service_request_total") == before.value("bentoml_service_request_total")
    assert after.series() == before.series()


def hostile_requests(draw: random.Random, count: int) -> list[bytes]:
    """Requests with paths, models, versions, methods and field names that nobody has ever thought of."""
    iris = "/v2/models/iris"

    def one() -> bytes:
        odd = f"{draw.getrandbits(64):x}"
        method, path, body = draw.choice(
            [
                ("GET", f"/{odd}", b""),
                ("GET", f"/static_content/{odd}", b""),
                ("POST", f"/predict/{odd}", b"{}"),
                ("POST", f"/v2/models/{odd}/infer", b"{}"),
                ("POST", f"/v2/models/{odd}/versions/{odd}/infer", b"{}"),
                ("POST", f"{iris}/versions/{odd}/infer", b"{}"),
                ("GET", f"{iris}/{odd}", b""),
                ("POST", f"{iris}/infer?{odd}", b'{"inputs":[{"name":"%s"}]}' % odd.encode()),
                ("POST", "/predict/iris", b'{"%s":1}' % odd.encode()),
                (draw.choice(["PROPFIND", "MKCOL", "PURGE", "DELETE", "PATCH", "SUBSCRIBE"]), "/predict/iris", b""),
                (draw.choice(["REPORT", "LOCK", "OPTIONS", "TRACE", "PUT"]), f"{iris}/infer", b""),
                ("PUT", f"/livez/{odd}", b""),
            ]
        )
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nX-Request-ID: {odd}\r\nContent-Length: {len(body)}\r\n\r\n"
        return head.encode() + body

    return [one() for _ in range(count)]


def pipelined(url: httpx.URL, requests: list[bytes]) -> int:
    """How many answers came to requests that were sent without waiting for each."""
    answers = 0
    with socket.create_connection((url.host, url.port or 80), timeout=30) as connection:
        for start in range(0, len(requests), 50):
            part = requests[start : start + 50]
            connection.sendall(b"".join(part))
            due, last = answers + len(part), b""
            while answers < due:
                received = connection.recv(1 << 16)
                assert received, "the server closed the connection"
                # The end of the part before may be the begin of a status line.
                answers += (last + received).count(b"HTTP/1.1 ")
                last = received[-8:]
    return answers


def test_hostile_requests_add_a_handful_of_series(watched: httpx.Client) -> None:
    before = scrape(watched).series()
    draw = random.Random(5)

    def hostile(count: int) -> set[tuple[str, Labels]]:
        """Send so many; the series afterwards, once each request has been counted."""
        earlier = scrape(watched)
        requests = hostile_requests(draw, count)
        assert pipelined(watched.base_url, requests) == count
        now = scrape(watched)
        assert now.since(earlier).value("bentoml_service_request_total") == count
        return now.series()

    every_kind = hostile(500)
    # Status codes that had not been answered at an endpoint: total, sum, count and buckets of each.
    assert len(every_kind - before) <= 4 * 8
    assert not {name for name, _ in every_kind - before} - {
        "bentoml_service_request_total",
        *(f"bentoml_service_request_duration_seconds_{part}" for part in ("bucket", "count", "sum")),
    }
    assert hostile(5_000) == every_kind
    # What HTTP does not know as a method does not reach the application, and is counted as one of the unknown.
    with socket.create_connection((watched.base_url.host, watched.base_url.port or 80)) as odd:
        odd.sendall(b"EXTERMINATE /predict/iris HTTP/1.1\r\nHost: x\r\n\r\n")
        assert odd.recv(100).startswith(b"HTTP/1.1 400")
    added = scrape(watched).series() - every_kind
    assert {(dict(labels)["endpoint"], dict(labels)["http_response_code"]) for _, labels in added} <= {
        ("unknown", "400")
    }


def listeners(port: int) -> int:
    """How many sockets listen on a port of this machine."""
    # gRPC takes an IPv6 socket for an IPv4 address where it can.
    tables = [Path("/proc/net/tcp"), Path("/proc/net/tcp6")]
    lines = [line.split() for table in tables if table.exists() for line in table.read_text().splitlines()[1:]]
    return sum(fields[1].endswith(f":{port:04X}") and fields[3] == "0A" for fields in lines)


def in_progress_of(url: httpx.URL) -> float:
    with httpx.Client(base_url=url) as other:
        return scrape(other).value("bentoml_service_request_in_progress")


@pytest.mark.integration  # until another worker has started
def test_a_killed_worker_leaves_its_counts_and_comes_back(alone: Watched) -> None:
    url, port = alone.service.client.base_url, alone.service.grpc_port
    wait_until(lambda: listeners(port) == 2 * LISTENERS, "two workers over gRPC")
    for body in bodies_of(IRIS, 40):
        # A connection each, so that both workers have some.
        httpx.post(f"{url}/predict/iris", json=body).raise_for_status()
    before = scrape(alone.service.client)
    pids = set(before.of("bentoml_service_last_request_timestamp_seconds", "pid"))
    assert len(pids) == 2
    with closing(socket.create_connection((url.host, url.port or 80))) as caller:
        caller.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        content = b""
        while (health := re.search(rb'"worker":(\d+)', content)) is None:
            content += (received := caller.recv(4096))
            assert received
        victim = int(health[1])
        caller.sendall(b"POST /predict/iris/batch HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        wait_until(lambda: in_progress_of(url) == 1, "the worker has the request")
        os.kill(victim, signal.SIGKILL)
        assert caller.recv(1) == b""
    # Whether its parent has noticed or not, the next caller is answered by the other worker.
    with httpx.Client(base_url=url) as other:
        after = scrape(other)
        assert after.value("bentoml_service_request_in_progress") == 0
        assert set(after.of("bentoml_service_last_request_timestamp_seconds", "pid")) == pids - {str(victim)}
        for name in ("ml_predictions_total", "ml_batch_rows_sum", "bentoml_service_request_total"):
            assert after.value(name) == before.value(name)
        assert after.of("ml_last_prediction_timestamp_seconds", "model") == before.of(
            "ml_last_prediction_timestamp_seconds", "model"
        )
        assert after.of("ml_model_info", "version") == before.of("ml_model_info", "version")
        # The dead worker's files are folded once. What the parent counts of its end, and the disk, go their own way.
        grown = scrape(other).since(after)
        assert {name for (name, _), value in grown.samples.items() if value} <= {
            "ml_worker_exits_total",
            "ml_worker_starts_total",
            "ml_disk_free_bytes",
        }
    wait_until(lambda: listeners(port) == 2 * LISTENERS, "two workers again")
    request = message("iris", tensor("x", rows_of(IRIS, 1)), raw=True)

    def call(_: int) -> int:
        # A channel of its own each: the kernel spreads them over the workers.
        with grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.use_local_subchannel_pool", 1)]) as channel:
            stub = GRPCInferenceServiceStub(channel)
            return len(stub.ModelInfer(request, timeout=20, wait_for_ready=True).outputs)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(call, range(40))) == [3] * 40
