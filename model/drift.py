"""Drift: whether recent rows, and what the model answers to them, are distributed as in training.

Each feature and the prediction is compared with the reference of the artifact: numbers by a Kolmogorov–Smirnov test,
classes by chi-square. Refused requests are compared with a share. There is drift where a difference is certain (its
p-value, corrected for the number of tests, is below ``LEVEL``) *and* large (its effect is 1 or more): among 10,000 rows
every small difference is certain, among 50 rows chance makes large ones. docs/drift.md has the measurements.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from contract import buckets, deciles
from contract.dataset import Task
from contract.table import FloatMatrix
from model import statistics
from model.card import FeatureCard, ModelCard
from model.reference import Reference
from model.statistics import Counts, Outcome

LEVEL = 0.01
"""Probability of a false alarm among all tests of a window without drift, at most."""
MINIMUM_ROWS = 100
"""Rows below which nothing is said."""
PSI_LIMIT = 0.1
"""A population stability index that is large: Siddiqi, Credit Risk Scorecards (2006), has 0.1 to 0.25 as a minor shift
and more as a major one."""
SHIFT_LIMIT = 0.2
"""A shift of the mean that is large, in standard deviations of the training split: Cohen's "small" effect (1988)."""
REFUSED_SHARE = 0.01
"""The share of refused requests that is expected. The training data has none."""
REFUSED_LIMIT = 0.02
"""A share of refused requests that is large."""
PARTS = 24
"""A window is looked at in so many parts, at most, to find out since when."""
PREDICTION, REFUSED = "prediction", "refused"
"""The names of what is no feature."""


class Method(StrEnum):
    """How two samples are compared."""

    KOLMOGOROV_SMIRNOV = "kolmogorov_smirnov"
    CHI_SQUARE = "chi_square"
    BINOMIAL = "binomial"


class Verdict(StrEnum):
    """What is said of a window."""

    DRIFT = "drift"
    NO_DRIFT = "no drift"
    TOO_FEW_ROWS = "too few rows"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Change(_Frozen):
    """How a feature, the prediction or the share of refused requests differs from training."""

    name: str = Field(description="The feature; `prediction`; or `refused`, the share of refused requests.")
    rows: int = Field(
        description="Rows that were compared: all, or the newest quarter of a window where only that has drifted; "
        "of `refused`, requests."
    )
    drift: bool = Field(description="Whether the difference is both certain and large.")
    effect: float = Field(
        description="How large it is, in units of what counts as large: the larger of PSI / 0.1 and |shift| / 0.2; "
        "of refused requests, their share / 0.02."
    )
    test: Method = Field(description="What `statistic` and `p_value` are of.")
    statistic: float
    p_value: float = Field(description="Probability of such a statistic without drift, in this test alone.")
    adjusted_p_value: float = Field(description="By Holm's correction, for all tests of the window.")
    psi: float | None = Field(description="Population stability index, over the deciles of training or the categories.")
    shift: float | None = Field(description="Of the mean, in standard deviations of training; null for categories.")
    recent: float | None = Field(description="Mean, or share of the refused, in the window; null for categories.")
    reference: float | None = Field(description="The same in training; of the refused, the expected share.")
    recent_shares: list[float] = Field(
        description="Shares of the deciles of training, or of the categories or classes, in order; the last is of "
        "missing values, where a feature may be missing."
    )
    reference_shares: list[float]
    since: str | None = Field(
        default=None, description="Start of the part of the window in which it began; null where no part has it alone."
    )


class Part(_Frozen):
    """A part of a window: the effect of each change in it, and those that are drift there."""

    since: str
    until: str
    rows: int
    effects: dict[str, float]
    drift: list[str]


class Drift(_Frozen):
    """Recent rows compared with the reference of a model."""

    model: str
    version: str
    verdict: Verdict = Field(description="`too few rows`: nothing is said below `minimum_rows`.")
    rows: int = Field(description="Rows that were compared.")
    reference_rows: int
    minimum_rows: int = MINIMUM_ROWS
    level: float = LEVEL
    since: str | None = Field(default=None, description="Time of the first row; null for rows that were sent.")
    until: str | None = Field(default=None, description="Time of the last row.")
    changes: list[Change] = Field(description="Worst first.")
    parts: list[Part] = Field(default=[], description="The window in equal parts, oldest first.")

    @property
    def drifted(self) -> list[Change]:
        """The changes that are drift."""
        return [change for change in self.changes if change.drift]


@dataclass(frozen=True, slots=True)
class Requests:
    """Requests of a window, and how many of them were refused for what was in them."""

    total: int
    refused: int


