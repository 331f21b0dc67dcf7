"""Which model is meant: ``housing@champion``, ``housing@3`` and what else people write."""

import re

from contract import DATASETS
from contract.dataset import Dataset
from contract.errors import PipelineError
from training import tracking
from training.tracking import RegisteredModel

_NAME = re.compile(r"(?:models:/)?(?P<name>[^@:/]+)(?:[@:/](?P<which>[^@:/]+))?")
_CONTENT_VERSION = re.compile(r"sha-[0-9a-f]{12}")
"""A version in the BentoML store, as the service answers it."""


def find(text: str) -> tuple[Dataset, RegisteredModel]:
    """The dataset and the registered version that a name means.

    Args:
        text: ``housing@champion`` (an alias); ``housing@3``, ``housing/3`` or ``housing:3`` (a version); with
            ``models:/`` before it as MLflow writes it; ``housing:sha-3f9a0c1b2d4e`` as the service answers it;
            ``housing`` alone is the champion.

    Raises:
        PipelineError: there is no such dataset, alias or version.
    """
    match = _NAME.fullmatch(text)
    name = match["name"] if match else ""
    if match is None or name not in DATASETS:
        raise PipelineError(
            f"{text} names no model. Write {next(iter(DATASETS))}@{tracking.CHAMPION}, or a version instead of the "
            f"alias, as in {next(iter(DATASETS))}@3; there are {', '.join(DATASETS)}."
        )
    which = match["which"] or tracking.CHAMPION
    if _CONTENT_VERSION.fullmatch(which):
        stored = tracking.with_content(name, which)
        if not stored:
            raise PipelineError(
                f"The MLflow registry has no version of {name} that is served as {which}. Set MLFLOW_TRACKING_URI to "
                "the registry that the served model came from."
            )
        return DATASETS[name], stored[0]
    if which.isdecimal():
        return DATASETS[name], tracking.get(name, which)
    found = tracking.by_alias(name, which)
    if found is None:
        raise PipelineError(
            f"The model {name} has no version with the alias {which} in the MLflow registry. Run `make train`, or, if "
            f"that has nothing to do, `dvc repro -f -s model_evaluation`; or name a version, as in {name}@3."
        )
    return DATASETS[name], found
