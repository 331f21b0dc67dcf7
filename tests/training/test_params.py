import shutil
from pathlib import Path

import pytest
import yaml
from dvc.utils.hydra import apply_overrides  # type: ignore[import-untyped]  # it has no types

from contract import DATASETS
from local_service import PROJECT
from training import params
from training.errors import PipelineError

SHIPPED = PROJECT / "params.yaml"


def changed(tmp_path: Path, *keys: str, to: object) -> Path:
    content = yaml.safe_load(SHIPPED.read_text())
    section = content
    for key in keys[:-1]:
        section = section[key]
    section[keys[-1]] = to
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_an_experiment_changes_its_line_alone(tmp_path: Path) -> None:
    """``dvc exp run -S`` writes the whole file; comments, blank lines and style survive."""
    path = tmp_path / "params.yaml"
    shutil.copyfile(SHIPPED, path)

    apply_overrides(path, ["train.housing.candidates.hist_gradient_boosting.parameters.max_iter=301"])

    before, after = (file.read_text(encoding="utf-8").splitlines() for file in (SHIPPED, path))
    assert len(after) == len(before)
    assert [new for old, new in zip(before, after, strict=True) if old != new] == [
        "        parameters: {max_iter: 301, early_stopping: false}"
    ]


def test_shipped_parameters_cover_every_dataset() -> None:
    loaded = params.load(SHIPPED)
    for name in DATASETS:
        assert loaded.table(name).minimum_rows > 0
        assert len(loaded.training(name).candidates) >= 3


def test_parameters_are_frozen() -> None:
    loaded = params.load(SHIPPED)
    with pytest.raises(ValueError, match="frozen"):
        loaded.feature_engineering.test_size = 0.5  # type: ignore[misc]  # that it cannot be set is the point


@pytest.mark.parametrize(
    ("keys", "value", "named"),
    [
        (("feature_engineering", "tset_size"), 0.2, "feature_engineering.tset_size"),
        (("feature_engineering", "test_size"), 1.5, "feature_engineering.test_size"),
        (("feature_engineering", "test_size"), "0.2", "feature_engineering.test_size"),
        (("train", "housing", "tolerance"), "1e-9", "train.housing.tolerance"),
        (("train", "housing", "folds"), True, "train.housing.folds"),
        (("train", "iris", "candidates"), {}, "train.iris.candidates"),
        (("train", "housing", "features", "ratios"), [["MedInc"]], "train.housing.features.ratios.0"),
        (("surprise",), 1, "surprise"),
    ],
)
def test_wrong_key_is_named(tmp_path: Path, keys: tuple[str, ...], value: object, named: str) -> None:
    with pytest.raises(PipelineError) as refusal:
        params.load(changed(tmp_path, *keys, to=value))
    assert named in str(refusal.value)


def test_missing_file_says_where_to_run(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="root of the repository"):
        params.load(tmp_path / "params.yaml")


def test_malformed_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("train: [")
    with pytest.raises(PipelineError, match="is not YAML"):
        params.load(path)


@pytest.mark.parametrize("section", ["table", "training"])
def test_dataset_without_a_section_is_named(section: str) -> None:
    with pytest.raises(PipelineError, match=r"\.nothing"):
        getattr(params.load(SHIPPED), section)("nothing")