class Detector:
    """Compares rows with the reference of one model."""

    def __init__(self, card: ModelCard, reference: Reference) -> None:
        self.card = card
        self.reference = reference
        self._features = [
            _of_feature(feature, reference.features[:, column]) for column, feature in enumerate(card.features)
        ]
        self._prediction: _Numbers | _Classes
        if card.task is Task.REGRESSION:
            outputs = reference.outputs[:, 0]
            # Not the card's: those are of the model's answers to its own training rows.
            edges = deciles.edges(outputs)
            shares = deciles.shares(edges, outputs)
            self._prediction = _Numbers(PREDICTION, outputs, edges, shares, float(outputs.std()))
        else:
            self._prediction = _Classes(PREDICTION, reference.outputs)

    def detect(
        self,
        version: str,
        features: FloatMatrix | None,
        outputs: FloatMatrix,
        requests: Requests | None = None,
    ) -> Drift:
        """Compare rows with the reference.

        Args:
            version: of the model.
            features: ``[N, F]``; None where they are not kept.
            outputs: ``[N, K]``, the model's answers to the same rows.
            requests: of the same time; None where they are not known.
        """
        return self._judged(version, len(outputs), [(features, outputs)], requests)

    def _judged(
        self,
        version: str,
        rows: int,
        samples: Sequence[tuple[FloatMatrix | None, FloatMatrix]],
        requests: Requests | None,
    ) -> Drift:
        """The verdict on samples of the same rows, of which the first has all."""
        few = rows < MINIMUM_ROWS
        changes = [] if few else self._changes(samples, requests)
        drift = any(change.drift for change in changes)
        return Drift(
            model=self.card.name,
            version=version,
            verdict=Verdict.TOO_FEW_ROWS if few else Verdict.DRIFT if drift else Verdict.NO_DRIFT,
            rows=rows,
            reference_rows=len(self.reference.target),
            changes=changes,
        )

    def _changes(
        self, samples: Sequence[tuple[FloatMatrix | None, FloatMatrix]], requests: Requests | None = None
    ) -> list[Change]:
        """One change for each name, worst first: of the samples, that in which it has drifted most."""
        found = []
        for features, outputs in samples:
            if features is not None:
                found += [one.compare(column) for one, column in zip(self._features, features.T, strict=True)]
            found.append(self._prediction.compare(outputs))
        if requests is not None and requests.total:
            found.append(_compare_refused(requests))
        worst: dict[str, Change] = {}
        for one, p_value in zip(found, statistics.holm([one["p_value"] for one in found]), strict=True):
            drift = p_value < LEVEL and one["effect"] >= 1
            former = worst.get(one["name"])
            if former is None or (drift and (not former.drift or one["effect"] > former.effect)):
                worst[one["name"]] = Change(adjusted_p_value=p_value, drift=drift, **one)
        return sorted(worst.values(), key=lambda change: (not change.drift, -change.effect))

    def detect_window(
        self,
        version: str,
        time_us: NDArray[np.int64],
        features: FloatMatrix | None,
        outputs: FloatMatrix,
        requests: Requests | None = None,
    ) -> Drift:
        """Compare rows with the reference, all of them and the newest quarter, and find out since when they differ.

        In the whole of a window, what began a while ago is diluted by what was before.

        Args:
            time_us: of each row, ascending, in microseconds since 1970, UTC: ``[N]``.
            version, features, outputs, requests: as for ``detect``.
        """
        rows = len(time_us)
        samples = [(features, outputs)]
        if rows // 4 >= MINIMUM_ROWS:
            newest = slice(rows - rows // 4, rows)
            samples.append((None if features is None else features[newest], outputs[newest]))
        drift = self._judged(version, rows, samples, requests)
        if not rows:
            return drift
        count = max(1, min(PARTS, rows // MINIMUM_ROWS))
        parts = []
        for inside in np.array_split(np.arange(rows), count):
            chosen = slice(inside[0], inside[-1] + 1)
            sample = (None if features is None else features[chosen], outputs[chosen])
            changes = [] if len(inside) < MINIMUM_ROWS else self._changes([sample])
            parts.append(
                Part(
                    since=_iso(time_us[inside[0]]),
                    until=_iso(time_us[inside[-1]]),
                    rows=len(inside),
                    effects={change.name: round(change.effect, 3) for change in changes},
                    # That something has changed is established: each test is asked for itself.
                    drift=[change.name for change in changes if change.p_value < LEVEL and change.effect >= 1],
                )
            )
        changes = [
            change.model_copy(update={"since": _begin(parts, change.name)}) if change.drift else change
            for change in drift.changes
        ]
        update = {"since": parts[0].since, "until": parts[-1].until, "changes": changes, "parts": parts}
        return drift.model_copy(update=update)


def _begin(parts: Sequence[Part], name: str) -> str | None:
    """The start of the last run of parts in which a name has drifted; one part of it may be without."""
    since, missed = None, 0
    for part in reversed(parts):
        if name in part.drift:
            since, missed = part.since, 0
        elif since is not None:
            missed += 1
            if missed > 1:
                break
    return since


def _iso(microseconds: np.int64) -> str:
    time = datetime.fromtimestamp(int(microseconds) / 1e6, UTC)
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _of_feature(feature: FeatureCard, values: FloatMatrix) -> "_Numbers | _Categories":
    if not feature.deciles:
        return _Categories(feature, values)
    return _Numbers(feature.name, values, feature.deciles, feature.decile_shares, feature.std or 0.0)


class _Numbers:
    """The reference of a column of numbers. A missing one is as if it were less than all others.

    Args:
        name: of the column.
        values: of the reference, ``[M]``.
        edges, shares: the deciles of training, and the shares of its rows in them.
        std: of the training split.
    """

    def __init__(
        self, name: str, values: FloatMatrix, edges: Sequence[float], shares: Sequence[float], std: float
    ) -> None:
        self._name = name
        self._values = _sorted(values)
        self._mean = _mean(values)
        self._edges = edges
        self._shares = shares
        self._std = std

    def compare(self, values: FloatMatrix) -> dict[str, Any]:
        """Values ``[N]`` or ``[N, 1]``, as fields of a ``Change``."""
        values = values.reshape(-1)
        outcome = statistics.kolmogorov_smirnov(_sorted(values), self._values)
        counts = buckets.recount(self._edges, len(self._shares), values)
        psi = statistics.population_stability_index(counts, self._shares)
        mean = _mean(values)
        # A constant of training has no deviation, and where all are missing there is no mean: the index tells then.
        known = self._std > 0 and mean is not None and self._mean is not None
        shift = (mean - self._mean) / self._std if known else 0.0  # type: ignore[operator]  # known
        return {
            **_tested(self._name, len(values), Method.KOLMOGOROV_SMIRNOV, outcome),
            "effect": max(psi / PSI_LIMIT, abs(shift) / SHIFT_LIMIT),
            "psi": psi,
            "shift": shift,
            "recent": mean,
            "reference": self._mean,
            "recent_shares": (counts / len(values)).tolist(),
            "reference_shares": list(self._shares),
        }


def _sorted(values: FloatMatrix) -> FloatMatrix:
    return np.sort(np.where(np.isnan(values), -np.inf, values))


def _mean(values: FloatMatrix) -> float | None:
    """Of the values that are there."""
    present = values[~np.isnan(values)]
    return float(present.mean()) if len(present) else None


class _Categories:
    """The reference of a column of flags or categories, by the buckets of the card."""

    def __init__(self, feature: FeatureCard, values: FloatMatrix) -> None:
        self._name = feature.name
        self._shares = feature.decile_shares
        self._counts = buckets.recount([], len(self._shares), values)

    def compare(self, values: FloatMatrix) -> dict[str, Any]:
        """Codes ``[N]``, as fields of a ``Change``."""
        counts = buckets.recount([], len(self._shares), values)
        return _compared(self._name, counts, self._counts, self._shares)


class _Classes:
    """The reference of predicted classes, from probabilities ``[M, C]``."""

    def __init__(self, name: str, probabilities: FloatMatrix) -> None:
        self._name = name
        self._counts = _count_classes(probabilities)

    def compare(self, probabilities: FloatMatrix) -> dict[str, Any]:
        """Probabilities ``[N, C]``, as fields of a ``Change``."""
        counts = _count_classes(probabilities)
        return _compared(self._name, counts, self._counts, (self._counts / self._counts.sum()).tolist())


def _compared(name: str, counts: Counts, reference: Counts, shares: Sequence[float]) -> dict[str, Any]:
    """Counts ``[K]`` of categories beside those of the reference sample, and the shares in training."""
    psi = statistics.population_stability_index(counts, shares)
    return {
        **_tested(name, int(counts.sum()), Method.CHI_SQUARE, statistics.chi_square(counts, reference)),
        "effect": psi / PSI_LIMIT,
        "psi": psi,
        "shift": None,
        "recent": None,
        "reference": None,
        "recent_shares": (counts / counts.sum()).tolist(),
        "reference_shares": list(shares),
    }


def _count_classes(probabilities: FloatMatrix) -> NDArray[np.intp]:
    return np.bincount(probabilities.argmax(axis=1), minlength=probabilities.shape[1])


def _compare_refused(requests: Requests) -> dict[str, Any]:
    share = requests.refused / requests.total
    p_value = statistics.binomial_tail(requests.refused, requests.total, REFUSED_SHARE)
    return {
        **_tested(REFUSED, requests.total, Method.BINOMIAL, Outcome(float(requests.refused), p_value)),
        "effect": share / REFUSED_LIMIT,
        "psi": None,
        "shift": None,
        "recent": share,
        "reference": REFUSED_SHARE,
        "recent_shares": [],
        "reference_shares": [],
    }


def _tested(name: str, rows: int, test: Method, outcome: Outcome) -> dict[str, Any]:
    return {"name": name, "rows": rows, "test": test, "statistic": outcome.statistic, "p_value": outcome.p_value}
