"""The only file that knows MLflow: runs, the registry, the aliases ``champion`` and ``previous``.

The store is ``MLFLOW_TRACKING_URI``, by default ``sqlite:///mlflow.db`` with artifacts in ``mlruns/``. A logged model
holds ``model.skops`` and, in ``extra_files/``, ``model.onnx``, ``card.json`` and ``reference.npz``. A registered
version is found by the content of its card, which is the same for equal models; its number, its run and its time are
not.
"""

import contextlib
import io
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.card import CARD_FILE, ONNX_FILE, REFERENCE_FILE, TrainingRun
from training import console, features
from training.errors import PipelineError
from training.files import replaced_directory
from training.onnx.export import ESTIMATOR_FILE
from training.registry import local_store

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from mlflow import MlflowClient
    from sklearn.base import BaseEstimator

DEFAULT_URI = "sqlite:///mlflow.db"
CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
"""Aliases: the model that is deployed, the one that was last judged by ``loop.retrain``, the champion before."""
MODEL_SKOPS = "model.skops"
"""The estimator in a logged model, as MLflow's scikit-learn flavour names it."""
EXTRA_FILES = "extra_files"
"""The directory of a logged model for files of ours, as MLflow names it."""
CONTENT_VERSION = "content_version"
"""The tag of a registered version that holds ``ModelCard.content_version``."""
GATE = "gate"
GATE_REASON = "gate_reason"
"""The tags of a registered version that say whether it became champion, and why."""
SECONDS = "cv_seconds"
"""The metric of a candidate's run that says how long its cross-validation took."""
CHOSEN_OVER = "chosen_over"
"""The tag of a version that a person made champion: the newest version of that time. None up to it replaces it."""

WOULD_REPLACE = "would_replace"
"""The tag of a version that won in an experiment: the number of the champion it was better than."""

# MLflow reads these when it is imported. They disable telemetry and needless output.
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_RECORD_ENV_VARS_IN_MODEL_LOGGING": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "GIT_PYTHON_REFRESH": "quiet",
}


@dataclass(frozen=True)
class RegisteredModel:
    """A version of a registered model. ``model_uri`` is its MLflow address, such as ``models:/housing/3``."""

    name: str
    version: str
    run_id: str
    model_uri: str
    tags: Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def content_version(self) -> str:
        """The version that the service shows, equal for equal models; MLflow's number of one registered by hand."""
        return self.tags.get(CONTENT_VERSION, self.version)

    @property
    def training_run(self) -> TrainingRun:
        """How it came about. A model that was registered anew has no time and no revision: only its training knew."""
        return TrainingRun.model_validate(
            {"run_id": self.run_id, **{key: self.tags.get(key) for key in ("trained_at", "git_revision")}}
        )


class Run:
    """A run in progress, as ``run`` and ``child`` give it."""

    def __init__(self, run_id: str, experiment_id: str) -> None:
        self.run_id = run_id
        self._experiment_id = experiment_id

    def log(self, *, params: Mapping[str, object], metrics: Mapping[str, float]) -> None:
        """Add parameters and metrics."""
        import mlflow

        mlflow.log_params(dict(params), run_id=self.run_id)
        mlflow.log_metrics(dict(metrics), run_id=self.run_id)

    def log_folds(self, metric: str, values: Sequence[float]) -> None:
        """Add a metric's value for each fold, as steps of ``<metric>_fold``."""
        for fold, value in enumerate(values):
            _client().log_metric(self.run_id, f"{metric}_fold", value, step=fold)

    def log_data(self, name: str, files: Mapping[str, Path]) -> None:
        """Add tables as the inputs of the run: Parquet files by context, such as ``training``."""
        import mlflow
        import pandas as pd
        from mlflow.data.pandas_dataset import from_pandas

        for context, path in files.items():
            # MLflow warns of integers: as they are now, they could not be missing.
            rows = pd.read_parquet(path).astype("float64", errors="ignore")
            with warnings.catch_warnings():  # of MLflow's own code
                warnings.simplefilter("ignore", DeprecationWarning)
                warnings.filterwarnings("ignore", ".*source can be interpreted in multiple ways")
                data = from_pandas(rows, source=str(path), name=name)
            mlflow.log_input(data, context=context)

    def rename(self, name: str) -> None:
        """Give the run another name: what it tried is known at its start, what it chose at its end."""
        _client().update_run(self.run_id, name=name)

    def log_figure(self, figure: "Figure", path: str) -> None:
        """Add a figure as an artifact, such as ``plots/cross_validation.png``."""
        _client().log_figure(self.run_id, figure, path)

    @contextlib.contextmanager
    def child(self, name: str, tags: Mapping[str, str]) -> "Iterator[Run]":
        """A nested run; it ends as FAILED if the block raises."""
        import mlflow

        with mlflow.start_run(
            run_name=name,
            tags=dict(tags),
            nested=True,
            parent_run_id=self.run_id,
            experiment_id=self._experiment_id,  # MLflow does not take it from the parent run
        ) as started:
            yield Run(started.info.run_id, self._experiment_id)


