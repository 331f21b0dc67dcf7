"""What a changed parameter runs again, and what it leaves alone."""

import pytest

from tests.integration.conftest import Newcomer
from tests.integration.pipeline_runs import read, set_param, stages_run


def test_one_parameter_reruns_only_what_depends_on_it(trained_small: Newcomer) -> None:
    set_param(trained_small, 6000, "deployment_validation", "p95_budget_ms")
    assert stages_run(trained_small.run("dvc repro").stdout) == ["deployment_validation"]
    set_param(trained_small, 0.5, "train", "iris", "candidates", "logistic_regression", "parameters", "C")
    planned = trained_small.run("dvc repro --dry").stdout
    assert "train_iris" in stages_run(planned)
    assert not {"data_preparation", "feature_engineering", "train_housing"} & set(stages_run(planned))
    trained_small.run("git checkout -q params.yaml")


@pytest.mark.weekly
def test_a_challenger_that_is_not_better_does_not_take_over(trained_small: Newcomer) -> None:
    before = read(trained_small, "reports/champions.json")
    only_linear = {"linear": {"estimator": "linear", "parameters": {"alpha": 1.0}}}
    set_param(trained_small, only_linear, "train", "housing", "candidates")
    trained_small.run("dvc repro")
    assert read(trained_small, "models/housing/card.json")["algorithm"] == "linear"
    assert read(trained_small, "reports/champions.json") == before
