"""Stage model_evaluation: judge each trained model, and let the better one be champion.

Reads ``data/features`` and ``models``; writes ``metrics/{name}.json``, ``reports/plots``, ``reports/evaluation.html``
and ``reports/champions.json``; moves the alias ``champion`` in the MLflow registry.
"""

import json
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it has no types

from contract import DATASETS
from contract.dataset import Dataset
from model.card import ContractMismatch
from model.session import Artifact, ArtifactError
from training import tracking
from training.console import log, run, step
from training.errors import PipelineError
from training.evaluation import model_figures
from training.evaluation import page as evaluation_page
from training.evaluation import stability as stability_check
from training.evaluation.gate import Contender, decide
from training.evaluation.page import Candidates, Evaluation
from training.evaluation.scores import CANDIDATES_FILE, baseline, by_class, label, score
from training.evaluation.stability import Stability
from training.files import replaced_directory, write_json, write_text
from training.onnx.export import ESTIMATOR_FILE, load_estimator
from training.params import ModelEvaluationParams, load
from training.registry import registration
from training.splits import Split, Splits
from training.tracking import GATE, GATE_REASON, RegisteredModel

_IN_METRICS = frozenset({"rmse", "r2", "accuracy", "log_loss", "cv_rmse", "cv_accuracy"})

FEATURES, MODELS, METRICS, REPORTS = Path("data/features"), Path("models"), Path("metrics"), Path("reports")


def evaluate(
    dataset: Dataset,
    splits: Splits,
    challenger: tuple[RegisteredModel, Artifact],
    champion: tuple[RegisteredModel, Artifact | str] | None,
    params: ModelEvaluationParams,
    *,
    chosen: bool = False,
) -> Evaluation:
    """Score challenger and champion on the same test split and let the gate decide. Draws nothing, moves nothing.

    Args:
        challenger: the model that was just trained.
        champion: the registry's champion; instead of a model, a text that says why it cannot be used.
        chosen: a person made the champion what it is when the challenger was there already.
    """
    registered, model = challenger
    mine, stability = _scores(dataset, splits.test, model, params), _stability(dataset, splits.test, model, params)
    rival, theirs = None, None
    if champion is not None:
        former, usable = champion
        if isinstance(usable, str):
            rival = Contender(former.content_version, unusable=usable)
        else:
            theirs = _scores(dataset, splits.test, usable, params)
            excess = _stability(dataset, splits.test, usable, params).excess
            rival = Contender(former.content_version, theirs, usable.card.data_sha256, unusable=excess)
    metric = getattr(params.gate, dataset.task)
    decision = decide(
        Contender(
            registered.content_version,
            mine,
            model.card.data_sha256,
            unusable=stability.excess,
            feedback_rows=model.card.feedback_rows,
        ),
        rival,
        metric=metric,
        margin=params.margin,
        name=dataset.name,
        chosen=chosen,
    )
    kept = champion is not None and theirs is not None and not decision.promoted
    return Evaluation(
        dataset=dataset,
        card=model.card,
        challenger=registered,
        former=champion[0] if champion else None,
        scores=mine,
        stability=stability,
        former_scores=theirs,
        champion=champion[0] if champion and kept else registered,
        champion_scores=theirs if theirs and kept else mine,
        decision=decision,
        test_rows=len(splits.test.target),
        metric=metric,
        baseline=baseline(dataset, splits.train.target, splits.test.target, within=params.close),
        classes=by_class(dataset, splits.test.target, model.predict(splits.test.features)),
    )


def metrics(evaluation: Evaluation) -> dict[str, float]:
    """The challenger's scores for ``metrics/{name}.json``: few, so that DVC's tables fit a terminal.

    The report and the run in MLflow have all of them, and those of the champion.
    """
    validated = {f"cv_{name}": mean for name, (mean, _) in evaluation.card.cross_validation.items()}
    return {
        name: round(value, 6)
        for name, value in {**evaluation.scores, **validated}.items()
        if name in _IN_METRICS or name.startswith("within_")
    }


def evaluate_models(datasets: Iterable[Dataset], params: ModelEvaluationParams) -> None:
    """Judge the model of every dataset, write what the stage writes, and move the alias where the gate says so.

    Raises:
        PipelineError: if a model, a split or a registered version is missing; and if no model of a dataset is within
            the limits of ``params.stability``. The report and the metrics are written then, the registry is unchanged.
    """
    # One thread a computation: OpenMP threads that share their cores with other processes wait for each other, and made
    # a fit of half a second take twenty.
    with threadpool_limits(limits=1), replaced_directory(REPORTS / "plots") as directory:
        evaluations = [_judge(dataset, params, directory / dataset.name) for dataset in datasets]
        page = evaluation_page.render(evaluations)
    write_text(REPORTS / "evaluation.html", page)
    for evaluation in evaluations:
        write_json(METRICS / f"{evaluation.dataset.name}.json", metrics(evaluation))
    if refused := [evaluation for evaluation in evaluations if not evaluation.decision.deployable]:
        raise PipelineError(" ".join(_refusal(evaluation) for evaluation in refused))
    # The registry last: a run that failed before has changed nothing in it.
    with step("record the evaluation in MLflow"):
        for evaluation in evaluations:
            _record(evaluation)
    champions = {evaluation.dataset.name: evaluation.champion.content_version for evaluation in evaluations}
    write_json(REPORTS / "champions.json", champions)


