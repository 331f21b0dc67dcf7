"""The gate of retraining: whether a challenger takes over, judged on recent rows and on the test split.

Both models answer the same rows, so their errors are compared row by row.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.dataset import Dataset, Task
from contract.table import FloatMatrix
from training.evaluation.scores import label, percent
from training.params import MapParams, RetrainingParams

ALL = "all"
_LEAST_PROBABILITY = 1e-15
"""As in ``ledger.quality``: a class with probability 0 costs 34.5 nats, not infinity."""


class Rows(StrEnum):
    """The rows that models are compared on."""

    RECENT = "recent rows"
    OLD = "test split"


class Finding(StrEnum):
    """The finding of a comparison about the challenger."""

    BETTER = "better"
    WITHIN = "within the tolerance"
    TOO_LITTLE = "not better by enough"
    WORSE = "worse"
    FEW_ROWS = "too few rows to say"


@dataclass(frozen=True)
class Comparison:
    """Champion and challenger on the same rows.

    Args:
        rows: which.
        group: ``all``, a class or a region.
        count: how many.
        champion, challenger: their score: the RMSE, or the log loss in nats. Less is better.
        change: how much worse the challenger is, as a share of the champion's score; negative where it is better.
        chance: probability of such an improvement if both were equally good; one-sided, of a paired test.
        limit: the largest change that is allowed.
    """

    rows: Rows
    group: str
    count: int
    champion: float
    challenger: float
    change: float
    chance: float
    limit: float
    finding: Finding


@dataclass(frozen=True)
class Verdict:
    """The gate's decision, and why, in a sentence or two."""

    promoted: bool
    reason: str
    comparisons: Sequence[Comparison] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain data; NaN and infinity become None."""
        plain = [
            {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in one}
            for one in (asdict(comparison).items() for comparison in self.comparisons)
        ]
        return {"promoted": self.promoted, "reason": self.reason, "comparisons": plain}


@dataclass(frozen=True, eq=False)
class Answers:
    """Rows with their truth, and the answers of both models.

    Args:
        features: ``[N, F]``.
        actual: ``[N]``.
        champion, challenger: ``[N]``, or probabilities ``[N, C]``.
    """

    features: FloatMatrix
    actual: FloatMatrix
    champion: FloatMatrix
    challenger: FloatMatrix


def metric(dataset: Dataset) -> str:
    """The name of the score that models are compared by."""
    return "rmse" if dataset.task is Task.REGRESSION else "log_loss"


def losses(dataset: Dataset, actual: FloatMatrix, answers: FloatMatrix) -> FloatMatrix:
    """The loss of each row, ``[N]``: the squared error; or the surprise at the true class, in nats."""
    if dataset.task is Task.REGRESSION:
        return np.asarray((answers - actual) ** 2)
    given = answers[np.arange(len(actual)), actual.astype(np.int64)]
    return np.asarray(-np.log(np.maximum(given, _LEAST_PROBABILITY)))


def total(dataset: Dataset, values: FloatMatrix) -> float:
    """The score of rows with these losses."""
    mean = float(values.mean())
    return math.sqrt(mean) if dataset.task is Task.REGRESSION else mean


def groups(
    dataset: Dataset, area: MapParams | None, features: FloatMatrix, actual: FloatMatrix
) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """The classes of rows, and their regions: to which of the places of the map each is nearest."""
    for index, name in enumerate(dataset.target.classes):
        yield name, actual == index
    if area is None:
        return
    position = features[:, [dataset.feature_names.index(name) for name in (area.latitude, area.longitude)]]
    places = np.array(list(area.places.values()))
    # A degree of longitude is shorter than one of latitude, by the cosine of the latitude.
    scale = np.array([1.0, math.cos(math.radians(float(places[:, 0].mean())))])
    distance = np.linalg.norm((position[:, None] - places[None]) * scale, axis=2)
    nearest = distance.argmin(axis=1)
    for index, name in enumerate(area.places):
        yield f"near {name}", nearest == index


def compare(
    dataset: Dataset, rows: Rows, answers: Answers, params: RetrainingParams, area: MapParams | None
) -> list[Comparison]:
    """Champion and challenger on all of some rows, then on each group of them that has any.

    Args:
        area: the map of the dataset; None without one.
    """
    theirs, mine = (losses(dataset, answers.actual, one) for one in (answers.champion, answers.challenger))
    slack = getattr(params.slack, dataset.task)
    if rows is Rows.OLD:
        first = _compare(dataset, rows, ALL, theirs, mine, params.tolerance, slack, 1)
    else:
        first = _compare(dataset, rows, ALL, theirs, mine, -params.margin, 0.0, 1, most_chance=1 - params.certainty)
    found = [first]
    for name, members in groups(dataset, area, answers.features, answers.actual):
        if members.any():
            group = params.group
            limits = group.tolerance, slack, group.minimum_rows
            found.append(_compare(dataset, rows, name, theirs[members], mine[members], *limits))
    return found


def _compare(
    dataset: Dataset,
    rows: Rows,
    group: str,
    theirs: FloatMatrix,
    mine: FloatMatrix,
    limit: float,
    slack: float,
    minimum_rows: int,
    most_chance: float | None = None,
) -> Comparison:
    """One comparison. With ``most_chance`` the challenger has to be better, without it not worse."""
    champion, challenger = total(dataset, theirs), total(dataset, mine)
    difference = challenger - champion
    change = difference / champion if champion else math.copysign(math.inf, difference) if difference else 0.0
    chance = _chance(mine - theirs)
    # Round, so that a change of exactly the limit is allowed whatever the division's last bit.
    within = round(change, 12) <= limit
    if len(mine) < minimum_rows:
        finding = Finding.FEW_ROWS
    elif most_chance is not None:
        enough = within and difference < 0 and chance <= most_chance
        finding = Finding.BETTER if enough else Finding.TOO_LITTLE if difference <= 0 else Finding.WORSE
    elif not within and difference > slack:
        finding = Finding.WORSE
    else:
        finding = Finding.BETTER if difference < 0 else Finding.WITHIN
    return Comparison(rows, group, len(mine), champion, challenger, change, chance, limit, finding)


def _chance(differences: FloatMatrix) -> float:
    """The one-sided p-value that the mean is below zero, by the normal distribution."""
    if len(differences) < 2:
        return 1.0
    error = float(differences.std(ddof=1)) / math.sqrt(len(differences))
    mean = float(differences.mean())
    if error == 0:
        return 0.0 if mean < 0 else 1.0
    return 0.5 * math.erfc(-mean / error / math.sqrt(2))


def decide(
    dataset: Dataset, recent: Answers, old: Answers, params: RetrainingParams, area: MapParams | None = None
) -> Verdict:
    """Whether the challenger takes over.

    It does if it is better on the recent rows, by ``margin`` and beyond chance, and nowhere worse by more than a
    tolerance: neither on the test split, nor in any class or region, old or recent.

    Args:
        recent: rows that neither model has learned from.
        old: the test split.
        area: the map of the dataset; None without one.
    """
    name = label(metric(dataset))
    if len(recent.actual) < params.minimum_recent_rows:
        return Verdict(
            promoted=False,
            reason=f"The champion stays: there are {len(recent.actual):,} recent rows to judge on, and "
            f"{params.minimum_recent_rows:,} are needed (retraining.minimum_recent_rows).",
            comparisons=compare(dataset, Rows.OLD, old, params, area),
        )
    comparisons = [
        *compare(dataset, Rows.RECENT, recent, params, area),
        *compare(dataset, Rows.OLD, old, params, area),
    ]
    first = comparisons[0]
    figures = f"{name} {first.challenger:.4g} against {first.champion:.4g} on {first.count:,} recent rows"
    worse = [one for one in comparisons if one.finding is Finding.WORSE and one is not first]
    reasons = []
    if first.finding is not Finding.BETTER:
        if first.change > 0:
            said = f"{percent(first.change)} worse"
        elif first.change > -params.margin:
            said = f"{percent(-first.change)} better, and {percent(params.margin)} is asked for"
        else:
            said = (
                f"{percent(-first.change)} better, which may be chance ({percent(first.chance)}; "
                f"{percent(1 - params.certainty)} is allowed)"
            )
        reasons.append(f"{figures}: {said}")
    reasons += [
        f"on the {one.rows}{'' if one.group == ALL else f', {one.group}'}, {name} {one.challenger:.4g} against "
        f"{one.champion:.4g}: {percent(one.change)} worse, {percent(one.limit)} is allowed"
        for one in worse
    ]
    if reasons:
        reason = f"The champion stays: {'; '.join(reasons)}."
        return Verdict(promoted=False, reason=reason, comparisons=comparisons)
    old_all = next(one for one in comparisons if one.rows is Rows.OLD)
    return Verdict(
        promoted=True,
        reason=f"The challenger becomes the champion: {figures}, {percent(-first.change)} better; on the test split "
        f"{old_all.challenger:.4g} against {old_all.champion:.4g}; no class or region is worse beyond its tolerance.",
        comparisons=comparisons,
    )
