"""Retrain a model with what came true: ``python -m loop.retrain --model housing``.

Labelled rows of the ledger are added to the training split, the pipeline trains a challenger, and the gate compares it
with the champion on recent rows and on the test split (``loop.gate``). A better one gets the alias ``champion`` and is
deployed by the rest of the pipeline; a worse one leaves only its version in the registry and the report,
``reports/retraining/{model}.html``. Exit status: 0 if it took over, 3 if not, 1 for an error.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.exc import InterfaceError, OperationalError

from contract import DATASETS
from contract.dataset import Dataset
from ledger.jobs import Trigger
from ledger.reader import Reader
from ledger.times import iso, now_us
from loop import gate, labelled, retrain_report
from loop import replay as replaying
from loop.deployed import connect_ledger
from loop.drift import DEFAULT_HOURS
from loop.errors import LoopError
from loop.gate import Answers, Verdict
from loop.labelled import Division, Labelled
from loop.replay import Replay
from loop.workspace import Workspace, alone, discard, recover, run
from model.session import Artifact, ArtifactError
from training import console, params, tracking
from training.errors import PipelineError
from training.evaluation import stability
from training.feature_engineering import FEATURES
from training.files import write_json
from training.params import Params
from training.registry import registration
from training.splits import Split, Splits
from training.tracking import CHALLENGER, GATE, GATE_REASON, RegisteredModel

REPORTS = Path("reports/retraining")
MODELS = Path("models")
REFUSED_STATUS = 3
"""Exit status if the champion stays."""
_DAY_US = 86_400_000_000


@dataclass(frozen=True, eq=False)
class Round:
    """One retraining, from its rows to its verdict.

    Args:
        replay: recorded traffic through the challenger; None where nothing is on record.
    """

    dataset: Dataset
    division: Division
    found: Labelled
    challenger: RegisteredModel
    champion: RegisteredModel
    verdict: Verdict
    replay: Replay | None
    trigger: str
    job: int | None

    def as_dict(self) -> dict[str, Any]:
        """Plain data: what goes into the ledger and into ``reports``."""
        return {
            **self.verdict.as_dict(),
            "model": self.dataset.name,
            "challenger": self.challenger.content_version,
            "champion": self.champion.content_version,
            "trigger": self.trigger,
            "job": self.job,
            "labelled_rows": self.found.found,
            "training_rows_added": len(self.division.train),
            "held_back_rows": len(self.division.held_back),
            "test_split_rows_left_out": self.division.in_test,
            "known_rows_left_out": self.division.in_training,
            "replay": None if self.replay is None else self.replay.as_dict(),
        }


def progress(share: float, stage: str) -> None:
    """Print how far the retraining is; the worker records it."""
    print(f"[{100 * share:3.0f} %] {stage}", flush=True)  # noqa: T201 - the worker reads it


def retrain(dataset: Dataset, engine: Engine, settings: Params, *, trigger: str, job: int | None = None) -> Round:
    """Train a challenger and let the gate decide. At the end the champion, old or new, is deployed.

    Args:
        dataset: of the model.
        engine: of the ledger's database.
        settings: ``params.yaml``.
        trigger: what asked for it.
        job: its number.

    Raises:
        LoopError: there is no champion, or there is too little to learn from; or the pipeline failed.
        sqlalchemy.exc.DBAPIError: the database is away.
    """
    name, wanted = dataset.name, settings.retraining
    workspace = Workspace(name)
    if recover():
        console.log.warning("%s: put back what a retraining had left that was killed.", name)
    champion = tracking.champion(name)
    if champion is None:
        raise LoopError(f"{name} has no champion to compare with: run `make train` first.")
    progress(0.02, "split the raw table")
    run(["dvc", "repro", "--quiet", "feature_engineering"])
    progress(0.05, "read the labelled rows of the ledger")
    now = now_us()
    since = max(now - int(wanted.window_days * _DAY_US), 0)
    found = labelled.read(Reader(engine), dataset, since, now)
    division = labelled.divide(found, Splits.read(dataset, FEATURES / name), wanted.held_back)
    if len(division.train) < wanted.minimum_rows:
        raise LoopError(
            f"{name}: of {found.found:,} labelled rows of the last {wanted.window_days:g} days, "
            f"{len(division.train):,} can be trained on, and {wanted.minimum_rows:,} are needed "
            f"(retraining.minimum_rows): {len(division.held_back):,} are held back to judge on, {division.in_test:,} "
            f"are rows of the test split, {division.in_training:,} are known already. Send more to POST /feedback."
        )
    workspace.keep()
    deployed = False
    try:
        progress(0.1, f"train on {len(division.train):,} more rows")
        workspace.put_feedback(labelled.frame(dataset, division.train, wanted.weight))
        run(["dvc", "repro", f"train_{name}"])
        progress(0.6, "compare the challenger with the champion")
        one = _judge(dataset, engine, settings, champion, found, division, trigger=trigger, job=job)
        _record(one)
        if one.verdict.promoted:
            progress(0.75, "deploy the challenger: the rest of the pipeline")
            workspace.promote(one.challenger)
            run(["dvc", "repro"])
            deployed = True
    finally:
        if deployed:
            discard()
        else:
            progress(0.95, "put back what was there before")
            recover()
    progress(1, "the challenger is champion" if deployed else "the champion stays")
    return one


def _judge(
    dataset: Dataset,
    engine: Engine,
    settings: Params,
    champion: RegisteredModel,
    found: Labelled,
    division: Division,
    *,
    trigger: str,
    job: int | None,
) -> Round:
    name, evaluation = dataset.name, settings.model_evaluation
    area = evaluation.special(name).map
    directory = MODELS / name
    model = Artifact.read(directory)
    challenger = registration.find(dataset, model.card.content_version, directory)
    tracking.set_alias(challenger, CHALLENGER)
    now = now_us()
    splits = Splits.read(dataset, FEATURES / name)
    with tempfile.TemporaryDirectory() as folder:
        try:
            former = Artifact.read(tracking.download(champion, Path(folder) / name))
        except (PipelineError, ArtifactError) as error:
            raise LoopError(
                f"{name}: the champion, version {champion.version}, cannot be read: {error} `make train` replaces it."
            ) from error
        unfair = _unfair(dataset, model, former, challenger, champion)
        unstable = stability.measure(
            dataset,
            model.predict,
            splits.test.features,
            splits.test.target,
            evaluation.special(name).stability or evaluation.stability,
        ).excess
        newest = division.held_back.time_us >= now - int(settings.retraining.recent_days * _DAY_US)
        recent = division.held_back.take(newest.nonzero()[0])
        verdict = gate.decide(
            dataset,
            _answers(model, former, Split(recent.features, recent.target)),
            _answers(model, former, splits.test),
            settings.retraining,
            area,
        )
        if unfair or unstable:
            reason = unfair or f"The champion stays: the challenger {unstable}."
            verdict = Verdict(promoted=False, reason=reason, comparisons=verdict.comparisons)
        progress(0.7, "replay recorded traffic")
        since = max(now - int(DEFAULT_HOURS * 3_600_000_000), 0)
        replay = replaying.replay(
            dataset, Reader(engine), model.card.content_version, model, since_us=since, until_us=now, area=area
        )
    return Round(dataset, division, found, challenger, champion, verdict, replay, trigger, job)


def _unfair(
    dataset: Dataset, model: Artifact, former: Artifact, challenger: RegisteredModel, champion: RegisteredModel
) -> str:
    """Why the two cannot be compared; "" if they can."""
    if former.card.contract_version != dataset.contract_version:
        return f"The champion stays: it has another contract, so nothing can be compared. {_by_hand(challenger)}"
    if challenger.version == champion.version:
        return "The champion stays: the same model came out again."
    if tracking.was_chosen_over(champion, challenger.content_version):
        return f"The champion stays: a person chose it when the challenger was there already. {_by_hand(challenger)}"
    if former.card.data_sha256 != model.card.data_sha256:
        return (
            "The champion stays: the raw table was replaced since it was trained, so it may know rows of the test "
            f"split, and cannot be compared fairly. {_by_hand(challenger)}"
        )
    return ""


def _by_hand(challenger: RegisteredModel) -> str:
    return f"`make promote MODEL={challenger.name} VERSION={challenger.version}` deploys the challenger all the same."


def _answers(challenger: Artifact, champion: Artifact, rows: Split) -> Answers:
    # Models do not take zero rows.
    theirs, mine = (one.predict(rows.features) if len(rows.target) else rows.target for one in (champion, challenger))
    return Answers(rows.features, rows.target, theirs, mine)


def _record(one: Round) -> None:
    """Put the verdict into MLflow and into ``reports``."""
    name = one.dataset.name
    write_json(REPORTS / f"{name}.json", one.as_dict())
    page = REPORTS / f"{name}.html"
    retrain_report.write(one, page)
    measured = {}
    for comparison in one.verdict.comparisons:
        label = f"{comparison.rows.name.lower()}_{comparison.group}".replace(" ", "_").lower()
        measured[f"gate_{label}_champion"] = comparison.champion
        measured[f"gate_{label}_challenger"] = comparison.challenger
    tags = {
        GATE: "promoted" if one.verdict.promoted else "not promoted",
        GATE_REASON: one.verdict.reason,
        "trigger": one.trigger,
        "feedback_rows": str(len(one.division.train)),
    }
    tracking.log_evaluation(one.challenger, measured, [page], tags)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    Raises:
        LoopError: there is nothing to retrain with, or the pipeline failed.
        SystemExit: with the status 3, if the champion stays.
    """
    options = _parser().parse_args(arguments)
    dataset = DATASETS[options.model]
    engine = connect_ledger()
    try:
        with alone():
            one = retrain(dataset, engine, params.load(), trigger=options.trigger, job=options.job)
    except (OperationalError, InterfaceError) as error:
        raise LoopError(f"The ledger's database does not answer: {error.orig}. Check DATABASE_URL.") from error
    finally:
        engine.dispose()
    if options.result is not None:
        write_json(options.result, one.as_dict())
    print(f"\n{dataset.name}: {one.verdict.reason}")  # noqa: T201 - what the command is for
    print(f"Report: {REPORTS / dataset.name}.html, {iso(now_us())}")  # noqa: T201
    if not one.verdict.promoted:
        sys.exit(REFUSED_STATUS)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loop.retrain",
        description="Retrain a model with labelled rows of the ledger; the better model becomes champion. Run it in "
        "the project. The ledger is that of DATABASE_URL, or in STATE_DIR.",
        epilog=f"Exit status: 0 if the challenger became champion, {REFUSED_STATUS} if not, 1 for an error.",
    )
    parser.add_argument("--model", required=True, choices=list(DATASETS), help="which")
    parser.add_argument("--result", type=Path, help="file to write the figures to, as JSON")
    parser.add_argument("--trigger", choices=list(Trigger), default=Trigger.PERSON, help=argparse.SUPPRESS)
    parser.add_argument("--job", type=int, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(console.run(main))
