"""The promises of docs/drift.md with fewer windows: a broken detector would be noticed."""

from pathlib import Path

import pytest

from contract.datasets.housing import HOUSING
from loop import drift_power
from tests.loop.benches import housing


def test_without_drift_there_are_hardly_any_alarms() -> None:
    certain, alarms = housing().alarms(200, 500, seed=0)
    assert alarms <= 0.02
    # At a level of 1 %: tests that are never certain would find nothing either.
    assert certain <= 0.05


def test_of_large_windows_neither() -> None:
    assert housing().alarms(20, 10_000, seed=0)[1] == 0


def test_looking_at_the_newest_quarter_too_costs_no_false_alarms() -> None:
    assert housing().window_alarms(30, 2000, seed=0) <= 0.05


@pytest.mark.parametrize("name", HOUSING.feature_names)
def test_half_a_standard_deviation_is_found(name: str) -> None:
    assert housing().found(name, 0.5, 20, 500, seed=0) == 1


def test_inland_districts_are_found() -> None:
    assert housing().inland(30, 500, seed=0) == 1


def test_the_tables_are_put_between_their_marks(tmp_path: Path) -> None:
    page = tmp_path / "drift.md"
    page.write_text("# Drift\n<!-- power -->\nold\n<!-- /power -->\nend\n")
    for content in ("| a |", "| b |"):
        drift_power.publish({"power": content}, page)
    assert page.read_text() == "# Drift\n<!-- power -->\n| b |\n<!-- /power -->\nend\n"
