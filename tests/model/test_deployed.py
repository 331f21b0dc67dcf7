"""The pointer to the deployed models, the exports beside it, and the way back."""

import io
import json
import tarfile
from pathlib import Path

import pytest

from model.deployed import DAMAGED, DEPLOYED_FILE, PREVIOUS_FILE, Deployment, DeploymentError, unpack


def export(path: Path, tag: str, *, outside: bool = False) -> Path:
    """As ``bentoml models export`` writes it, in miniature."""
    name, version = tag.split(":")
    path.parent.mkdir(parents=True, exist_ok=True)
    files = {"mlflow_model/MLmodel": "flavours", "model.yaml": f"name: {name}\nversion: {version}\n"}
    with tarfile.open(path, "w:xz") as archive:
        for file, text in {**files, **({"../outside": "x"} if outside else {})}.items():
            entry = tarfile.TarInfo(file)
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    return path


def promote(models: Path, tag: str) -> None:
    """As the pipeline does it."""
    deployment = Deployment(models)
    deployment.keep_former({"iris": tag})
    export(deployment.store / "iris.bentomodel", tag)
    deployment.write({"iris": tag})


def found(models: Path, tag: str, folder: Path) -> str:
    return unpack(Deployment(models).export_path(tag), folder)


def test_without_files_nothing_is_deployed(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path / "models")
    assert deployment.tags() == {}
    assert deployment.previous() == {}
    with pytest.raises(DeploymentError, match="nothing to roll iris back to"):
        deployment.way_back("iris")


def test_the_export_of_the_way_back_is_kept(tmp_path: Path) -> None:
    for tag in ("iris:one", "iris:two"):
        promote(tmp_path, tag)
    assert found(tmp_path, "iris:two", tmp_path / "a") == "iris:two"
    assert found(tmp_path, "iris:one", tmp_path / "b") == "iris:one"
    assert Deployment(tmp_path).roll_back("iris") == "iris:one"
    assert found(tmp_path, "iris:one", tmp_path / "c") == "iris:one"
    with pytest.raises(DeploymentError, match="already"):
        Deployment(tmp_path).roll_back("iris")


def test_after_a_rollback_what_was_left_is_no_way_back(tmp_path: Path) -> None:
    for tag in ("iris:one", "iris:two"):
        promote(tmp_path, tag)
    Deployment(tmp_path).roll_back("iris")
    promote(tmp_path, "iris:three")
    assert Deployment(tmp_path).way_back("iris") == "iris:one"
    assert found(tmp_path, "iris:one", tmp_path / "a") == "iris:one"


def test_the_same_again_changes_no_way_back(tmp_path: Path) -> None:
    for tag in ("iris:one", "iris:two", "iris:two"):
        promote(tmp_path, tag)
    assert Deployment(tmp_path).way_back("iris") == "iris:one"


def test_other_models_stay_as_they_are(tmp_path: Path) -> None:
    promote(tmp_path, "iris:one")
    Deployment(tmp_path).write({"iris": "iris:one", "housing": "housing:a"})
    Deployment(tmp_path).keep_former({"iris": "iris:two"})
    Deployment(tmp_path).write({"iris": "iris:two", "housing": "housing:a"})
    Deployment(tmp_path).roll_back("iris")
    assert Deployment(tmp_path).tags() == {"iris": "iris:one", "housing": "housing:a"}
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".partial")]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"iris": "iris:one"}', '{"iris": {"label": "x"}}'])
def test_a_damaged_way_back_is_named(tmp_path: Path, content: str) -> None:
    promote(tmp_path, "iris:one")
    (tmp_path / PREVIOUS_FILE).write_text(content)
    with pytest.raises(DeploymentError, match=r"previous\.json must be .* Delete it"):
        Deployment(tmp_path).way_back("iris")


@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_a_damaged_pointer_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / DEPLOYED_FILE).write_text(content)
    with pytest.raises(DeploymentError, match=r"deployed\.json must be a JSON object"):
        Deployment(tmp_path).tags()


def test_the_pointer_has_the_bytes_that_the_pipeline_compares(tmp_path: Path) -> None:
    Deployment(tmp_path).write({"iris": "iris:one"})
    assert (tmp_path / DEPLOYED_FILE).read_text() == json.dumps({"iris": "iris:one"}, indent=2) + "\n"


def test_an_export_writes_nothing_outside_of_its_folder(tmp_path: Path) -> None:
    bad = export(tmp_path / "bad.bentomodel", "iris:one", outside=True)
    with pytest.raises(DAMAGED, match="leaves the folder"):
        unpack(bad, tmp_path / "in" / "model")
    assert not (tmp_path / "in" / "outside").exists()
