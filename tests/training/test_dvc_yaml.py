"""``dvc.yaml`` lists what each stage reads: a change of anything it leaves out would not run the stage again."""

import ast
import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from contract import DATASETS
from local_service import PROJECT

CONTENT: dict[str, Any] = yaml.safe_load((PROJECT / "dvc.yaml").read_text())
STAGES: dict[str, Any] = CONTENT["stages"]
COMMANDED = {"deployment_validation": {"service.py", "serving"}}
"""Code that a stage runs as a command, without importing it."""


@cache
def imported(path: Path) -> frozenset[Path]:
    """The modules of ours that a module imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            place = PROJECT.joinpath(*node.module.split("."))
            found |= {place / f"{alias.name}.py" for alias in node.names} | {place.with_suffix(".py")}
            found |= {place / "__init__.py", *(place / alias.name / "__init__.py" for alias in node.names)}
    return frozenset(one for one in found if one.exists())


def is_empty(path: Path) -> bool:
    """Whether a module has no code: nothing but a docstring."""
    return all(isinstance(node, ast.Expr) for node in ast.parse(path.read_text()).body)


def needed(stage: str) -> set[Path]:
    """The modules that ``python -m training.<module> …`` imports, and those that they import.

    The registry imports every dataset. Training depends on its own alone: the others cannot change its model.
    """
    command, *names = STAGES[stage]["cmd"].split()[2:]
    seen = {PROJECT / f"contract/datasets/{name}.py" for name in names or DATASETS}
    left = [PROJECT.joinpath(*command.split(".")).with_suffix(".py")]
    while left:
        if (current := left.pop()) not in seen:
            seen.add(current)
            left.extend(imported(current))
    return {path for path in seen if not is_empty(path)}


def paths(entries: list[Any]) -> list[str]:
    return [path for entry in entries for path in (entry if isinstance(entry, dict) else [entry])]


def outputs(stage: str) -> list[str]:
    return [path for kind in ("outs", "metrics") for path in paths(STAGES[stage].get(kind, []))]


def is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")


def test_stages() -> None:
    trained = [f"train_{name}" for name in DATASETS]
    first, last = ["data_preparation", "feature_engineering"], ["model_evaluation", "import_models"]
    assert list(STAGES)[:2] == first
    assert sorted(list(STAGES)[2:-3]) == sorted(trained)
    assert list(STAGES)[-3:] == [*last, "deployment_validation"]


@pytest.mark.parametrize("stage", STAGES)
def test_stage_depends_on_the_code_it_imports(stage: str) -> None:
    modules = {path.relative_to(PROJECT).as_posix() for path in needed(stage)}
    listed = {
        path for path in STAGES[stage]["deps"] if path.endswith(".py") or next((PROJECT / path).glob("*.py"), None)
    }
    missing = {module for module in modules if not any(is_within(module, path) for path in listed)}
    assert not missing
    unused = {path for path in listed if not any(is_within(module, path) for module in modules)}
    assert unused == COMMANDED.get(stage, set())


@pytest.mark.parametrize("stage", STAGES)
def test_stage_depends_on_files_that_are_in_the_repository_or_written_by_an_earlier_stage(stage: str) -> None:
    earlier = [path for other in list(STAGES)[: list(STAGES).index(stage)] for path in outputs(other)]
    for path in STAGES[stage]["deps"]:
        assert (PROJECT / path).exists() or any(is_within(path, out) or is_within(out, path) for out in earlier), path


@pytest.mark.parametrize("name", DATASETS)
def test_training_reads_its_own_parameters_and_the_gates_score_only(name: str) -> None:
    assert STAGES[f"train_{name}"]["params"] == [f"train.{name}", "model_evaluation.gate"]
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
        drawn = [plot] if isinstance(plot, str) else [path for options in plot.values() for path in options["y"]]
        assert all(path.startswith("reports/plots/") for path in drawn)


def test_the_lock_is_of_this_code() -> None:
    """``dvc status`` and ``dvc metrics diff`` compare with the committed ``dvc.lock``; a stale one misleads them."""
    told = subprocess.run(
        [sys.executable, "-m", "dvc", "status", "--json"], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr
    committed = subprocess.run(
        ["git", "ls-files"], cwd=PROJECT, capture_output=True, text=True, check=True
    ).stdout.split()
    stale = set()
    for stage, changes in json.loads(told.stdout).items():
        for change in changes:
            if change == "changed command":
                stale.add(f"the command of {stage}")
            elif isinstance(change, dict):
                # What the pipeline makes is not there in a fresh clone, or was made from other code.
                changed = change.get("changed deps", {})
                stale |= {path for path in changed if any(is_within(one, path) for one in committed)}
    assert not stale, (
        f"dvc.lock was written before {', '.join(sorted(stale))} changed. Run `make lock-pipeline` and commit dvc.lock "
        "and metrics/."
    )
