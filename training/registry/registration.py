"""From the files of an artifact to a version in the MLflow registry, and back."""

import importlib.metadata
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from contract.dataset import Dataset
from model.card import CARD_FILE, ONNX_FILE, REFERENCE_FILE, ModelCard
from model.session import Artifact, ArtifactError
from training import boosters, console, tracking
from training.errors import PipelineError
from training.onnx import export
from training.tracking import CONTENT_VERSION, RegisteredModel

REQUIREMENTS = ("mlflow", "scikit-learn", "numpy", "pandas", "skops")
"""What MLflow needs to load an estimator of scikit-learn."""


def register(dataset: Dataset, directory: Path, card: ModelCard, tags: Mapping[str, str]) -> RegisteredModel:
    """Log an artifact to the run in progress and register it as a new version.

    Args:
        dataset: the contract.
        directory: holds ``model.onnx``, ``card.json``, ``reference.npz`` and ``estimator.skops``.
        card: the content of ``card.json``.
        tags: of the version, beside those that come from the card.
    """
    example = [dataset.encode(golden.row) for golden in card.golden[:5]]
    estimator = export.load_estimator(directory / export.ESTIMATOR_FILE)
    needed = {name: importlib.metadata.version(name) for name in REQUIREMENTS} | boosters.library(estimator)
    return tracking.register(
        dataset.name,
        estimator,
        [directory / name for name in (ONNX_FILE, CARD_FILE, REFERENCE_FILE)],
        example=pd.DataFrame(example, columns=list(dataset.feature_names)),
        trusted=export.trusted_types(estimator),
        requirements=[f"{name}=={version}" for name, version in needed.items()],
        tags={**_described(card), **tags},
        descriptions=(_about(dataset), _about_version(card)),
    )


def find(dataset: Dataset, content_version: str, directory: Path) -> RegisteredModel:
    """The version of the registry with a ``content_version``.

    Where the registry has none, or none whose files can still be read, the artifact of ``directory`` is registered
    anew: a clone that got its files from DVC's cache starts with an empty registry.

    Raises:
        PipelineError: if ``directory`` holds another model.
    """
    for found in tracking.with_content(dataset.name, content_version):
        if _is_whole(found):
            return found
    try:
        card = Artifact.read(directory).card
    except ArtifactError as error:
        raise PipelineError(f"{error} Run `dvc repro -f train_{dataset.name}`.") from error
    if card.content_version != content_version:
        raise PipelineError(
            f"The MLflow registry has no version {content_version} of {dataset.name}, and {directory} holds "
            f"{card.content_version}. Run `dvc repro -f -s model_evaluation` to choose a champion anew."
        )
    with (
        console.step(f"{dataset.name}: register {content_version}, which the registry lacks"),
        tracking.run(dataset.name, card.algorithm, {**_described(card), "registered_anew": "true"}) as run,
    ):
        run.log(
            params={"algorithm": card.algorithm, **card.parameters},
            metrics={f"test_{metric}": value for metric, value in card.metrics.items()},
        )
        return register(dataset, directory, card, {})


def _described(card: ModelCard) -> dict[str, str]:
    return {
        "dataset": card.name,
        "contract_version": card.contract_version,
        "data_sha256": card.data_sha256,
        "algorithm": card.algorithm,
        CONTENT_VERSION: card.content_version,
    }


def _about(dataset: Dataset) -> str:
    """The description of a registered model, as Markdown."""
    target = dataset.target
    unit = f" ({target.unit})" if target.unit else ""
    return (
        f"{dataset.description}\n\nPredicts `{target.name}`{unit} from {len(dataset.features)} features: "
        f"{', '.join(f'`{name}`' for name in dataset.feature_names)}. The service serves the version with the alias "
        f"`{tracking.CHAMPION}`."
    )


def _about_version(card: ModelCard) -> str:
    """The description of a version, as Markdown."""
    scores = ", ".join(f"{metric} {value:.4g}" for metric, value in card.metrics.items())
    return (
        f"`{card.algorithm}`, trained on {card.training_rows:,} rows. On the test split: {scores}. The service shows "
        f"this version as `{card.content_version}`."
    )


def _is_whole(registered: RegisteredModel) -> bool:
    with tempfile.TemporaryDirectory() as directory:
        try:
            Artifact.read(tracking.download(registered, Path(directory) / registered.name))
        except (PipelineError, ArtifactError) as error:
            console.log.warning("%s cannot be used: %s", registered.model_uri, error)
            return False
    return True
