from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import bentoml
import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor

from contract import DATASETS
from contract.dataset import Dataset
from contract.datasets.housing import HOUSING
from contract.datasets.iris import IRIS
from contract.errors import StartupError
from model.card import CARD_FILE, TrainingRun
from model.deployed import DEPLOYED_FILE
from serving import models
from serving.models import ARTIFACT_FOLDER, deployed_model, find, load
from serving.telemetry.model import ModelMetrics
from tests.serving import tiny_models


@pytest.mark.parametrize("dataset", DATASETS.values(), ids=lambda dataset: dataset.name)
def test_a_stored_model_answers_as_the_estimator_did(dataset: Dataset) -> None:
    stored = tiny_models.store(dataset)
    model = load(dataset, stored)
    rows = tiny_models.table(dataset).features
    assert model.artifact.outputs(rows).shape == (len(rows), len(dataset.target.classes) or 1)
    assert np.array_equal(model.artifact.outputs(rows), tiny_models.expected(dataset, rows))
    assert model.version == stored.tag.version


@pytest.mark.parametrize("dataset", DATASETS.values(), ids=lambda dataset: dataset.name)
def test_a_row_has_the_same_bits_in_every_batch(dataset: Dataset) -> None:
    model = load(dataset, tiny_models.store(dataset))
    rows = tiny_models.table(dataset).features[:150]
    for size in (*range(1, 18), 31, 64, 150):
        parts = [model.artifact.outputs(rows[start : start + size]) for start in range(0, len(rows), size)]
        np.testing.assert_array_equal(np.concatenate(parts), model.artifact.outputs(rows))


def test_the_run_that_made_a_model_is_told_if_it_is_known() -> None:
    assert load(IRIS, tiny_models.store(IRIS)).run == tiny_models.RUN
    unknown = load(IRIS, tiny_models.store(IRIS, run=TrainingRun()))
    assert unknown.run == TrainingRun()
    ModelMetrics(IRIS).serve(unknown)  # it has no training time to show


def test_trees_need_no_padding() -> None:
    stored = tiny_models.store(HOUSING, estimator=HistGradientBoostingRegressor(max_iter=5))
    assert load(HOUSING, stored).artifact.row_multiple == 1


def test_changed_bits_are_refused() -> None:
    onnx, _ = tiny_models.artifact(HOUSING)
    with pytest.raises(StartupError, match=r"damaged: The checksum of .*model.onnx .* `bentoml models delete housing:"):
        load(HOUSING, tiny_models.store(HOUSING, onnx=onnx + b"\0"))


def test_another_contract_is_refused_with_the_way_out() -> None:
    _, card = tiny_models.artifact(IRIS)
    other = card.model_copy(update={"contract_version": "0123456789ab"})
    with pytest.raises(StartupError, match=r"trained under contract 0123456789ab.*Run `make train`"):
        load(IRIS, tiny_models.store(IRIS, card=other))


def test_golden_rows_that_differ_are_refused() -> None:
    _, card = tiny_models.artifact(HOUSING)
    golden = [one.model_copy(update={"output": [one.output[0] + 0.01]}) for one in card.golden]
    with pytest.raises(StartupError, match=r"golden rows are off by 0.01"):
        load(HOUSING, tiny_models.store(HOUSING, card=card.model_copy(update={"golden": golden})))


@pytest.mark.parametrize("content", [None, "", "{}", '{"name": 3}'])
def test_a_missing_or_broken_card_is_refused(content: str | None) -> None:
    stored = tiny_models.store(IRIS)
    card = Path(stored.path_of(ARTIFACT_FOLDER)) / CARD_FILE
    card.unlink()
    if content is not None:
        card.write_text(content)
    with pytest.raises(StartupError, match=r"is damaged"):
        load(IRIS, stored)


def test_what_nobody_deployed_is_not_served(tmp_path: Path) -> None:
    stored = tiny_models.store(IRIS)
    with pytest.raises(StartupError, match=r"iris is deployed: .*deployed.json does not exist.*`make train`"):
        deployed_model("iris", tmp_path)
    tiny_models.pin(tmp_path, {"housing": str(stored.tag.version)})
    with pytest.raises(StartupError, match=r"deployed.json does not name it"):
        deployed_model("iris", tmp_path)


