"""Models that a service imports into the store are removed again; those of others, and those in use, never are."""

import gc
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import bentoml
import pytest

from contract.datasets.iris import IRIS
from contract.errors import StartupError
from local_service import PROJECT
from model.deployed import IMPORTED_MARK
from serving import imported
from serving.models import find, find_and_load, load
from tests.serving import tiny_models

HOLDER = """
import sys
from pathlib import Path
from serving import imported
held = imported.hold(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


class Home(NamedTuple):
    """A store of its own, and a ``MODELS_DIR`` with an export for each of some models."""

    path: Path
    directory: Path
    tags: list[str]

    def folder(self, tag: str) -> Path:
        name, _, version = tag.partition(":")
        return self.path / "models" / name / version

    def imported(self, tag: str) -> Path:
        """Import a model; its folder."""
        export = self.directory / "store" / "iris.bentomodel"
        export.unlink(missing_ok=True)
        export.symlink_to(self.directory / f"{tag.partition(':')[2]}.bentomodel")
        assert str(find(tag, self.directory).tag) == tag
        return self.folder(tag)

    def remove_unused(self, *kept: str, directory: Path | None = None) -> None:
        imported.remove_unused("iris", directory or self.directory, kept)

    def stored(self) -> set[str]:
        return {f"iris:{path.parent.name}" for path in (self.path / "models" / "iris").glob("*/model.yaml")}

    def left_over(self) -> list[Path]:
        return [path for path in self.path.iterdir() if path.name.startswith((".import-", ".removed-"))]


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The exports of three models, which the store has no more."""
    folder, made = tmp_path_factory.mktemp("exports"), {}
    for _ in range(3):
        stored = tiny_models.store(IRIS)
        made[str(stored.tag)] = folder / f"{stored.tag.version}.bentomodel"
        bentoml.models.export_model(stored.tag, str(made[str(stored.tag)]))
        bentoml.models.delete(stored.tag)
    return made


@pytest.fixture
def home(exports: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """BentoML's own store stays that of the tests, as an image has one of its own, too."""
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "home"))
    (tmp_path / "models" / "store").mkdir(parents=True)
    for path in exports.values():
        shutil.copy(path, tmp_path / "models")
    return Home(tmp_path / "home", tmp_path / "models", [*exports])


@pytest.fixture
def holder(home: Home) -> Iterator["subprocess.Popen[str]"]:
    """Another process that uses the first model."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, home.imported(home.tags[0])],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_what_nobody_needs_is_removed_and_told(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    former, previous, deployed = home.tags
    for tag in home.tags:
        home.imported(tag)
    with caplog.at_level(logging.INFO, "serving.imported"):
        home.remove_unused(previous, deployed)
    assert home.stored() == {previous, deployed}
    assert home.left_over() == []
    told = [(one.getMessage(), vars(one)["tag"]) for one in caplog.records if "removed" in one.getMessage()]
    assert told == [("imported model removed from the BentoML store", former)]
    # It can be imported again.
    home.imported(former)
    assert f"iris:{load(IRIS, find(former, home.directory)).version}" == former


def test_models_of_others_stay(home: Home) -> None:
    own, copied, other = home.tags
    folder = home.imported(own)
    # As `bentoml models export` and `bentoml models import` would copy it, with the mark.
    shutil.copytree(folder, folder.with_name("copy"))
    # What the pipeline or the user has put there has no mark.
    (home.imported(copied) / IMPORTED_MARK).unlink()
    home.imported(other)
    home.remove_unused(directory=home.directory.parent)
    assert home.stored() == {own, copied, other, "iris:copy"}
    home.remove_unused()
    assert home.stored() == {copied, "iris:copy"}


def test_a_model_that_is_in_use_stays(home: Home) -> None:
    tag = home.tags[0]
    home.imported(tag)
    model = find_and_load(IRIS, tag, home.directory)
    home.remove_unused()
    assert home.stored() == {tag}
    del model
    gc.collect()
    home.remove_unused()
    assert home.stored() == set()


def test_a_model_that_another_process_uses_stays_until_that_ends(home: Home, holder: "subprocess.Popen[str]") -> None:
    home.remove_unused()
    assert home.stored() == {home.tags[0]}
    holder.kill()
    holder.wait()
    home.remove_unused()
    assert home.stored() == set()


def test_a_model_that_cannot_be_loaded_is_not_held(home: Home) -> None:
    folder = home.imported(home.tags[0])
    (folder / "mlflow_model" / "extra_files" / "card.json").write_text("{}")
    with pytest.raises(StartupError, match="damaged"):
        find_and_load(IRIS, home.tags[0], home.directory)
    home.remove_unused()
    assert home.stored() == set()


def test_a_model_that_was_removed_before_it_is_loaded_is_imported_anew(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    tag = home.tags[0]
    found: list[bentoml.Model] = []
    home.imported(tag)

    def find_late(tag: str, directory: Path) -> bentoml.Model:
        model = find(tag, directory)
        if not found:
            home.remove_unused()
        found.append(model)
        return model

    monkeypatch.setattr("serving.models.find", find_late)
    assert f"iris:{find_and_load(IRIS, tag, home.directory).version}" == tag
    assert len(found) == 2
    with pytest.raises(imported.ModelRemoved, match="was removed while it was to be loaded"):
        imported.hold(home.folder("iris:gone"))


def test_several_may_import_load_and_remove_at_once(home: Home) -> None:
    """As the workers of several servers do that share a store and change what is deployed at the same time."""
    tag = home.tags[0]
    home.imported(tag)

    def act(number: int) -> str:
        if number % 2:
            home.remove_unused()
            return tag
        return f"iris:{find_and_load(IRIS, tag, home.directory).version}"

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(act, range(60))) == {tag}
    gc.collect()
    home.remove_unused()
    assert home.stored() == set()
    assert home.left_over() == []


def test_what_killed_processes_left_is_deleted(home: Home) -> None:
    home.imported(home.tags[0])
    for name in (".removed-1", ".import-old", ".import-new"):
        (home.path / name).mkdir()
        (home.path / name / "model").write_text("half")
    os.utime(home.path / ".import-old", (0, 0))
    home.remove_unused(home.tags[0])
    # The other may be under way.
    assert [path.name for path in home.left_over()] == [".import-new"]


def test_what_cannot_be_removed_is_told(
    home: Home, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    home.imported(home.tags[0])

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", refuse)
    home.remove_unused()
    (record,) = (one for one in caplog.records if "cannot be removed" in one.getMessage())
    assert "Permission denied" in vars(record)["reason"]
    assert home.stored() == {home.tags[0]}
