"""Locust itself, in its own process, against the real service."""

import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest
from open_inference.grpc import protocol as pb

from contract import DATASETS
from local_service import PROJECT, free_port
from tests.load_tests.conftest import Locust, Service

USER_CLASSES = ("SingleRowUser", "BatchUser", "InferJsonUser", "InferBinaryUser", "GrpcUser")
FREE_OF_LOCUST = (
    *("answers", "arrivals", "grpc_protocol", "http_protocols"),
    *("run", "shapes", "summary", "thresholds", "traffic"),
)
LOAD = "load: {users: 12, rate: 120, arrivals: gamma, run_seconds: 2}"


def python(code: str) -> str:
    ended = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    return ended.stdout.strip()


def test_what_tests_import_does_not_patch_the_standard_library() -> None:
    modules = ", ".join(f"load_tests.{module}" for module in FREE_OF_LOCUST)
    assert python(f"import sys, {modules}; print('gevent' in sys.modules)") == "False"


def test_a_dataset_of_the_registry_is_a_task_of_every_user_class() -> None:
    names = python(
        "import dataclasses, contract; from contract.datasets.iris import IRIS;"
        "contract.DATASETS['third'] = dataclasses.replace(IRIS, name='third');"
        "from load_tests.locustfile import USER_CLASSES;"
        "print(*[task.__name__ for user in USER_CLASSES for task in user.tasks])"
    )
    assert names.split() == [f"predict_{name}" for name in (*DATASETS, "third")] * len(USER_CLASSES)


def test_every_user_class_asks_for_every_dataset_and_counts_refusals_as_success(
    service: Service, locust: Locust
) -> None:
    options = ("--bad-share", "0.5", "--users", "12", "--rate", "300", "--run-time", "2s")
    run = locust(service, "--no-thresholds", *options)
    assert run.status == 0, run.output
    assert set(run.lines) == {
        f"{user} {name}{bad}" for user in USER_CLASSES for name in DATASETS for bad in ("", " bad rows")
    }
    for line in run.lines.values():
        assert line["num_requests"]
        assert line["num_failures"] == 0
        assert line["total_content_length"] > 20 * line["num_requests"]
    assert run.summary is not None
    assert run.summary.breaches is None
    assert run.summary.errors == {}
    assert list(run.summary.users) == list(USER_CLASSES)
    # 300 a second for 2 s, but for the start, the chance of the draw, and what else the machine does.
    assert 50 < sum(figures.requests for figures in run.summary.users.values()) < 800
    for name, figures in run.summary.users.items():
        lines = [line for title, line in run.lines.items() if title.split()[0] == name]
        assert figures.requests == sum(line["num_requests"] for line in lines)
        assert 0 < figures.p50_ms <= figures.p95_ms <= figures.p99_ms
    for name in USER_CLASSES:
        assert f"\n{name}" in run.output


def test_no_answer_is_a_failure_and_breaks_the_thresholds(locust: Locust, tmp_path: Path) -> None:
    closed = free_port()
    limits = {name: {"failure_rate": 0} for name in USER_CLASSES}
    (tmp_path / "own.yaml").write_text(f"ramp: {{{LOAD}, limits: {limits}}}")
    nowhere = Service(f"http://127.0.0.1:{closed}", f"127.0.0.1:{closed}")
    run = locust(nowhere, "--thresholds", str(tmp_path / "own.yaml"), "--shape", "ramp", "--run-time", "2s")
    assert run.status == 1
    assert run.summary is not None
    assert (run.summary.shape, run.summary.load) == ("ramp", "120 requests/s of 12 users, gamma arrivals")
    breaches = [f"{name} failure rate 100 % > 0 %" for name in USER_CLASSES]
    assert run.summary.breaches == breaches
    assert "\n  ".join(["Thresholds broken:", *breaches]) in run.output
    assert any("UNAVAILABLE instead of OK" in error for error in run.summary.errors)
    assert any("ConnectionRefusedError" in error for error in run.summary.errors)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--tags", "iris", "--bad-share", "1"), r"this run has a load of its own \(with tags, bad_share\)"),
        (("--processes", "2"), "without --processes"),
    ],
)
def test_what_cannot_start_is_told(service: Service, locust: Locust, arguments: tuple[str, ...], sentence: str) -> None:
    run = locust(service, *arguments)
    assert run.status != 0
    assert run.summary is None
    assert "Traceback" not in run.output
    assert re.search(sentence, run.output), run.output


class MeetingPoint:
    """A slow gRPC server; it answers nobody until as many calls as ``callers`` wait at a time (10 seconds at most)."""

    def __init__(self, callers: int) -> None:
        self.port = free_port()
        self.most = 0
        """The most calls that waited at one time."""
        self._callers, self._waiting = callers, 0
        self._lock, self._met = threading.Lock(), threading.Event()
        self._server = grpc.server(ThreadPoolExecutor(32))
        handler = grpc.unary_unary_rpc_method_handler(
            self._infer, pb.ModelInferRequest.FromString, pb.ModelInferResponse.SerializeToString
        )
        name = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, {"ModelInfer": handler}),))
        self._server.add_insecure_port(f"127.0.0.1:{self.port}")

    def __enter__(self) -> "MeetingPoint":
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(0).wait()

    def _infer(self, request: pb.ModelInferRequest, _: grpc.ServicerContext) -> pb.ModelInferResponse:
        with self._lock:
            self._waiting += 1
            self.most = max(self.most, self._waiting)
            if self._waiting == self._callers:
                self._met.set()
        if not self._met.wait(10):
            self._met.set()
        time.sleep(0.05)  # or the users would take a core
        with self._lock:
            self._waiting -= 1
        rows = request.inputs[0].shape[0]
        output = pb.ModelInferResponse.InferOutputTensor(name="predict", datatype="FP64", shape=[rows, 1])
        return pb.ModelInferResponse(outputs=[output], raw_output_contents=[np.ones(rows).tobytes()])


def test_grpc_users_do_not_wait_for_each_other(service: Service, locust: Locust) -> None:
    """Without gevent in gRPC one call would stop all users."""
    callers = 4
    with MeetingPoint(callers) as server:
        run = locust(
            replace(service, grpc_target=f"127.0.0.1:{server.port}"),
            *("--no-thresholds", "--arrivals", "closed", "--bad-share", "0", "--users", "8", "GrpcUser"),
        )
    assert run.status == 0, run.output
    assert server.most >= callers
