"""Stage ``train_{dataset}``: choose among the candidates, fit the best, convert it to ONNX, compare, register.

``python -m training.train housing`` writes ``model.onnx``, ``card.json``, ``reference.npz``, ``estimator.skops`` and
``candidates.json`` to ``models/housing/`` and registers a new version of ``housing`` in MLflow. Training twice on the
same machine gives the same bytes; what differs from run to run (its id, its time, the commit) is in MLflow.
"""

import argparse
import functools
import importlib.metadata
import json
import logging
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it has no types

from contract import DATASETS, deciles
from contract.dataset import Dataset, Task
from contract.table import FloatMatrix
from model.card import CARD_FILE, FEEDBACK_ROWS, ONNX_FILE, REFERENCE_FILE, FeatureCard, GoldenRow, ModelCard
from model.reference import Reference
from training import boosters, candidates, console, params, selection, tracking
from training.errors import PipelineError
from training.evaluation import candidate_plots
from training.evaluation.scores import CANDIDATES_FILE, label
from training.files import replaced_directory, sha256, write_json
from training.onnx import export
from training.onnx.hard_rows import hard_rows
from training.params import CandidateParams, RowFeatureParams, TrainParams
from training.registry import registration
from training.selection import CrossValidation
from training.splits import Splits
from training.tracking import RegisteredModel, Run

log = logging.getLogger(__name__)

RAW, FEATURES, MODELS = Path("data/raw"), Path("data/features"), Path("models")
LIBRARIES = ("scikit-learn", "numpy", "onnx", "skl2onnx", "onnxruntime")
"""The libraries whose versions the card records, so that somebody can train the same model again."""
CODE = ("contract", "model", "training", "params.yaml", "dvc.yaml", "data/raw")
"""What a model depends on. A change elsewhere, as in a metric that the pipeline wrote, leaves the revision clean."""


