"""``dvc.yaml`` says what each stage reads: what it leaves out would not make the stage run again."""

import ast
from functools import cache
from typing import Any

import pytest
import yaml

from contract import DATASETS
from tests.training.conftest import ROOT

CONTENT: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text())
STAGES: dict[str, Any] = CONTENT["stages"]


def module(stage: str) -> str:
    """The module of ``python -m training.<module> …``."""
    name: str = STAGES[stage]["cmd"].split()[2].removeprefix("training.")
    return name


LOCAL_SERVICE = "local_service"
"""Of no room: ``training`` and ``load_tests`` share it."""


def path_of(name: str) -> str:
    return f"{name}.py" if name == LOCAL_SERVICE else f"training/{name}.py"


@cache
def imported(name: str) -> frozenset[str]:
    """The modules of ``training``, and ``local_service``, that a module imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / path_of(name)).read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "training":
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("training."):
            found.add(node.module.removeprefix("training."))
        elif isinstance(node, ast.ImportFrom) and node.module == LOCAL_SERVICE:
            found.add(LOCAL_SERVICE)
    return frozenset(found)


def needed(name: str) -> set[str]:
    seen: set[str] = set()
    left = [name]
    while left:
        if (current := left.pop()) not in seen:
            seen.add(current)
            left.extend(imported(current))
    return seen


def outputs(stage: str) -> list[str]:
    return [
        path
        for kind in ("outs", "metrics")
        for entry in STAGES[stage].get(kind, [])
        for path in (entry if isinstance(entry, dict) else [entry])
    ]


def test_stages() -> None:
    trained = [f"train_{name}" for name in DATASETS]
    assert list(STAGES) == [
        *("data_preparation", "feature_engineering", *trained),
        *("model_evaluation", "import_models", "deployment_validation"),
    ]


@pytest.mark.parametrize("stage", STAGES)
def test_stage_depends_on_the_code_it_imports(stage: str) -> None:
    listed = {path for path in STAGES[stage]["deps"] if path.endswith(".py") and path != "service.py"}
    assert listed == {path_of(name) for name in needed(module(stage))}
    assert "contract" in STAGES[stage]["deps"]


@pytest.mark.parametrize("stage", STAGES)
def test_stage_depends_on_files_that_are_in_the_repository_or_written_by_an_earlier_stage(stage: str) -> None:
    earlier = [path for other in list(STAGES)[: list(STAGES).index(stage)] for path in outputs(other)]
    for path in STAGES[stage]["deps"]:
        assert (ROOT / path).exists() or any(path == out or path.startswith(f"{out}/") for out in earlier), path


@pytest.mark.parametrize("name", DATASETS)
def test_training_reads_its_own_parameters_only(name: str) -> None:
    assert STAGES[f"train_{name}"]["params"] == [f"train.{name}"]
    assert STAGES[f"train_{name}"]["cmd"] == f"python -m training.train {name}"


@pytest.mark.parametrize("stage", STAGES)
def test_failing_stage_keeps_what_was_there(stage: str) -> None:
    for kind in ("outs", "metrics"):
        for entry in STAGES[stage].get(kind, []):
            (options,) = entry.values()
            assert options["persist"] is True


def test_every_output_has_one_stage() -> None:
    every = [path for stage in STAGES for path in outputs(stage)]
    assert len(every) == len(set(every))


def test_plots_draw_what_model_evaluation_writes() -> None:
    for plot in CONTENT["plots"]:
        paths = [plot] if isinstance(plot, str) else [path for options in plot.values() for path in options["y"]]
        assert all(path.startswith("reports/plots/") for path in paths)
