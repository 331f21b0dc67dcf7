"""The parts of the demo; ``tests/integration/test_demo.py`` runs it."""

import asyncio
import math
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import grpc
import httpx
import numpy as np
import pandas as pd
import pytest
import yaml
from open_inference.grpc.service import GRPCInferenceServiceStub

from contract import DATASETS
from contract.dataset import Dataset
from contract.datasets.housing import HOUSING
from contract.table import check_matrix
from load_tests.demo.answers import from_json, from_response
from load_tests.demo.client import Districts
from load_tests.demo.project import ProjectCopy, copy
from load_tests.demo.sender import PROTOCOLS, Sender
from load_tests.errors import LoadTestError
from load_tests.grpc_protocol import infer_request
from load_tests.http_protocols import Batch, InferJson, SingleRow
from load_tests.traffic import Traffic
from local_service import free_port
from tests.load_tests.conftest import Service

INCOME, ROOMS, LATITUDE, LONGITUDE = map(HOUSING.feature_names.index, ("MedInc", "AveRooms", "Latitude", "Longitude"))


@pytest.mark.parametrize("dataset", DATASETS.values(), ids=lambda dataset: dataset.name)
def test_an_answer_is_read_from_every_protocol(service: Service, features: Path, dataset: Dataset) -> None:
    rows = Traffic.read(dataset, features).rows(3)
    with httpx.Client(base_url=service.url) as client, grpc.insecure_channel(service.grpc_target) as channel:
        found = [
            from_json(client.post(asked.path, content=asked.body, headers=dict(asked.headers)).json())
            for asked in (protocol.request(dataset, rows) for protocol in (SingleRow(), Batch(), InferJson()))
        ]
        found.append(from_response(GRPCInferenceServiceStub(channel).ModelInfer(infer_request(dataset, rows))))
        assert {one.version for one in found} == {client.get("/health").json()["models"][dataset.name]}
    single, *others = found
    assert single.values == others[0].values[:1]
    assert {one.values for one in others} == {others[0].values}
    assert len(others[0].values) == 3
    assert len({one.prediction_id for one in found}) == 4


@pytest.fixture
def halves(tmp_path: Path) -> tuple[Districts, Districts]:
    table = pd.read_csv("data/raw/housing.csv")
    (tmp_path / "housing").mkdir()
    table.to_parquet(tmp_path / "housing" / "train.parquet")
    return Districts.halves(tmp_path)


def test_the_new_client_has_inland_districts_in_other_units_each_in_one_half(halves: tuple[Districts, ...]) -> None:
    inland = pd.read_csv("data/raw/housing.csv").query("Longitude > -121 and Latitude > 35")
    rows = np.concatenate([half.every[0] for half in halves])
    assert len(rows) == len(inland)
    assert abs(len(halves[0]) - len(halves[1])) <= 1
    assert rows[:, LONGITUDE].min() > -121
    assert rows[:, LATITUDE].min() > 35
    assert np.median(rows[:, ROOMS]) == pytest.approx(3 * inland["AveRooms"].median())
    assert np.median(rows[:, INCOME]) == pytest.approx(0.56 * inland["MedInc"].median())
    assert check_matrix(HOUSING, rows) == []


def test_its_districts_come_one_after_the_other_and_again(halves: tuple[Districts, ...]) -> None:
    half = halves[0]
    first, truth = half.labelled(len(half) - 2)
    second, _ = half.labelled(5)
    assert half.sent == len(half) + 3
    assert (np.concatenate([first, second[:2]]) == half.every[0]).all()
    assert (second[2:] == first[:3]).all()
    assert (truth == half.every[1][: len(truth)]).all()


def send(service: Service, features: Path, enough: Callable[[Sender], bool]) -> Sender:
    """Send the traffic of both models, without true values: this service has no ledger."""

    async def run() -> Sender:
        traffic = {name: Traffic.read(dataset, features) for name, dataset in DATASETS.items()}
        async with (
            httpx.AsyncClient(base_url=service.url) as client,
            grpc.aio.insecure_channel(service.grpc_target) as channel,
        ):
            sender = Sender(client, channel, traffic)
            sender.act, sender.rate, sender.truth_share = "an act", 200.0, 0.0
            flowing = asyncio.create_task(sender.run())
            async with asyncio.timeout(60):
                while not enough(sender):
                    await asyncio.sleep(0.02)
            sender.stop()
            await flowing
            return sender

    return asyncio.run(run())


def test_traffic_is_sent_over_every_protocol_and_judged(service: Service, features: Path) -> None:
    sender = send(service, features, lambda sender: {*PROTOCOLS, "refused"} <= sender.outcome.answers.keys())
    assert sender.outcome.failed == []
    assert sum(len(one.errors) for one in sender.answered) == sender.outcome.rows
    assert {one.model for one in sender.answered} == DATASETS.keys()
    (version,) = {one.version for one in sender.answered if one.model == "housing"}
    assert sender.rmse("an act") == sender.rmse("an act", version) > 0
    assert math.isnan(sender.rmse("another act"))
    assert math.isnan(sender.rmse("an act", "another version"))


def test_requests_without_an_answer_are_counted_as_failed(features: Path) -> None:
    nobody = Service(f"http://127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}")
    sender = send(nobody, features, lambda sender: len(sender.outcome.failed) >= 20)
    assert not sender.answered
    assert not sender.outcome.answers


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """What a project has that was trained, as far as the demo looks at it."""
    project = tmp_path / "project"
    files = {
        ".gitignore": "/models/\n/mlruns/\n*.db\n/data/\nsecret\n",
        "params.yaml": "deployment_validation: {p95_budget_ms: 50, requests: 500}\n",
        "dvc.lock": "lock",
        "secret": "password",
        "models/deployed.json": "{}",
        "mlruns/1/model": "weights",
        "data/features/housing/train.parquet": "rows",
    }
    for name, text in files.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(text)
    subprocess.run(["git", "init", "--quiet"], cwd=project, check=True)
    with closing(sqlite3.connect(project / "mlflow.db")) as registry, registry:
        registry.execute("CREATE TABLE versions (number)")
    return project


def test_the_copy_has_what_retraining_needs_and_changes_nothing_of_the_project(trained: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    copy(trained, target)
    assert not (target / "secret").exists()
    assert yaml.safe_load((target / "params.yaml").read_text())["deployment_validation"]["requests"] == 500
    assert (target / "mlruns/1/model").samefile(trained / "mlruns/1/model")
    # What a retraining writes.
    for name in ("dvc.lock", "models/deployed.json", "params.yaml", "data/features/housing/train.parquet"):
        (target / name).write_text("other")
    with closing(sqlite3.connect(target / "mlflow.db")) as registry, registry:
        registry.execute("INSERT INTO versions VALUES (1)")
    assert {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()} == before


def test_its_commands_work_in_the_copy_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://registry.example")
    monkeypatch.setenv("DATABASE_URL", "postgresql://ledger.example/ledger")
    variables = ProjectCopy(tmp_path).environment
    assert not {"MLFLOW_TRACKING_URI", "DATABASE_URL", "MODELS_DIR"} & variables.keys()
    assert {variables["BENTOML_HOME"], variables["STATE_DIR"]} == {str(tmp_path / "bentoml"), str(tmp_path / "state")}


@pytest.mark.parametrize("name", ["models/deployed.json", "mlflow.db"])
def test_without_a_trained_project_it_says_what_to_do(trained: Path, tmp_path: Path, name: str) -> None:
    (trained / name).unlink()
    with pytest.raises(LoadTestError, match=f"{name}: missing.*make train"):
        copy(trained, tmp_path / "copy")