@contextlib.contextmanager
def run(experiment: str, name: str, tags: Mapping[str, str]) -> Iterator[Run]:
    """A run of an experiment, which is made if need be; it ends as FAILED if the block raises."""
    client = _client()
    import mlflow

    with _store() as uri:
        found = client.get_experiment_by_name(experiment)
        experiment_id = found.experiment_id if found else client.create_experiment(experiment)
        # Its runs and models are put below its own path.
        local_store.make_paths_relative(uri)
    with mlflow.start_run(experiment_id=experiment_id, run_name=name, tags=dict(tags)) as started:
        yield Run(started.info.run_id, experiment_id)


def register(
    name: str,
    estimator: "BaseEstimator",
    files: Sequence[Path],
    *,
    example: "pd.DataFrame",
    trusted: Sequence[str],
    requirements: Sequence[str],
    tags: Mapping[str, str],
    descriptions: tuple[str, str],
) -> RegisteredModel:
    """Log a fitted estimator to the run in progress and register it as a new version of ``name``.

    The code of its transformers is stored with it, so that MLflow can load it without the project.

    Args:
        name: the registered model's name; it is made if need be.
        estimator: saved in the skops format.
        files: copied into ``extra_files/``.
        example: some rows; they become the input example and, with the estimator's answer, the signature.
        trusted: the types that skops may load beyond its own list.
        requirements: pip requirements. MLflow would otherwise find them by importing the model in another process.
        tags: of the version.
        descriptions: of the registered model, and of the version.
    """
    client = _client()
    import mlflow
    from mlflow.models import ModelSignature, infer_signature
    from mlflow.types import ColSpec, Schema
    from mlflow.types.schema import AnyType

    # MLflow refuses an integer column where the signature says double. The contract accepts any number.
    any_type = AnyType()  # type: ignore[no-untyped-call]
    signature = ModelSignature(
        inputs=Schema([ColSpec(any_type, column) for column in example.columns]),
        outputs=infer_signature(example, estimator.predict(example)).outputs,
    )
    with tempfile.TemporaryDirectory() as code:
        logged = mlflow.sklearn.log_model(
            estimator,
            name=name,
            serialization_format=mlflow.sklearn.SERIALIZATION_FORMAT_SKOPS,
            skops_trusted_types=list(trusted),
            extra_files=[str(path) for path in files],
            code_paths=[str(_model_code(Path(code)))],
            signature=signature,
            input_example=example,
            pip_requirements=list(requirements),
        )
    with _store():
        if not _find(client, name):
            client.create_registered_model(name)
        client.update_registered_model(name, descriptions[0])
    # MLflow tells people of it on stderr, past its own log level.
    with contextlib.redirect_stderr(io.StringIO()):
        version = mlflow.register_model(logged.model_uri, name, tags=dict(tags))
    client.update_model_version(name, version.version, descriptions[1])
    return _registered(version)


def _model_code(directory: Path) -> Path:
    """Write the package that a logged model needs: ``training`` with nothing but its transformers."""
    package = directory / features.__name__.partition(".")[0]
    package.mkdir()
    shutil.copyfile(features.__file__, package / Path(features.__file__).name)
    # In the project folder, the other modules of `training` can still be imported after a model was loaded.
    (package / "__init__.py").write_text("__path__ = __import__('pkgutil').extend_path(__path__, __name__)\n")
    return package


def champion(name: str) -> RegisteredModel | None:
    """The version with the alias ``champion``; None if there is none yet."""
    return by_alias(name, CHAMPION)


def with_content(name: str, content_version: str) -> list[RegisteredModel]:
    """The versions with a ``content_version``: the champion first, then the newest first."""
    client = _client()
    found = client.search_model_versions(f"name = '{name}' and tags.{CONTENT_VERSION} = '{content_version}'")
    best = champion(name)
    models = sorted(map(_registered, found), key=lambda model: int(model.version), reverse=True)
    return sorted(models, key=lambda model: model != best)


def tag_content(model: RegisteredModel, content_version: str) -> RegisteredModel:
    """Give a version that somebody else registered the tag ``content_version``, if it has none."""
    if CONTENT_VERSION not in model.tags:
        _client().set_model_version_tag(model.name, model.version, CONTENT_VERSION, content_version)
    return get(model.name, model.version)


def by_alias(name: str, alias: str) -> RegisteredModel | None:
    """The version with an alias; None if there is none."""
    client = _client()
    found = _find(client, name)
    version = found[0].aliases.get(alias) if found else None
    return get(name, str(version)) if version is not None else None