def test_the_deployed_version_is_served_and_not_the_latest(tmp_path: Path) -> None:
    first = tiny_models.store(IRIS)
    tiny_models.store(IRIS)
    tiny_models.pin(tmp_path, {"iris": str(first.tag.version)})
    assert deployed_model("iris", tmp_path).tag == first.tag


def test_a_bento_serves_what_it_pins_unless_it_is_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned, deployed = tiny_models.store(IRIS), tiny_models.store(IRIS)
    (tmp_path / "bento.yaml").write_text(f"models: []\nservices:\n- name: bundle\n  models:\n  - tag: {pinned.tag}\n")
    monkeypatch.setattr(models, "PROJECT", tmp_path / "src")
    assert deployed_model("iris", tmp_path / "models").tag == pinned.tag
    tiny_models.pin(tmp_path / "models", {"iris": str(deployed.tag.version)})
    assert deployed_model("iris", tmp_path / "models").tag == deployed.tag


def exported(directory: Path) -> bentoml.Model:
    """A stored model of Iris, and its exported file in a folder."""
    stored = tiny_models.store(IRIS)
    (directory / "store").mkdir()
    bentoml.models.export_model(stored.tag, str(directory / "store" / "iris.bentomodel"))
    return stored


def test_a_model_that_the_store_lacks_is_imported_from_the_exported_file(tmp_path: Path) -> None:
    stored = exported(tmp_path)
    tiny_models.pin(tmp_path, {"iris": str(stored.tag.version)})
    bentoml.models.delete(stored.tag)
    reference = deployed_model("iris", tmp_path)
    assert reference.tag == stored.tag
    assert load(IRIS, reference.resolve()).version == stored.tag.version


@pytest.mark.parametrize("kept", [True, False], ids=["in the store", "exported only"])
def test_another_model_than_the_deployed_one_is_never_served(tmp_path: Path, kept: bool) -> None:
    stored = exported(tmp_path)
    if not kept:
        bentoml.models.delete(stored.tag)
    tiny_models.pin(tmp_path, {"iris": "gone"})
    with pytest.raises(StartupError, match=rf"iris:gone.*iris\.bentomodel.*{stored.tag}.*import_models"):
        deployed_model("iris", tmp_path)


@pytest.mark.parametrize("content", [b"", b"xx"])
def test_a_damaged_export_stops_with_a_sentence(tmp_path: Path, content: bytes) -> None:
    bentoml.models.delete(exported(tmp_path).tag)
    (tmp_path / "store" / "iris.bentomodel").write_bytes(content)
    tiny_models.pin(tmp_path, {"iris": "gone"})
    with pytest.raises(StartupError, match=r"iris\.bentomodel cannot be imported .*import_models"):
        deployed_model("iris", tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_a_damaged_list_of_deployed_models_stops_with_a_sentence(tmp_path: Path, content: str) -> None:
    (tmp_path / DEPLOYED_FILE).write_text(content)
    with pytest.raises(StartupError, match=r"deployed\.json must be a JSON object"):
        deployed_model("iris", tmp_path)


def test_a_model_that_is_nowhere_stops_with_the_way_out(tmp_path: Path) -> None:
    tiny_models.pin(tmp_path, {"iris": "gone"})
    with pytest.raises(StartupError, match=r"iris:gone is not in the BentoML store.*Run `make train`"):
        deployed_model("iris", tmp_path)


def test_several_may_import_a_model_at_once(tmp_path: Path) -> None:
    """As the workers of two servers do that share a store."""
    tag = str(exported(tmp_path).tag)
    bentoml.models.delete(tag)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: load(IRIS, find(tag, tmp_path)).version, range(8)))
    assert {f"iris:{version}" for version in found} == {tag}
    home = Path(bentoml.models.get(tag).path).parents[2]
    assert not list(home.glob(".import-*"))


def test_what_an_interrupted_import_left_is_imported_anew(tmp_path: Path) -> None:
    stored = exported(tmp_path)
    folder = Path(stored.path)
    (folder / "model.yaml").unlink()
    assert load(IRIS, find(str(stored.tag), tmp_path)).version == stored.tag.version
    assert (folder / "model.yaml").exists()