def train(
    dataset: Dataset, features: Path, raw: Path, models: Path, train_params: TrainParams, *, metric: str
) -> RegisteredModel:
    """Train one dataset's model and register it.

    Args:
        dataset: the contract.
        features: directory with ``train.parquet``, ``test.parquet`` and ``statistics.json``.
        raw: the raw CSV file; the card records its checksum.
        models: ``<name>/`` in this directory is replaced as a whole, at the very end.
        train_params: ``train.<name>``.
        metric: the score that candidates are compared by: the gate's.

    Raises:
        PipelineError: for a candidate that cannot be built or deployed, and for an ONNX model that differs from its
            estimator. The MLflow run ends as FAILED, and ``<name>/`` stays as it was.
    """
    splits = Splits.read(dataset, features)
    pipelines = {
        name: candidates.build(dataset, name, candidate, train_params.features, random_state=train_params.random_state)
        for name, candidate in train_params.candidates.items()
    }
    with console.step(f"{dataset.name}: check that each candidate can be deployed"):
        for name, pipeline in pipelines.items():
            candidates.check_deployable(dataset, name, pipeline, splits.train, train_params.tolerance)
    tags = {
        "dataset": dataset.name,
        "contract_version": dataset.contract_version,
        "data_sha256": sha256(raw),
        "git_revision": git_revision(),
    }
    with tracking.run(dataset.name, f"train {dataset.name}", tags) as run:
        run.log_data(dataset.name, {"training": features / "train.parquet", "testing": features / "test.parquet"})
        results = {
            name: _try(dataset, splits, name, pipeline, train_params, metric, run, tags)
            for name, pipeline in pipelines.items()
        }
        run.log_figure(candidate_plots.comparison(results, metric), "plots/candidates.png")
        chosen = selection.best(results, metric)
        log.info("%s: %s has the best %s of %d candidates.", dataset.name, chosen, label(metric), len(results))
        run.rename(chosen)
        with console.step(f"{dataset.name}: fit {chosen} on {len(splits.train.target)} rows"):
            estimator = selection.fit(pipelines[chosen], splits.train, dataset.task)
        with console.step(f"{dataset.name}: convert to ONNX and compare over all rows"):
            content = export.convert(dataset, estimator)
            predict = export.predictor(dataset, estimator)
            rows = splits.all.features
            onnx = export.compare(dataset, content, predict, rows, train_params.tolerance)
            export.compare(dataset, content, predict, hard_rows(dataset, estimator, rows), train_params.tolerance)
        metrics = selection.scores(
            dataset, splits.test.target, export.answers(estimator, splits.test.features, dataset.task), metric
        )
        parameters = describe_parameters(pipelines[chosen], train_params.candidates[chosen], train_params.features)
        if splits.train.from_feedback is not None:
            parameters[FEEDBACK_ROWS] = int(splits.train.from_feedback.sum())
        run.log(
            params={"algorithm": chosen, **parameters},
            metrics={
                "onnx_max_difference": onnx.max_difference,
                **_cross_validated(results[chosen]),
                **{f"test_{metric}": value for metric, value in metrics.items()},
            },
        )
        reference, described = Reference.sample(
            splits.train.features,
            results[chosen].out_of_fold,
            splits.train.target,
            seed=train_params.random_state,
        ).encode()
        card = ModelCard(
            name=dataset.name,
            task=dataset.task,
            contract_version=dataset.contract_version,
            target=dataset.target.name,
            unit=dataset.target.unit,
            classes=list(dataset.target.classes),
            features=describe_features(dataset, features / "statistics.json"),
            **describe_answers(dataset, predict(splits.train.features)),
            algorithm=chosen,
            parameters=parameters,
            metrics=metrics,
            cross_validation=results[chosen].summary,
            onnx=onnx,
            reference=described,
            golden=golden_rows(dataset, splits.test.features, predict(splits.test.features), train_params.golden_rows),
            training_rows=len(splits.train.target),
            data_sha256=tags["data_sha256"],
            libraries={name: importlib.metadata.version(name) for name in LIBRARIES} | boosters.library(estimator),
        )
        with console.step(f"{dataset.name}: register"), replaced_directory(models / dataset.name) as directory:
            (directory / ONNX_FILE).write_bytes(content)
            (directory / REFERENCE_FILE).write_bytes(reference)
            (directory / CARD_FILE).write_text(card.model_dump_json(indent=2), encoding="utf-8")
            export.save_estimator(estimator, directory / export.ESTIMATOR_FILE)
            write_json(directory / CANDIDATES_FILE, {name: _rounded(result) for name, result in results.items()})
            made = {"git_revision": tags["git_revision"], "trained_at": datetime.now(UTC).isoformat()}
            registered = registration.register(dataset, directory, card, made)
    log.info(
        "%s: %s is version %s of the registry, %s; on the test split: %s.",
        dataset.name,
        chosen,
        registered.version,
        registered.content_version,
        ", ".join(f"{metric} {value:.4f}" for metric, value in metrics.items()),
    )
    return registered


def _try(
    dataset: Dataset,
    splits: Splits,
    name: str,
    pipeline: Pipeline,
    train_params: TrainParams,
    metric: str,
    run: Run,
    tags: Mapping[str, str],
) -> CrossValidation:
    """Cross-validate a candidate, in an MLflow run of its own below ``run``."""
    with run.child(name, {**tags, "candidate": name}) as child, console.step(f"{dataset.name}: cross-validate {name}"):
        started = time.perf_counter()
        result = selection.cross_validate(
            dataset,
            pipeline,
            splits.train,
            metric=metric,
            folds=train_params.folds,
            random_state=train_params.random_state,
        )
        child.log(
            params=describe_parameters(pipeline, train_params.candidates[name], train_params.features),
            metrics={**_cross_validated(result), tracking.SECONDS: time.perf_counter() - started},
        )
        for each, values in result.folds.items():
            child.log_folds(each, values)
        child.log_figure(candidate_plots.out_of_fold(dataset, splits.train.target, result), "plots/out_of_fold.png")
    log.info(
        "%s: %s has a cross-validated %s of %.4f ± %.4f.", dataset.name, name, label(metric), *result.summary[metric]
    )
    return result


def _rounded(result: CrossValidation) -> dict[str, tuple[float, float]]:
    """Mean and deviation by metric. Forests add up their trees in any order: the last digits differ from run to run."""
    return {metric: (round(mean, 6), round(deviation, 6)) for metric, (mean, deviation) in result.summary.items()}


