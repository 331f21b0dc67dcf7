"""The gate: does a challenger take the alias ``champion``?"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from training.evaluation.scores import LOWER_IS_BETTER, label


@dataclass(frozen=True)
class Contender:
    """A registered model as the gate sees it.

    ``scores`` are on the current test split. For a champion that cannot be scored, ``unusable`` says why, as the end
    of a sentence that starts with its version: "was trained under another contract".
    """

    version: str
    scores: Mapping[str, float] = field(default_factory=dict)
    data_sha256: str = ""
    unusable: str = ""


@dataclass(frozen=True)
class Decision:
    """What the gate decided, and why, in a sentence or two.

    ``improvement`` is how much better the challenger's score is, relative to the champion's (negative: worse); None
    where nothing was compared.
    """

    promoted: bool
    reason: str
    improvement: float | None = None


def decide(challenger: Contender, champion: Contender | None, *, metric: str, margin: float) -> Decision:
    """Whether the challenger becomes the champion.

    It does when there is none, when the champion cannot be used any more, or when its score on the same test split is
    better by at least ``margin`` of the champion's. An equal model does not: a change of champion has a price (a
    deployment, new baselines to watch drift from), so it must buy something.

    Args:
        challenger: the model that was just trained.
        champion: the registry's champion, if it has one.
        metric: the score that is compared.
        margin: the smallest relative improvement that is enough, 0.01 for 1 %.
    """
    new, old = f"version {challenger.version}", f"version {champion.version}" if champion else ""
    if champion is None:
        return Decision(promoted=True, reason=f"{new.capitalize()} becomes the champion: there was none.")
    if champion.version == challenger.version:
        return Decision(
            promoted=False, reason=f"{new.capitalize()} stays the champion: it is the model that was evaluated."
        )
    if champion.unusable:
        return Decision(promoted=True, reason=f"{new.capitalize()} becomes the champion: {old} {champion.unusable}.")
    mine, theirs = challenger.scores[metric], champion.scores[metric]
    improvement = _improvement(mine, theirs, lower_is_better=metric in LOWER_IS_BETTER)
    # Rounded, so that exactly the margin is enough whatever the last bit of the division says.
    promoted = improvement > 0 and round(improvement, 12) >= margin
    verdict = f"{new} becomes the champion" if promoted else f"{old} stays the champion, {new} does not replace it"
    reason = f"{verdict.capitalize()}: on the test split its {label(metric)} is {mine:.4g} against {theirs:.4g}"
    if improvement == 0:
        reason += f", no better, and {_percent(margin)} better was asked for."
    elif improvement < 0:
        reason += f", {_percent(-improvement)} worse."
    elif promoted:
        reason += f", {_percent(improvement)} better; {_percent(margin)} was asked for."
    else:
        reason += f", only {_percent(improvement)} better; {_percent(margin)} was asked for."
    if challenger.data_sha256 != champion.data_sha256:
        reason += f" The raw data changed since {old} was trained: it may know rows of this split, which favours it."
    return Decision(promoted, reason, improvement)


def _improvement(challenger: float, champion: float, *, lower_is_better: bool) -> float:
    gain = champion - challenger if lower_is_better else challenger - champion
    if champion == 0:  # nothing is better than no error; from a score of nothing any gain is boundless
        return 0.0 if gain == 0 else float("inf") if gain > 0 else float("-inf")
    return gain / abs(champion)


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
