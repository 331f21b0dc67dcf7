import shutil
from pathlib import Path

import pytest

from contract.errors import PipelineError
from contract.iris import IRIS
from tests.serving import tiny_models
from training.files import write_json
from training.import_models import _whole, read_champions


def test_a_whole_model_in_the_store_is_taken() -> None:
    stored = tiny_models.store(IRIS)
    found = _whole(str(stored.tag))
    assert found is not None
    assert found.tag == stored.tag


def test_a_model_that_is_not_there_is_imported() -> None:
    assert _whole("iris:gone") is None


@pytest.mark.parametrize("left", ["nothing", "model.yaml", "other bits"])
def test_what_an_interrupted_import_left_is_cleared_away(left: str) -> None:
    stored = tiny_models.store(IRIS)
    folder = Path(stored.path)
    if left == "other bits":
        next(folder.rglob("model.onnx")).write_bytes(b"half")
    else:
        shutil.rmtree(folder / "mlflow_model")
    if left == "nothing":
        (folder / "model.yaml").unlink()
    assert _whole(str(stored.tag)) is None
    assert not folder.exists()


def test_a_dataset_without_a_champion_is_named(tmp_path: Path) -> None:
    write_json(tmp_path / "champions.json", {})
    with pytest.raises(PipelineError, match=r"no champion for housing, iris. Run `dvc repro model_evaluation`"):
        read_champions(tmp_path / "champions.json")