def promote(model: RegisteredModel) -> None:
    """Move the alias ``champion`` to a version, and the alias ``previous`` to the one that had it.

    An experiment in a copy of the project moves nothing: it only notes what it would replace. Once it is applied to the
    project, ``training.promote.follow`` moves the aliases.
    """
    former = champion(model.name)
    if former is not None and console.experiment_of() is not None:
        _client().set_model_version_tag(model.name, model.version, WOULD_REPLACE, former.version)
        return
    if former is not None and former.content_version != model.content_version:
        set_alias(former, PREVIOUS)
    set_alias(model, CHAMPION)


def set_alias(model: RegisteredModel, alias: str) -> None:
    """Move an alias to a version."""
    _client().set_registered_model_alias(model.name, alias, model.version)


def mark_chosen(model: RegisteredModel, reason: str) -> None:
    """Note that a person made a version champion: the gate lets only a model that is trained from now on replace it."""
    client = _client()
    newest = max(int(version.version) for version in client.search_model_versions(f"name = '{model.name}'"))
    for tag, text in ((CHOSEN_OVER, str(newest)), (GATE, "promoted by hand"), (GATE_REASON, reason)):
        client.set_model_version_tag(model.name, model.version, tag, text)


def was_chosen_over(champion: RegisteredModel, content_version: str) -> bool:
    """Whether a person made ``champion`` what it is when this other model was there already."""
    newest = champion.tags.get(CHOSEN_OVER)
    if newest is None:
        return False
    return any(int(one.version) <= int(newest) for one in with_content(champion.name, content_version))


def get(name: str, version: str) -> RegisteredModel:
    """A version from the registry.

    Raises:
        PipelineError: if the registry has no such version.
    """
    client = _client()
    from mlflow.exceptions import MlflowException

    try:
        return _registered(client.get_model_version(name, version))
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise PipelineError(
            f"The MLflow registry at {os.environ['MLFLOW_TRACKING_URI']} has no version {version} of {name}. Train it "
            f"anew with `dvc repro -f train_{name}`, or set MLFLOW_TRACKING_URI to the registry that has it."
        ) from error


def download(model: RegisteredModel, destination: Path) -> Path:
    """Copy the model, card, reference and estimator of a version into ``destination``, and return it.

    Raises:
        PipelineError: if the artifact store no longer has them.
    """
    with tempfile.TemporaryDirectory() as temporary, replaced_directory(destination) as directory:
        found = download_package(model, Path(temporary))
        try:
            for source, target in (
                (f"{EXTRA_FILES}/{ONNX_FILE}", ONNX_FILE),
                (f"{EXTRA_FILES}/{CARD_FILE}", CARD_FILE),
                (f"{EXTRA_FILES}/{REFERENCE_FILE}", REFERENCE_FILE),
                (MODEL_SKOPS, ESTIMATOR_FILE),
            ):
                shutil.copyfile(found / source, directory / target)
        except OSError as error:
            raise _unreadable(model, error) from error
    return destination


def download_package(model: RegisteredModel, destination: Path) -> Path:
    """Copy a version as MLflow laid it out into an empty directory, and return where it is in there.

    Raises:
        PipelineError: if the artifact store no longer has it.
    """
    _client()
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=model.model_uri, dst_path=str(destination)))
    except (MlflowException, OSError) as error:
        raise _unreadable(model, error) from error


def _unreadable(model: RegisteredModel, error: Exception) -> PipelineError:
    return PipelineError(
        f"The artifacts of {model.model_uri} cannot be read ({error}). Train it anew with "
        f"`dvc repro -f train_{model.name}`."
    )


def log_evaluation(
    model: RegisteredModel, metrics: Mapping[str, float], files: Sequence[Path], tags: Mapping[str, str]
) -> None:
    """Add metrics and files, such as figures, to the run that made a version, and tags to the version."""
    client = _client()
    for metric, value in metrics.items():
        client.log_metric(model.run_id, metric, value)
    for file in files:
        client.log_artifact(model.run_id, str(file), "evaluation")
    for tag, text in tags.items():
        client.set_model_version_tag(model.name, model.version, tag, text)


def _find(client: "MlflowClient", name: str) -> Sequence[Any]:
    return client.search_registered_models(f"name = '{name}'")


def _registered(version: Any) -> RegisteredModel:
    return RegisteredModel(
        name=version.name,
        version=str(version.version),
        run_id=version.run_id,
        model_uri=f"models:/{version.name}/{version.version}",
        tags=dict(version.tags),
    )


def _client() -> "MlflowClient":
    for variable, value in {**_QUIET, "MLFLOW_TRACKING_URI": DEFAULT_URI}.items():
        os.environ.setdefault(variable, value)
    import mlflow

    # It logs a line for each table that it creates.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    with _store() as uri:
        # The first client makes the tables of a new database.
        client = mlflow.MlflowClient()
        client.search_experiments(max_results=1)
        # Also of a project that was moved, or made by an earlier release.
        local_store.make_paths_relative(uri)
    return client


@contextlib.contextmanager
def _store() -> Iterator[str]:
    """The tracking URI, for this process alone if it is a file."""
    uri = os.environ["MLFLOW_TRACKING_URI"]
    with local_store.locked(uri):
        yield uri
