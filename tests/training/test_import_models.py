import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import bentoml
import numpy as np
import pandas as pd
import pytest

from contract.datasets.iris import IRIS
from contract.errors import StartupError
from model import signing
from model.card import TrainingRun
from serving import imported
from serving.models import find, load
from tests.serving import tiny_models
from tests.training.conftest import tiny_splits, tiny_train_params
from tests.training.workspace import train, write_features
from training import tracking
from training.errors import PipelineError
from training.import_models import _is_whole, find_champion, import_models
from training.tracking import RegisteredModel

pytestmark = [  # of MLflow 3.17's own code: its tables, and its input examples
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"),
    pytest.mark.filterwarnings("ignore:Operation with range is deprecated"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType"),
]


@pytest.fixture(scope="module")
def champion(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegisteredModel]:
    """A trained model of iris, in a registry of its own."""
    root = tmp_path_factory.mktemp("workspace")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root}/mlflow.db")
        write_features("iris")
        yield train("iris", tiny_train_params("iris"))


def stored(tag: str) -> bentoml.Model:
    return bentoml.models.get(tag)


def test_the_champion_is_served_with_the_run_that_made_it(champion: RegisteredModel, tmp_path: Path) -> None:
    tags = import_models({"iris": champion}, tmp_path)
    assert tags == {"iris": f"iris:{champion.content_version}"}
    model = load(IRIS, stored(tags["iris"]))
    assert model.version == model.card.content_version
    assert model.run == champion.training_run
    assert model.run.run_id == champion.run_id
    assert model.run.trained_at is not None


def test_with_a_key_in_the_environment_models_are_signed(
    champion: RegisteredModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that the store has already, without a signature or with that of another key; the tag stays the same."""
    (unsigned,) = import_models({"iris": champion}, tmp_path / "unsigned").values()
    for name in ("first", "second"):
        private, public = signing.new_key_pair()
        (tmp_path / f"{name}.key").write_text(private)
        monkeypatch.setenv(signing.PRIVATE_KEY_VARIABLE, str(tmp_path / f"{name}.key"))
        (tag,) = import_models({"iris": champion}, tmp_path / name).values()
        assert tag == unsigned
        keys = signing.PublicKeys((signing.public_key(public),))
        load(IRIS, stored(tag), keys)
        bentoml.models.delete(tag)
        load(IRIS, find(tag, tmp_path / name), keys)  # the export is signed, too
    monkeypatch.setenv(signing.PRIVATE_KEY_VARIABLE, str(tmp_path / "none"))
    with pytest.raises(StartupError, match=r"MODEL_SIGNING_KEY_FILE=.*cannot be read"):
        import_models({"iris": champion}, tmp_path / "third")
    bentoml.models.delete(tag)  # It came from an export, which does not tell the run.


def test_equal_models_have_equal_exports_and_one_tag(champion: RegisteredModel, tmp_path: Path) -> None:
    import_models({"iris": champion}, tmp_path / "first")
    again = train("iris", tiny_train_params("iris"))
    assert again.version != champion.version
    import_models({"iris": again}, tmp_path / "second")
    first, second = (tmp_path / place / "store/iris.bentomodel" for place in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()
    # What is in the store stays as it was.
    assert load(IRIS, stored(f"iris:{again.content_version}")).run == champion.training_run


def test_an_export_is_imported_by_bentoml_alone(champion: RegisteredModel, tmp_path: Path) -> None:
    (tag,) = import_models({"iris": champion}, tmp_path).values()
    export = str(tmp_path / "store/iris.bentomodel")
    home = {"BENTOML_HOME": str(tmp_path / "bentoml")}
    command = [sys.executable, "-m", "bentoml", "models", "import", export]
    told = subprocess.run(command, env={**os.environ, **home}, check=True, capture_output=True, text=True)
    assert tag in told.stdout

    bentoml.models.delete(tag)
    bentoml.models.import_model(export)
    assert load(IRIS, stored(tag)).run == TrainingRun()
    rows = tiny_splits("iris").test.features
    expected = tracking.download(champion, tmp_path / "model")
    assert (expected / "model.onnx").read_bytes() == next(Path(stored(tag).path).rglob("model.onnx")).read_bytes()
    answers = bentoml.mlflow.load_model(tag).predict(pd.DataFrame(rows, columns=list(IRIS.feature_names)))
    np.testing.assert_array_equal(answers, load(IRIS, stored(tag)).artifact.outputs(rows).argmax(axis=1))
    # Another test expects the run in it.
    bentoml.models.delete(tag)


def test_a_registry_that_was_lost_is_filled_anew(champion: RegisteredModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{Path.cwd()}/another.db")
    found = find_champion(IRIS, {"iris": champion.content_version})
    assert tracking.champion("iris") == found
    assert found.content_version == champion.content_version
    # Only the training knew when it was.
    assert found.training_run == TrainingRun(run_id=found.run_id)


def test_a_dataset_without_a_champion_is_named() -> None:
    with pytest.raises(PipelineError, match=r"no champion for iris. Run `dvc repro -f -s model_evaluation`"):
        find_champion(IRIS, {})


def test_a_whole_model_in_the_store_is_taken() -> None:
    assert _is_whole(str(tiny_models.store(IRIS).tag))


def test_a_model_that_a_service_has_imported_is_the_pipelines_from_then_on() -> None:
    """No service removes it any more."""
    stored = tiny_models.store(IRIS)
    imported.mark(Path(stored.path), Path("models"))
    assert _is_whole(str(stored.tag))
    imported.remove_unused("iris", Path("models"), kept=())
    assert Path(stored.path).is_dir()


def test_a_model_that_is_not_there_is_imported() -> None:
    assert not _is_whole("iris:gone")


@pytest.mark.parametrize("left", ["nothing", "model.yaml", "other bits"])
def test_what_an_interrupted_import_left_is_cleared_away(left: str) -> None:
    folder = Path(tiny_models.store(IRIS).path)
    tag = f"iris:{folder.name}"
    if left == "other bits":
        next(folder.rglob("model.onnx")).write_bytes(b"half")
    else:
        shutil.rmtree(folder / "mlflow_model")
    if left == "nothing":
        (folder / "model.yaml").unlink()
    assert not _is_whole(tag)
    assert not folder.exists()