def _judge(dataset: Dataset, params: ModelEvaluationParams, directory: Path) -> Evaluation:
    name = dataset.name
    splits = Splits.read(dataset, FEATURES / name)
    with step(f"{name}: score the model and the champion"):
        challenger = _challenger(dataset)
        champion = _champion(dataset, challenger)
        chosen = champion is not None and tracking.was_chosen_over(champion[0], challenger[0].content_version)
        evaluation = evaluate(dataset, splits, challenger, champion, params, chosen=chosen)
        again = evaluation.former == challenger[0] and evaluation.decision.deployable
        if again and GATE_REASON in challenger[0].tags:
            # The champion, evaluated again: the page keeps saying how it became champion.
            decision = replace(evaluation.decision, reason=challenger[0].tags[GATE_REASON])
            evaluation = replace(evaluation, decision=decision)
    log.info("%s: %s", name, evaluation.decision.reason)
    if evaluation.is_naive:
        log.warning(
            "%s: by its %s the model is no better than an answer that ignores the features.",
            name,
            label(evaluation.metric),
        )
    with step(f"{name}: draw the figures"):
        estimator = load_estimator(MODELS / name / ESTIMATOR_FILE)
        figures = model_figures.draw(dataset, splits, challenger[1], estimator, params, directory)
    return replace(evaluation, figures=figures, candidates=_candidates(MODELS / name / CANDIDATES_FILE))


def _candidates(path: Path) -> Candidates:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _challenger(dataset: Dataset) -> tuple[RegisteredModel, Artifact]:
    """The model in ``models/{name}`` and its version in the registry, from where it is deployed.

    Raises:
        PipelineError: if it is not there, damaged, of another contract, or answers differently than in training.
    """
    again = f"Run `dvc repro -f train_{dataset.name}`."
    try:
        model = Artifact.verified(MODELS / dataset.name, dataset)
    except ContractMismatch as error:
        versions = f"contract {error.trained}, this code has {error.present}"
        raise PipelineError(f"{MODELS / dataset.name} was trained under {versions}. {again}") from error
    except ArtifactError as error:
        raise PipelineError(f"{MODELS / dataset.name} cannot be used. {error} {again}") from error
    return registration.find(dataset, model.card.content_version, MODELS / dataset.name), model


def _champion(
    dataset: Dataset, challenger: tuple[RegisteredModel, Artifact]
) -> tuple[RegisteredModel, Artifact | str] | None:
    registered = tracking.champion(dataset.name)
    if registered is None:
        return None
    if registered.version == challenger[0].version:
        return challenger
    try:
        with tempfile.TemporaryDirectory() as directory:
            model = Artifact.verified(tracking.download(registered, Path(directory) / dataset.name), dataset)
    except ContractMismatch as error:
        return registered, (
            f"was trained under contract {error.trained}, and this code, which has {error.present}, cannot serve it"
        )
    except (PipelineError, ArtifactError) as error:
        # A champion that cannot be deployed helps nobody. The page has no error, which names a temporary folder.
        log.warning("%s: champion version %s cannot be used: %s", dataset.name, registered.version, error)
        if isinstance(error, PipelineError):
            return registered, "can no longer be loaded from the MLflow artifact store"
        return registered, "is damaged, or answers differently than in training"
    return tracking.tag_content(registered, model.card.content_version), model


def _record(evaluation: Evaluation) -> None:
    if evaluation.decision.promoted:
        tracking.promote(evaluation.challenger)
    tags = {}
    # Evaluating the champion again does not change why it became champion.
    if evaluation.former is None or evaluation.former.version != evaluation.challenger.version:
        tags = {
            GATE: "promoted" if evaluation.decision.promoted else "not promoted",
            GATE_REASON: evaluation.decision.reason,
        }
    directory = REPORTS / "plots" / evaluation.dataset.name
    tracking.log_evaluation(
        evaluation.challenger,
        {
            **{f"test_{name}": value for name, value in evaluation.scores.items()},
            **{f"stability_{name}": value for name, value in evaluation.stability.metrics.items()},
        },
        [REPORTS / "evaluation.html", *(directory / figure.image.name for figure in evaluation.figures)],
        tags,
    )


def _scores(dataset: Dataset, test: Split, model: Artifact, params: ModelEvaluationParams) -> dict[str, float]:
    return score(dataset, test.target, model.predict(test.features), within=params.close)


def _stability(dataset: Dataset, test: Split, model: Artifact, params: ModelEvaluationParams) -> Stability:
    limits = params.special(dataset.name).stability or params.stability
    return stability_check.measure(dataset, model.predict, test.features, test.target, limits)


def _refusal(evaluation: Evaluation) -> str:
    name = evaluation.dataset.name
    return (
        f"{name}: {evaluation.decision.reason} Round the features (train.{name}.features.decimals), choose another "
        f"candidate, or raise the limit (model_evaluation.stability). {REPORTS / 'evaluation.html'} shows each feature."
    )


def main() -> None:
    """Judge the models of the contract's datasets."""
    evaluate_models(DATASETS.values(), load().model_evaluation)


if __name__ == "__main__":
    sys.exit(run(main))
