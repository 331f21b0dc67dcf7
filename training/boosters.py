"""LightGBM and XGBoost, which `make boosters` installs. Nothing else needs them.

A package is imported once a candidate names it, or once a stored estimator of it is loaded.
"""

import importlib
import importlib.metadata
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from contract.dataset import Task
from training.errors import PipelineError

if TYPE_CHECKING:
    from sklearn.base import BaseEstimator


@dataclass(frozen=True)
class Booster:
    """A package of gradient boosting.

    Args:
        title: its name, for people.
        distributions: the names under which it may be installed.
        classes: its estimators, by task.
        parameters: what its estimators are made with: quiet, on one thread, and the same each time. They include those
            parameters that a candidate may set although the estimator's signature does not have them.
        trusted: the types of its fitted estimators, for skops. They hold arrays and text that the package's own code
            reads, and nothing that is run.
    """

    title: str
    distributions: tuple[str, ...]
    classes: Mapping[Task, str]
    parameters: Mapping[str, Any]
    trusted: tuple[str, ...]


BOOSTERS = {
    "lightgbm": Booster(
        title="LightGBM",
        distributions=("lightgbm",),
        classes={Task.REGRESSION: "LGBMRegressor", Task.CLASSIFICATION: "LGBMClassifier"},
        parameters={
            "n_jobs": 1,
            "verbose": -1,
            "deterministic": True,
            "force_row_wise": True,
            # LightGBM's own values.
            "alpha": 0.9,
            "max_bin": 255,
            "max_cat_to_onehot": 4,
            "max_cat_threshold": 32,
            "min_data_per_group": 100,
            "cat_smooth": 10.0,
            "cat_l2": 10.0,
        },
        trusted=(
            "collections.OrderedDict",
            "lightgbm.basic.Booster",
            "lightgbm.sklearn.LGBMClassifier",
            "lightgbm.sklearn.LGBMRegressor",
        ),
    ),
    "xgboost": Booster(
        title="XGBoost",
        distributions=("xgboost-cpu", "xgboost"),
        classes={Task.REGRESSION: "XGBRegressor", Task.CLASSIFICATION: "XGBClassifier"},
        parameters={"n_jobs": 1, "verbosity": 0},
        trusted=("xgboost.core.Booster", "xgboost.sklearn.XGBClassifier", "xgboost.sklearn.XGBRegressor"),
    ),
}
"""By the name of the package, which is also the name of the estimator in ``params.yaml``."""


def make(package: str, task: Task) -> "BaseEstimator":
    """An unfitted estimator of a package.

    Raises:
        PipelineError: if the package is not installed, or cannot be loaded.
    """
    booster = BOOSTERS[package]
    try:
        module = importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise not_installed(package) from error
    except OSError as error:
        # Its wheel does not hold OpenMP, which a small image may lack.
        raise PipelineError(
            f"{booster.title} cannot be loaded ({error}): install OpenMP, on Debian with `apt-get install libgomp1`."
        ) from error
    return getattr(module, booster.classes[task])(**booster.parameters)


def not_installed(package: str) -> PipelineError:
    """The error that says how to install a package."""
    return PipelineError(f"{BOOSTERS[package].title} is not installed: `make boosters` adds it to .venv.")


def of(estimator: "BaseEstimator") -> Booster | None:
    """The package that an estimator, or the last step of a pipeline, is of; None if it is of no such package."""
    last = estimator[-1] if hasattr(estimator, "steps") else estimator
    return BOOSTERS.get(type(last).__module__.partition(".")[0])


def library(estimator: "BaseEstimator") -> dict[str, str]:
    """The name and version of the package that ``of`` finds; empty if there is none."""
    booster = of(estimator)
    installed = {name: _version(name) for name in booster.distributions} if booster else {}
    return {name: version for name, version in installed.items() if version is not None}


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def refusals() -> tuple[type[Exception], ...]:
    """What a package raises for parameters that it does not take, besides ``ValueError``."""
    lightgbm = sys.modules.get("lightgbm")
    return (lightgbm.basic.LightGBMError,) if lightgbm else ()
