"""The command line and the names of models, with a real registry."""

import signal
from pathlib import Path

import pytest
from mlflow import MlflowClient

from batch_predict import run
from batch_predict.__main__ import main
from contract.datasets.housing import HOUSING
from tests.mlflow_store import empty_store
from training import tracking
from training.errors import PipelineError

pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
    pytest.mark.filterwarnings("ignore:Operation with range is deprecated"),
]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a registry with two versions of housing: 1 is the champion, 2 has the alias next."""
    folder = tmp_path_factory.mktemp("registry")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", empty_store(folder))
        client = MlflowClient()
        client.create_registered_model("housing")
        for _ in range(2):
            client.create_model_version("housing", folder.as_uri())
        client.set_model_version_tag("housing", "2", tracking.CONTENT_VERSION, "sha-1f0c2a9b3d4e")
        client.set_registered_model_alias("housing", tracking.CHAMPION, "1")
        client.set_registered_model_alias("housing", "next", "2")
    return f"sqlite:///{folder}/mlflow.db"


@pytest.fixture(autouse=True)
def _here(registry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry)


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("housing", "1"),
        ("housing@champion", "1"),
        ("models:/housing@champion", "1"),
        ("housing@next", "2"),
        ("housing@2", "2"),
        ("housing:2", "2"),
        ("models:/housing/2", "2"),
        ("housing:sha-1f0c2a9b3d4e", "2"),
    ],
)
def test_a_model_has_many_names(name: str, version: str) -> None:
    dataset, model = run.find_model(name)
    assert (dataset, model.version) == (HOUSING, version)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("boats@champion", r"boats@champion is not a model. Write \w+@champion"),
        ("", "is not a model"),
        ("housing@best", "no version with the alias best"),
        ("iris@champion", "iris has no version with the alias champion.*make train"),
        ("housing@7", "no version 7 of housing"),
        ("housing:sha-000000000000", "no version of housing that is served as sha-000000000000"),
    ],
)
def test_an_unknown_model_is_refused(name: str, sentence: str) -> None:
    with pytest.raises(PipelineError, match=sentence):
        run.find_model(name)


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("boats@champion", "boats@champion is not a model"),
        ("iris@champion", "iris has no version with the alias champion"),
        ("housing@champion", "in.csv does not exist"),
    ],
)
def test_the_command_says_what_to_do(caplog: pytest.LogCaptureFixture, model: str, sentence: str) -> None:
    former = signal.getsignal(signal.SIGTERM)
    try:
        assert main(["in.csv", "out.csv", "--model", model]) == 1
    finally:
        signal.signal(signal.SIGTERM, former)
    assert sentence in caplog.text


@pytest.mark.parametrize("option", [["--part-rows", "0"], ["--processes", "-1"], ["--format", "xml"], []])
def test_the_command_refuses_wrong_options(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["in.csv", "out.csv", *(["--model", "iris"] if option else []), *option])
    assert (option[0] if option else "--model") in capsys.readouterr().err
