"""What a busy service does with calls that would wait, or do take, too long: over HTTP, over gRPC and in its log."""

import json
import socket
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from contract.datasets.housing import HOUSING
from contract.datasets.iris import IRIS
from tests.serving.protocol.wire import message, refusal, rows_of, tensor
from tests.serving.running import SLOW, Running, running
from tests.serving.series import scrape

GIVEN_UP = "There was no prediction within 0.5 seconds."


@pytest.fixture(scope="module")
def overloaded(slow_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A slow service that refuses calls that would wait longer than a millisecond, and logs everything."""
    log = tmp_path_factory.mktemp("overloaded") / "service.log"
    settings = {**SLOW, "MAX_LATENCY_MS": "1", "SLOW_REQUEST_MS": "1", "LOG_LEVEL": "DEBUG"}
    with running(slow_models, log, **settings) as service:
        yield service


@pytest.fixture(scope="module")
def impatient(slow_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A slow service that refuses no call, and gives up after half a second."""
    log = tmp_path_factory.mktemp("impatient") / "service.log"
    with running(slow_models, log, **SLOW, MAX_LATENCY_MS="600000", TIMEOUT_SECONDS="0.5") as service:
        yield service


def post(client: httpx.Client, count: int) -> httpx.Response:
    return client.post("/predict/housing/batch", json={"rows": [HOUSING.example] * count})


def call(service: Running, count: int) -> Any:
    """A call over gRPC that has begun."""
    return service.stub.ModelInfer.future(message("housing", tensor("x", rows_of(HOUSING, count)), raw=True))


def at_once(client: httpx.Client) -> list[httpx.Response]:
    """The answers to eight batches that are sent at the same time."""
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda _: post(client, 200), range(8)))


def test_what_would_wait_too_long_is_refused_at_once(overloaded: Running) -> None:
    answers = at_once(overloaded.client)
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused
    assert {answer.status_code for answer in answers} == {200, 429}
    for answer in refused:
        assert int(answer.headers["retry-after"]) >= 1
        assert "housing is overloaded" in answer.json()["error"]
    assert post(overloaded.client, 1).status_code == 200


def test_what_would_wait_too_long_is_refused_over_grpc(overloaded: Running) -> None:
    calls = [call(overloaded, 200) for _ in range(6)]
    refused = [one for one in calls if one.exception() is not None]
    assert 0 < len(refused) < len(calls)
    for one in refused:
        assert one.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "housing is overloaded" in one.details()
        assert int(dict(one.trailing_metadata())["retry-after"]) >= 1
    assert call(overloaded, 1).result().outputs


def test_callers_that_share_a_channel_are_answered_or_told_why_not(overloaded: Running) -> None:
    # More calls than one connection may have at a time: the client holds back the others, so none has to be dropped.
    request = message("iris", tensor("x", rows_of(IRIS, 1)))
    calls = [overloaded.stub.ModelInfer.future(request) for _ in range(1_000)]
    codes = Counter(one.code() for one in calls)
    assert codes[grpc.StatusCode.OK]
    assert set(codes) <= {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}


def test_refused_and_slow_requests_are_counted_and_logged(overloaded: Running) -> None:
    client = overloaded.client
    before = scrape(client)
    answers = at_once(client)
    shed = [answer.headers["x-request-id"] for answer in answers if answer.status_code == 429]
    slow = [answer.headers["x-request-id"] for answer in answers if answer.status_code == 200]
    assert shed
    assert slow
    quick = client.get("/models/info").headers["x-request-id"]
    counted = scrape(client).since(before)
    assert counted.value("ml_shed_requests_total", model="housing") == len(shed)
    events = {
        event["request_id"]: event
        for event in map(json.loads, overloaded.log.read_text().splitlines())
        if event["logger"] == "serving.telemetry.request_log"
    }
    assert {events[identifier]["message"] for identifier in shed} == {"request shed"}
    assert {events[identifier]["message"] for identifier in slow} == {"request slow"}
    assert {events[identifier]["level"] for identifier in shed + slow} == {"WARNING"}
    # At DEBUG a request without a fault is logged too.
    assert events[quick]["message"] in {"request answered", "request slow"}


def test_what_takes_too_long_is_given_up(impatient: Running) -> None:
    answer = post(impatient.client, 5_000)
    assert (answer.status_code, answer.json()["error"]) == (504, GIVEN_UP)
    assert post(impatient.client, 1).status_code == 200


def test_what_takes_too_long_is_given_up_over_grpc(impatient: Running) -> None:
    assert refusal(call(impatient, 5_000).result) == (grpc.StatusCode.DEADLINE_EXCEEDED, GIVEN_UP)
    assert call(impatient, 1).result().outputs


def test_a_body_that_does_not_arrive_is_given_up(impatient: Running) -> None:
    address = impatient.client.base_url
    with socket.create_connection((address.host, address.port or 80), timeout=20) as stalled:
        stalled.sendall(b"POST /predict/iris HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        assert b" 504 " in stalled.recv(4096)
