"""The files of a dataset: put in and taken out, and nothing half of it."""

import hashlib
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.utils.hydra import apply_overrides  # type: ignore[import-untyped]  # it has no types

from contract import DATASETS
from contract.dataset import Task
from local_service import PROJECT
from model.deployed import Deployment, Previous
from tests.training.new_dataset.test_inference import TARGET, found, repeated
from training import params
from training.data_preparation import read_csv, verify_checksum
from training.errors import PipelineError
from training.new_dataset import __main__ as command
from training.new_dataset import project, settings_files
from training.new_dataset.inference import Found

PARAMS, DVC = ((PROJECT / name).read_text() for name in ("params.yaml", "dvc.yaml"))
FLOWERS = found(repeated("a", "b"), size=repeated("1.25", "2.5"), **{"kind: of #1": repeated("0.5", "1.75", "2")})
PRICES = found(size=repeated("1.25", "2.5"))
EITHER = pytest.mark.parametrize("table", [FLOWERS, PRICES], ids=[Task.CLASSIFICATION, Task.REGRESSION])


@pytest.mark.parametrize("name", ["flowers", "aaa", "model", "training", "actual"])
@EITHER
def test_what_is_put_in_is_taken_out_to_the_byte(name: str, table: Found) -> None:
    with_params = settings_files.params_with(PARAMS, name, table, 3)
    with_dvc = settings_files.dvc_with(DVC, name, table)
    assert settings_files.params_without(with_params, name) == PARAMS
    assert settings_files.dvc_without(with_dvc, name) == DVC


@EITHER
def test_every_line_of_the_files_stays(table: Found) -> None:
    for before, after in (
        (PARAMS, settings_files.params_with(PARAMS, "flowers", table, 0)),
        (DVC, settings_files.dvc_with(DVC, "flowers", table)),
    ):
        left = iter(after.splitlines())
        assert all(line in left for line in before.splitlines()), "in the same order"


@EITHER
def test_the_parameters_are_those_of_the_table(tmp_path: Path, table: Found) -> None:
    (tmp_path / "params.yaml").write_text(settings_files.params_with(PARAMS, "flowers", table, 3))
    loaded = params.load(tmp_path / "params.yaml")
    assert loaded.table("flowers").maximum_duplicates == 3
    assert loaded.training("flowers").features.decimals.items() >= {"size": 2}.items()
    assert "hist_gradient_boosting" in loaded.training("flowers").candidates
    assert loaded.training("iris") == params.load(PROJECT / "params.yaml").training("iris")


@EITHER
def test_an_experiment_changes_its_line_alone(tmp_path: Path, table: Found) -> None:
    """``dvc exp run -S`` writes the whole file."""
    path = tmp_path / "params.yaml"
    path.write_text(
        settings_files.params_with(PARAMS, "flowers_of_a_name_that_is_as_long_as_it_can_be"[:40], table, 12345)
    )
    before = path.read_text().splitlines()
    apply_overrides(path, ["train.iris.folds=4"])
    changed = [(old, new) for old, new in zip(before, path.read_text().splitlines(), strict=True) if old != new]
    assert changed == [("    folds: 5", "    folds: 4")]


def test_what_a_person_changed_in_the_parameters_stays() -> None:
    edited = settings_files.params_with(PARAMS, "flowers", PRICES, 0).replace("n_estimators: 100", "n_estimators: 7")
    assert settings_files.params_with(edited, "flowers", PRICES, 0) == edited
    fewer = found(other=repeated("1.25", "2.5"))
    assert "size: 2" not in settings_files.params_with(edited, "flowers", fewer, 0)


@EITHER
def test_the_stage_is_wired_as_the_others_are(table: Found) -> None:
    content: dict[str, Any] = yaml.safe_load(settings_files.dvc_with(DVC, "flowers", table))
    mine, iris = content["stages"]["train_flowers"], content["stages"]["train_iris"]
    assert yaml.safe_dump(mine) == yaml.safe_dump(iris).replace("iris", "flowers")
    assert "models/flowers" in content["stages"]["model_evaluation"]["deps"]
    assert "models/flowers" in content["stages"]["import_models"]["deps"]
    assert {"data/features/flowers": {"persist": True}} in content["stages"]["feature_engineering"]["outs"]
    assert content["stages"]["model_evaluation"]["metrics"][-1] == {
        "metrics/flowers.json": {"cache": False, "persist": True}
    }
    once = settings_files.dvc_with(DVC, "flowers", table)
    assert settings_files.dvc_with(once, "flowers", table) == once


