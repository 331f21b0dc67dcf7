"""Random requests against the real service: no 5xx, no hang, and the right answers afterwards."""

from contextlib import closing

import pytest

import load_tests.fuzz
from contract import DATASETS
from load_tests.fuzz import Target, fuzz
from local_service import free_port, running_service
from tests.serving import tiny_models


@pytest.mark.integration
def test_random_requests_do_no_harm(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(load_tests.fuzz, "SAY_EVERY", 1000)
    directory = tmp_path_factory.mktemp("models") / "pinned"
    tiny_models.pin(
        directory, {name: str(tiny_models.store(dataset).tag.version) for name, dataset in DATASETS.items()}
    )
    port = free_port()
    environment = {"MODELS_DIR": str(directory), "GRPC_PORT": str(port), "WORKERS": "2"}
    with running_service(environment=environment) as url, closing(Target(url, f"127.0.0.1:{port}")) as target:
        fuzz(target, 2000, first=1, say=said.append)
    assert said == ["1,000 of 2,000 requests: no fault", "2,000 of 2,000 requests: no fault"]
    assert target.answers["HTTP 200"]
    assert target.answers["HTTP 400"]
    assert target.answers["gRPC OK"]
    assert target.answers["gRPC INVALID_ARGUMENT"]
    assert target.answers["described 200"]
    assert target.answers["described 400"]
