"""The evaluation page: one HTML file that needs no other, for people who want to judge the models."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2

from contract.dataset import Dataset
from model.card import ModelCard
from training.evaluation import scores
from training.evaluation.gate import Decision
from training.evaluation.plots import Figure
from training.evaluation.scores import ClassScore
from training.evaluation.stability import Stability
from training.tracking import RegisteredModel

_TEMPLATE = "page.html.j2"
Candidates = Mapping[str, Mapping[str, tuple[float, float]]]
"""By candidate and score, the mean over the folds and the standard deviation."""


@dataclass(frozen=True)
class Evaluation:
    """One model, judged.

    Attributes:
        card, scores, stability, figures: of the challenger, the model that was just trained.
        former, former_scores: the champion before the gate; None if there was none, or it could not be scored.
        champion, champion_scores: the champion after the gate.
        metric: the score that the gate and the choice among the candidates go by.
        baseline: the scores of an answer that ignores the features.
        classes: how well each class of a classification is told; of the challenger.
        candidates: those that it was chosen from.
    """

    dataset: Dataset
    card: ModelCard
    challenger: RegisteredModel
    scores: Mapping[str, float]
    stability: Stability
    former: RegisteredModel | None
    former_scores: Mapping[str, float] | None
    champion: RegisteredModel
    champion_scores: Mapping[str, float]
    decision: Decision
    test_rows: int
    metric: str
    baseline: Mapping[str, float]
    classes: Sequence[ClassScore] = ()
    candidates: Candidates = field(default_factory=dict)
    figures: Sequence[Figure] = ()

    @property
    def rival(self) -> Mapping[str, float] | None:
        """The scores to show beside the challenger's: those of another model that was champion."""
        another = self.former is not None and self.former.version != self.challenger.version
        return self.former_scores if another else None

    @property
    def is_naive(self) -> bool:
        """Whether the challenger is no better than the baseline."""
        mine, naive = self.scores[self.metric], self.baseline[self.metric]
        return mine >= naive if self.metric in scores.LOWER_IS_BETTER else mine <= naive


@dataclass(frozen=True)
class _ScoreRow:
    label: str
    unit: str
    meaning: str
    challenger: str
    champion: str
    change: str
    verdict: str
    cross_validated: str
    baseline: str


@dataclass(frozen=True)
class _CandidateRow:
    name: str
    chosen: bool
    scores: Sequence[str]


@dataclass(frozen=True)
class _ClassRow:
    name: str
    rows: str
    predicted: str
    precision: str
    recall: str
    f1: str


@dataclass(frozen=True)
class _StabilityRow:
    what: str
    changed: str
    limit: str
    verdict: str


def render(evaluations: Sequence[Evaluation]) -> str:
    """The page. Images are part of it; equal evaluations give equal text."""
    models = [
        {
            "evaluation": evaluation,
            "rows": [_score_row(evaluation, name) for name in evaluation.scores],
            "classes": [_class_row(one) for one in evaluation.classes],
            "candidate_scores": _candidate_scores(evaluation),
            "candidates": _candidate_rows(evaluation),
            "gate_score": scores.label(evaluation.metric),
            "stability": _stability_rows(evaluation.stability),
            "facts": _facts(evaluation),
            "figures": [(figure, data_uri(figure.image)) for figure in evaluation.figures],
        }
        for evaluation in evaluations
    ]
    return templates().get_template(_TEMPLATE).render(models=models, label=scores.label)


def templates(*folders: Path) -> jinja2.Environment:
    """The templates of pages in these folders, which may extend those of this one."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader([*folders, Path(__file__).parent]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _score_row(evaluation: Evaluation, name: str) -> _ScoreRow:
    value = evaluation.scores[name]
    champion, change, verdict = "", "", ""
    if evaluation.rival is not None:
        other = evaluation.rival[name]
        champion = _number(other)
        gain = other - value if name in scores.LOWER_IS_BETTER else value - other
        verdict = "better" if gain > 0 else "worse" if gain < 0 else "equal"
        change = f"{abs(gain) / abs(other):.2%}".replace("%", " %") if other and gain else ""
    validated = evaluation.card.cross_validation.get(name)
    return _ScoreRow(
        label=scores.label(name),
        unit=scores.unit(name, evaluation.dataset),
        meaning=scores.meaning(name),
        challenger=_number(value),
        champion=champion,
        change=change,
        verdict=verdict,
        cross_validated=_spread(validated) if validated else "",
        baseline=_number(evaluation.baseline[name]),
    )


def _spread(score: tuple[float, float]) -> str:
    return f"{_number(score[0])} ± {_number(score[1])}"


def _class_row(one: ClassScore) -> _ClassRow:
    def share(value: float | None) -> str:
        return "–" if value is None else f"{100 * value:.1f} %"

    return _ClassRow(
        one.name, f"{one.rows:,}", f"{one.predicted:,}", share(one.precision), share(one.recall), share(one.f1)
    )


def _candidate_scores(evaluation: Evaluation) -> list[str]:
    """The names of the scores of the candidates, the one that decides first."""
    names = dict.fromkeys(name for found in evaluation.candidates.values() for name in found)
    return sorted(names, key=lambda name: name != evaluation.metric)


def _candidate_rows(evaluation: Evaluation) -> list[_CandidateRow]:
    """The candidates, the best first."""
    names, metric = _candidate_scores(evaluation), evaluation.metric
    sign = 1 if metric in scores.LOWER_IS_BETTER else -1
    best_first = sorted(evaluation.candidates.items(), key=lambda one: sign * one[1][metric][0])
    return [
        _CandidateRow(name, name == evaluation.card.algorithm, [_spread(found[score]) for score in names])
        for name, found in best_first
    ]


def _stability_rows(stability: Stability) -> list[_StabilityRow]:
    params = stability.params
    changes = [("all numbers rounded to float32", stability.float32, params.float32_limit)]
    changes += [
        (f"{name} {scores.percent(params.perturbation)} larger or smaller", share, params.perturbed_limit)
        for name, share in stability.perturbed.items()
    ]
    return [
        _StabilityRow(
            what, scores.percent(share), scores.percent(limit), "over the limit" if share > limit else "within"
        )
        for what, share, limit in changes
    ]


def _facts(evaluation: Evaluation) -> list[tuple[str, str]]:
    """What the model card says, for people."""
    card = evaluation.card
    parameters = ", ".join(f"{name} = {value}" for name, value in card.parameters.items())
    return [
        ("Predicts", f"{evaluation.dataset.target.description} Unit: {card.unit}."),
        ("Algorithm", card.algorithm),
        ("Parameters", parameters or "none"),
        ("Version", card.content_version),
        ("Rows", f"{card.training_rows:,} to train, {evaluation.test_rows:,} to test"),
        ("Contract version", card.contract_version),
        (
            "ONNX against estimator",
            f"largest difference {card.onnx.max_difference:.2g}, allowed {card.onnx.tolerance:g}",
        ),
        ("Raw data (SHA-256)", card.data_sha256),
    ]


def _number(value: float) -> str:
    return f"{value:.4f}".replace("-", "−")


def data_uri(image: Path) -> str:
    """A PNG file as an address that holds it, so that a page needs no other file."""
    return f"data:image/png;base64,{base64.b64encode(image.read_bytes()).decode('ascii')}"