def _cross_validated(result: CrossValidation) -> dict[str, float]:
    means = {f"cv_{metric}": mean for metric, (mean, _) in result.summary.items()}
    return means | {f"cv_{metric}_std": deviation for metric, (_, deviation) in result.summary.items()}


def describe_parameters(
    pipeline: Pipeline, candidate: CandidateParams, features: RowFeatureParams
) -> dict[str, str | int | float | bool | None]:
    """A candidate's parameters as one flat mapping: those it was given, its seed and its derived features."""
    described: dict[str, str | int | float | bool | None] = {"estimator": candidate.estimator, **candidate.parameters}
    for parameter, value in pipeline.get_params().items():
        if parameter.endswith("random_state"):
            described["random_state"] = value
    if features.rotations is not None:
        described["rotations.columns"] = ", ".join(features.rotations.columns)
        described["rotations.degrees"] = ", ".join(f"{degrees:g}" for degrees in features.rotations.degrees)
    if features.ratios:
        described["ratios"] = ", ".join("/".join(pair) for pair in features.ratios)
    if features.decimals:
        described["decimals"] = ", ".join(f"{name}: {places}" for name, places in features.decimals.items())
    if features.derived_decimals is not None:
        described["derived_decimals"] = features.derived_decimals
    return described


def describe_features(dataset: Dataset, statistics: Path) -> list[FeatureCard]:
    """The features as the training split has them, from ``statistics.json``."""
    try:
        described: dict[str, dict[str, Any]] = json.loads(statistics.read_text(encoding="utf-8"))["features"]
    except FileNotFoundError as error:
        raise PipelineError(f"{statistics} is missing. Run `dvc repro feature_engineering`.") from error
    return [
        FeatureCard(name=feature.name, unit=feature.unit, description=feature.description, **described[feature.name])
        for feature in dataset.features
    ]


def describe_answers(dataset: Dataset, answers: FloatMatrix) -> dict[str, Any]:
    """The distribution of answers ``[N, 1]`` or ``[N, C]`` on the training split: the reference for drift."""
    if dataset.task is Task.REGRESSION:
        edges = deciles.edges(answers[:, 0])
        return {
            "prediction_deciles": edges,
            "prediction_decile_shares": deciles.shares(edges, answers[:, 0]),
            "class_shares": {},
        }
    shares = np.bincount(answers.argmax(axis=1), minlength=len(dataset.target.classes)) / len(answers)
    return {
        "prediction_deciles": [],
        "prediction_decile_shares": [],
        "class_shares": dict(zip(dataset.target.classes, shares.tolist(), strict=True)),
    }


def golden_rows(dataset: Dataset, rows: FloatMatrix, answers: FloatMatrix, count: int) -> list[GoldenRow]:
    """Rows spread evenly over the estimator's answers: sorted by value, or by class and then by probability."""
    order = np.lexsort((answers.max(axis=1), answers.argmax(axis=1)))
    picked = order[np.unique(np.linspace(0, len(order) - 1, count).round().astype(int))]
    return [GoldenRow(row=dataset.decode(rows[index].tolist()), output=answers[index].tolist()) for index in picked]


def git_revision() -> str:
    """The commit of the training code; ends in ``+dirty`` if it was changed since, ``unknown`` outside git."""
    try:
        revision = _git("rev-parse", "HEAD")
        changed = _git("status", "--porcelain", "--", *CODE)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{revision}+dirty" if changed else revision


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()  # noqa: S603 # all ours


def main(name: str) -> None:
    """Train one dataset's model.

    Raises:
        PipelineError: if the contract has no such dataset.
    """
    if name not in DATASETS:
        raise PipelineError(f"There is no dataset {name!r}; there is {', '.join(DATASETS)}.")
    # One OpenMP thread: the threads of gradient boosting spin while they wait for each other. On a busy machine two of
    # them took up to forty times as long as one.
    dataset, loaded = DATASETS[name], params.load()
    metric = getattr(loaded.model_evaluation.gate, dataset.task)
    with threadpool_limits(limits=1):
        train(dataset, FEATURES / name, RAW / f"{name}.csv", MODELS, loaded.training(name), metric=metric)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m training.train", description="Train one dataset's model.")
    parser.add_argument("dataset", help=f"one of {', '.join(DATASETS)}")
    sys.exit(console.run(functools.partial(main, parser.parse_args().dataset)))
