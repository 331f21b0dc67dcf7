"""The harness with real servers, from the environment of the tests, and tiny models."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from contract import DATASETS
from load_tests.benchmark import deployment, measure, payloads
from load_tests.benchmark.errors import BenchmarkError
from load_tests.benchmark.plan import Plan, Step
from load_tests.benchmark.results import Failure, Sample
from load_tests.benchmark.servers import ECHO, EMPTY, FASTAPI_ONNX, GRPC_ECHO, OURS, Line, Server
from tests.serving import tiny_models

HERE = Path(sys.executable).parent
SHORT = Plan(
    rounds=1,
    side_rounds=1,
    main=Step(64, 1, 1),
    connections=(64,),
    rows=(100,),
    rows_connections=4,
    seconds=1,
    warm_up_seconds=1,
    direct_seconds=0.2,
    stalls=(),
    stall_seconds=0,
)


class Silent:
    """Is told, and says nothing."""

    def doing(self, what: str) -> None:
        pass

    def measured(self, line: Line, sample: Sample) -> None:
        pass

    def failed(self, failure: Failure) -> None:
        pass


@pytest.fixture
def deployed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> deployment.Deployment:
    """Tiny models in the store of the tests, deployed."""
    versions = {name: str(tiny_models.store(dataset).tag.version) for name, dataset in DATASETS.items()}
    tiny_models.pin(tmp_path, versions)
    monkeypatch.setenv("MODELS_DIR", str(tmp_path))
    return deployment.find()


def run(deployed: deployment.Deployment, *servers: Server) -> measure.Run:
    benchmark = measure.Benchmark(deployed, SHORT, Silent())
    benchmark.measure(servers, {server.environment_name: HERE for server in servers})
    return benchmark.run


def test_without_a_model_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_models.pin(tmp_path, {"housing": "nothere"})
    monkeypatch.setenv("MODELS_DIR", str(tmp_path))
    with pytest.raises(BenchmarkError, match="make train"):
        deployment.find()


@pytest.mark.integration
def test_every_line_of_our_service_a_peer_and_the_floors(deployed: deployment.Deployment) -> None:
    servers = (OURS, FASTAPI_ONNX, ECHO, GRPC_ECHO)
    found = run(deployed, *servers)
    assert found.failures == []
    assert {start.server for start in found.starts} == {server.key for server in servers}
    assert {sample.line for sample in found.samples} == {line.key for server in servers for line in server.lines}
    for sample in found.samples:
        assert sample.load.problem == ""
        assert sample.load.p50_ms <= sample.load.p99_ms <= sample.load.max_ms
        # Two cores at most worked for it, and it did not answer for nothing.
        assert 0 < sample.cpu_seconds < 4
        assert 10_000_000 < sample.worker_bytes < sample.memory_bytes
    (direct,) = found.direct
    assert direct.rows_per_second > 0


@pytest.mark.integration
def test_a_server_that_fails_is_told_and_the_next_is_measured(deployed: deployment.Deployment) -> None:
    broken = replace(EMPTY, key="broken", title="Broken", command=("python", "-c", "raise SystemExit('no such thing')"))
    found = run(deployed, broken, ECHO)
    (failure,) = found.failures
    assert failure.subject == "Broken"
    assert "no such thing" in failure.reason
    assert {sample.line for sample in found.samples} == {"echo"}


@pytest.mark.integration
def test_a_wrong_answer_is_no_fast_one(deployed: deployment.Deployment) -> None:
    """The empty handler answers with a feature of the row, not with its prediction."""
    liar = replace(EMPTY, key="liar", title="Liar", lines=(Line("liar", "liar", payloads.ROW, "/predict/housing"),))
    found = run(deployed, liar)
    (failure,) = found.failures
    assert "off by" in failure.reason
    assert found.samples == []
