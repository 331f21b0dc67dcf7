"""The harness with real servers, from the environment of the tests, and tiny models."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from load_tests.benchmark import payloads, processes
from load_tests.benchmark.compare import compare
from load_tests.benchmark.plan import ECHO, EMPTY, FASTAPI_ONNX, GRPC_ECHO, OURS, Line, Plan, Server, Step
from load_tests.benchmark.result import Run
from load_tests.benchmark.runner import Benchmark, deployed_model
from load_tests.errors import LoadTestError
from local_service import PROJECT
from tests.serving import tiny_models
from tests.serving.running import PATIENT

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


def run(deployed: dict[str, Path], *servers: Server) -> Run:
    return Benchmark(SHORT, deployed, str).measure(servers, {server.lock: HERE for server in servers})


@pytest.mark.parametrize("deployed", [{"housing": "nothere"}, {}])
def test_without_a_model_it_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deployed: dict[str, str]
) -> None:
    tiny_models.pin(tmp_path, deployed)
    monkeypatch.setenv("MODELS_DIR", str(tmp_path))
    with pytest.raises(LoadTestError, match="make train"):
        deployed_model()


def test_a_damaged_list_of_deployed_models_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deployed.json").write_text("[]")
    monkeypatch.setenv("MODELS_DIR", str(tmp_path))
    with pytest.raises(LoadTestError, match=r"deployed\.json must be a JSON object"):
        deployed_model()


def test_an_environment_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("no such package ==")
    with (
        pytest.raises(LoadTestError, match=r"uv could not install .*requirements\.txt"),
        processes.environment(tmp_path / "requirements.txt"),
    ):
        pass


@pytest.mark.integration
@pytest.mark.weekly
def test_every_line_of_our_service_a_peer_and_the_floors(deployed: dict[str, Path]) -> None:
    patient = replace(OURS, environment={**OURS.environment, **PATIENT})
    servers = (patient, FASTAPI_ONNX, ECHO, GRPC_ECHO)
    found = run(deployed, *servers)
    assert found.failures == []
    assert found.ready_seconds.keys() == {server.key for server in servers}
    assert {sample.line for sample in found.samples} == {line.key for server in servers for line in server.lines}
    for sample in found.samples:
        assert sample.load.problem == ""
        assert sample.load.p50_ms <= sample.load.p99_ms <= sample.load.max_ms
        # Two cores at most worked for it, and it did not answer for nothing.
        assert 0 < sample.cpu_seconds < 4
        assert 10_000_000 < sample.worker_bytes < sample.memory_bytes
    (direct,) = found.direct
    assert direct > 0


@pytest.mark.integration
@pytest.mark.weekly
def test_two_checkouts_are_compared_by_turns(deployed: dict[str, Path]) -> None:
    assert deployed
    said: list[str] = []
    table = compare([PROJECT, PROJECT], rounds=2, seconds=1, only=("ours", "ours-grpc"), say=said.append)
    assert [line.partition(":")[0] for line in said] == [
        f"{line}, round {number} of 2" for line in ("/predict/housing", "gRPC") for number in (1, 2)
    ]
    assert "| gRPC |" in table


@pytest.mark.integration
def test_an_environment_lasts_as_long_as_the_block() -> None:
    with processes.environment(ECHO.lock) as commands:
        assert (commands / "uvicorn").exists()
    assert not commands.exists()


@pytest.mark.integration
def test_a_server_that_fails_is_told_and_the_next_is_measured(deployed: dict[str, Path]) -> None:
    broken = replace(EMPTY, key="broken", title="Broken", command=("python", "-c", "raise SystemExit('no such thing')"))
    found = run(deployed, broken, ECHO)
    (failure,) = found.failures
    assert failure.subject == "Broken"
    assert "no such thing" in failure.reason
    assert {sample.line for sample in found.samples} == {"echo"}


@pytest.mark.integration
def test_a_wrong_answer_is_no_fast_one(deployed: dict[str, Path]) -> None:
    """The empty handler answers with a feature of the row, not with its prediction."""
    liar = replace(EMPTY, key="liar", title="Liar", lines=(Line("liar", "liar", payloads.ROW, "/predict/housing"),))
    found = run(deployed, liar)
    (failure,) = found.failures
    assert "off by" in failure.reason
    assert found.samples == []
