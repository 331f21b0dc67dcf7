"""The gate decides whether a challenger becomes the champion."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from training.evaluation.scores import LOWER_IS_BETTER, label, percent


@dataclass(frozen=True)
class Contender:
    """A registered model that the gate compares.

    ``scores`` are on the current test split. ``unusable`` says why a model must not be deployed, as the end of a
    sentence that starts with its version: "was trained under another contract". It is empty for a usable model.
    ``feedback_rows`` are rows of the ledger that it was trained on.
    """

    version: str
    scores: Mapping[str, float] = field(default_factory=dict)
    data_sha256: str = ""
    unusable: str = ""
    feedback_rows: int = 0


@dataclass(frozen=True)
class Decision:
    """What the gate decided, and why, in a sentence or two.

    ``improvement`` is how much better the challenger's score is, relative to the champion's (negative: worse); None
    if nothing was compared. ``deployable`` is False if neither model may be deployed.
    """

    promoted: bool
    reason: str
    improvement: float | None = None
    deployable: bool = True


def decide(
    challenger: Contender, champion: Contender | None, *, metric: str, margin: float, name: str, chosen: bool = False
) -> Decision:
    """Decide whether the challenger becomes the champion.

    It does if there is no champion, if the champion is unusable, or if its score on the same test split is better by at
    least ``margin`` of the champion's. An equal model does not: changing the champion costs a deployment and new
    baselines for drift. A challenger that is unusable never does. What a person has chosen stays until a model is
    trained that was not there to be chosen.

    Args:
        challenger: the model that was just trained.
        champion: the registry's champion, if it has one.
        metric: the score that is compared.
        margin: the smallest relative improvement that is enough, 0.01 for 1 %.
        name: of the model.
        chosen: a person made the champion what it is when the challenger was there already.
    """
    new, old = f"version {challenger.version}", f"version {champion.version}" if champion else ""
    if challenger.unusable:
        if champion is None or champion.unusable or champion.version == challenger.version:
            return Decision(
                promoted=False,
                reason=f"{new.capitalize()} {challenger.unusable}. No other model can be deployed.",
                deployable=False,
            )
        return Decision(promoted=False, reason=f"{old.capitalize()} stays the champion: {new} {challenger.unusable}.")
    if champion is None:
        return Decision(promoted=True, reason=f"{new.capitalize()} becomes the champion: there was none.")
    if champion.version == challenger.version:
        return Decision(
            promoted=False, reason=f"{new.capitalize()} stays the champion: it is the model that was evaluated."
        )
    if champion.unusable:
        return Decision(promoted=True, reason=f"{new.capitalize()} becomes the champion: {old} {champion.unusable}.")
    if challenger.feedback_rows:
        return Decision(
            promoted=False,
            reason=f"{old.capitalize()} stays the champion: {new} has learned from {challenger.feedback_rows:,} rows "
            "of the ledger, and is judged on recent rows too, by `python -m loop.retrain`.",
        )
    if chosen:
        return Decision(
            promoted=False,
            reason=f"{old.capitalize()} stays the champion: a person chose it when {new} was there already.",
        )
    mine, theirs = challenger.scores[metric], champion.scores[metric]
    improvement = _improvement(mine, theirs, lower_is_better=metric in LOWER_IS_BETTER)
    # Rounded: an improvement of exactly the margin is enough, whatever the last bit of the division.
    promoted = improvement > 0 and round(improvement, 12) >= margin
    verdict = f"{new} becomes the champion" if promoted else f"{old} stays the champion, {new} does not replace it"
    reason = f"{verdict.capitalize()}: on the test split its {label(metric)} is {mine:.4g} against {theirs:.4g}"
    if improvement == 0:
        reason += f", no better, and {percent(margin)} better was asked for."
    elif improvement < 0:
        reason += f", {percent(-improvement)} worse."
    elif promoted:
        reason += f", {percent(improvement)} better; {percent(margin)} was asked for."
    else:
        reason += f", only {percent(improvement)} better; {percent(margin)} was asked for."
    if challenger.data_sha256 != champion.data_sha256:
        reason += f" The raw data changed since {old} was trained: it may have been trained on rows of this split."
        if not promoted:
            reason += (
                " So the two cannot be compared fairly. If the new data shall count, "
                f"`make promote MODEL={name} VERSION={challenger.version}` makes {new} the champion."
            )
    return Decision(promoted, reason, improvement)


def _improvement(challenger: float, champion: float, *, lower_is_better: bool) -> float:
    gain = champion - challenger if lower_is_better else challenger - champion
    if champion == 0:  # a relative improvement over zero is infinite
        return 0.0 if gain == 0 else float("inf") if gain > 0 else float("-inf")
    return gain / abs(champion)