def test_a_file_that_was_laid_out_anew_is_left_alone() -> None:
    flow = yaml.safe_dump(yaml.safe_load(PARAMS), default_flow_style=True)
    with pytest.raises(PipelineError, match=r"params.yaml is not laid out as it was"):
        settings_files.params_with(flow, "flowers", PRICES, 0)
    with pytest.raises(PipelineError, match=r"dvc.yaml"):
        settings_files.dvc_with(yaml.safe_dump(yaml.safe_load(DVC)), "flowers", PRICES)


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of the files that are edited; it has no documentation to write anew."""
    for name in ("params.yaml", "dvc.yaml", "data/raw/SHA256SUMS", "contract/datasets/iris.py", "data/raw/iris.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECT / name, tmp_path / name)
    monkeypatch.setattr(project, "PROJECT", tmp_path)
    return tmp_path


def write_table(path: Path) -> Path:
    lines = map(",".join, zip(repeated("1.5", "2"), repeated("a", "b"), TARGET, strict=True))
    path.write_text("\n".join(["Size (m),kind,price", *lines]) + "\n")
    return path


def everything(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.parent.name != "__pycache__"
    }


def test_the_copy_is_what_data_preparation_reads(copy: Path) -> None:
    plan = project.plan(write_table(copy / "my table.csv"), "price", "prices", None)
    for path, content in plan.files.items():
        assert content is not None
        (copy / path).write_bytes(content)
    columns = read_csv(copy / "data/raw/prices.csv")
    assert list(columns) == ["Size (m)", "kind", "price"]
    assert columns["price"] == TARGET
    verify_checksum(copy / "data/raw/prices.csv", copy / "data/raw/SHA256SUMS")
    names = [line.split()[1] for line in (copy / "data/raw/SHA256SUMS").read_text().splitlines()]
    assert names == sorted(names)


def test_columns_may_be_left_out(copy: Path) -> None:
    table = write_table(copy / "table.csv")
    plan = project.plan(table, "price", "prices", None, ["kind"])
    assert [each.feature.name for each in plan.found.columns] == ["Size (m)"]
    assert plan.found.left_out == {"kind": "DROP says so"}
    for wrong in ("colour", "price"):
        with pytest.raises(PipelineError, match=rf"DROP: '{wrong}' is no feature; there is Size \(m\), kind, price"):
            project.plan(table, "price", "prices", None, [wrong])


def test_a_failure_leaves_nothing_half_written(copy: Path) -> None:
    table = write_table(copy / "table.csv")
    before = everything(copy)
    plan = project.plan(table, "price", "prices", None)
    assert everything(copy) == before, "a plan writes nothing"
    with pytest.raises(PipelineError, match="does not work with this dataset; nothing is written"):
        project.write(plan.files)
    assert everything(copy) == before


def test_a_table_that_did_not_change_writes_nothing(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([f"CSV={copy}/data/raw/iris.csv", "TARGET=species", "NAME=iris"]) == 0
    assert "there is nothing to write" in capsys.readouterr().out


def test_a_changed_table_shows_the_difference_first(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = (copy / "data/raw/iris.csv").read_text() + "19.5,3,1.5,0.2,setosa\n"
    (copy / "iris.csv").write_text(table)
    before = everything(copy)
    assert command.main([f"CSV={copy}/iris.csv", "TARGET=species"]) == 0
    told = capsys.readouterr().out
    assert "150 rows become 151, 1 of which are new or changed" in told
    assert '-    sepal_length: float = feature(unit="cm", minimum=1, maximum=15' in told
    assert "Nothing is written: YES=1" in told
    assert everything(copy) == before


@pytest.mark.parametrize("train", [False, True])
def test_what_the_pipeline_and_the_loop_made_of_it_goes_too(
    copy: Path, monkeypatch: pytest.MonkeyPatch, train: bool
) -> None:
    (copy / "docs_reference.py").touch()  # the command that writes the documentation anew has nothing to do
    plan = project.plan(write_table(copy / "table.csv"), "price", "prices", None)
    before = everything(copy)
    for path, content in plan.files.items():
        assert content is not None
        (copy / path).write_bytes(content)
    monkeypatch.setattr(project, "DATASETS", {**DATASETS, "prices": DATASETS["iris"]})
    if train:
        made = ("data/feedback/prices.parquet", "data/feedback/prices.parquet.dvc", "models/previous/prices.bentomodel")
        for name in ("data/prepared/prices.parquet", "models/prices/model.onnx", "reports/plots/prices/a.json", *made):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).touch()
        (copy / "models/previous.json").write_text('{"iris": {"tag": "iris:b"}, "prices": {"tag": "prices:a"}}')
    project.remove("prices")
    after = everything(copy)
    for name in ("models/.deployed.lock", "models/previous.json"):
        assert (after.pop(name, None) is not None) == train
    assert after == before
    assert Deployment(copy / "models").previous() == ({"iris": Previous("iris:b")} if train else {})


@pytest.mark.parametrize(
    "name", ["Prices", "1st", "class", "store", "utc", "yes", "null", "iris_batch", "a-b", "a" * 41, "../up"]
)
def test_names_that_cannot_be(copy: Path, name: str) -> None:
    with pytest.raises(PipelineError, match="cannot be the name of a dataset"):
        project.plan(write_table(copy / "table.csv"), "price", name, None)


@pytest.mark.parametrize(("target", "reason"), [("price", "predicts species"), ("species", "has other columns")])
def test_a_name_that_is_taken(copy: Path, target: str, reason: str) -> None:
    (copy / "table.csv").write_text(write_table(copy / "table.csv").read_text().replace(",price", f",{target}"))
    with pytest.raises(PipelineError, match=f"The name iris is taken: that dataset {reason}"):
        project.plan(copy / "table.csv", target, "iris", Task.REGRESSION)


def test_the_task_of_a_dataset_stays(copy: Path) -> None:
    with pytest.raises(PipelineError, match=r"iris is a classification, and .* take it out first"):
        project.plan(copy / "data/raw/iris.csv", "species", "iris", Task.REGRESSION)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "Name the CSV: make dataset CSV=path/to/table.csv TARGET=column"),
        (["CSV=table.csv"], "Name the TARGET"),
        (["CSV=nowhere.csv", "TARGET=x"], "nowhere.csv: there is no such file"),
        (["CSV=table.csv", "TARGET=x", "TASK=guess"], "TASK is regression or classification, not 'guess'"),
        (["CSV=table.csv", "TARGET=x", "COLOR=red"], "There is no COLOR; there is CSV, DROP, NAME, TARGET, TASK"),
        (["--remove"], "Name the dataset"),
        (["--remove", "NAME=nobody"], "There is no dataset 'nobody'; there is"),
        (["--remove", "NAME=iris"], "iris is needed by .* other files: it cannot be taken out"),
    ],
)
def test_the_command_says_what_is_wrong(words: list[str], reason: str, caplog: pytest.LogCaptureFixture) -> None:
    assert command.main(words) == 1
    assert caplog.records
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(caplog.records[-1].getMessage())


def test_make_hands_on_what_was_typed() -> None:
    words = ['CSV=it\'s "here" `now`.csv', "TARGET=Price ($)", "NAME=prices", "TASK=", "DROP=a b,$HOME"]
    make = ["make", "--dry-run", "dataset", *words, "YES=1"]
    told = subprocess.run(make, cwd=PROJECT, capture_output=True, text=True, check=True).stdout.splitlines()
    (line,) = [line for line in told if "training.new_dataset" in line]
    assert shlex.split(line) == ["python", "-m", "training.new_dataset", *words, "--yes"]
