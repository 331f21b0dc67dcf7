"""The reports on retraining and replay: self-contained HTML files."""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure as Canvas

from contract.dataset import Dataset, Task
from contract.feature import MISSING, Value
from loop.gate import Comparison, Finding, Rows, Verdict, metric
from loop.replay import Case, Replay
from training.evaluation import page
from training.evaluation.plots import BLUE, GREY, INK, ORANGE, canvas
from training.evaluation.scores import percent, with_unit
from training.files import write_text

if TYPE_CHECKING:
    from loop.retrain import Round

_TEMPLATE = "retrain_report.html.j2"
_BINS = 60


@dataclass(frozen=True)
class _Table:
    """A table of the page: its heading, what it says, its columns and its lines."""

    title: str
    text: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class _Picture:
    """A picture of the page: its heading, the image as a data URI, and what it shows."""

    title: str
    source: str
    alt: str
    shows: str


def write(one: "Round", path: Path) -> None:
    """Write the report on a retraining."""
    dataset, division = one.dataset, one.division
    facts = [
        ("Challenger", f"version {one.challenger.version} of the registry, {one.challenger.content_version}"),
        ("Champion", f"version {one.champion.version} of the registry, {one.champion.content_version}"),
        ("Trigger", one.trigger if one.job is None else f"{one.trigger}, job {one.job}"),
        ("Labelled rows of the ledger", f"{one.found.found:,}, of which {len(one.found):,} differ and can be used"),
        ("Trained on, beside the raw table", f"{len(division.train):,}"),
        ("Held back to judge on", f"{len(division.held_back):,}"),
        ("Left out", f"{division.in_test:,} rows of the test split, {division.in_training:,} known already"),
    ]
    tables = [_comparisons(dataset, rows, one.verdict) for rows in Rows]
    pictures = [_changes(dataset, one.verdict.comparisons)] if one.verdict.comparisons else []
    if one.replay is not None:
        facts += _replay_facts(dataset, one.replay)
        tables += _replay_tables(dataset, one.replay)
        pictures += list(_replay_pictures(dataset, one.replay))
    _write(
        path,
        title=f"Retraining of {dataset.name}",
        subtitle="The challenger and the champion on the same rows, which neither has learned from.",
        verdict=one.verdict,
        facts=facts,
        tables=[table for table in tables if table.rows],
        pictures=pictures,
    )


def write_replay(dataset: Dataset, found: Replay, path: Path) -> None:
    """Write the report on a replay."""
    _write(
        path,
        title=f"Replay of {dataset.name}",
        subtitle="Recorded traffic through another model.",
        verdict=None,
        facts=[("Model", f"{found.model}, version {found.version}"), *_replay_facts(dataset, found)],
        tables=_replay_tables(dataset, found),
        pictures=list(_replay_pictures(dataset, found)),
    )


def _write(path: Path, **content: Any) -> None:
    write_text(path, page.templates(Path(__file__).parent).get_template(_TEMPLATE).render(**content))


def _comparisons(dataset: Dataset, rows: Rows, verdict: Verdict) -> _Table:
    wanted = (
        "The challenger has to be better on all of them, beyond chance. In no class or region may it"
        if rows is Rows.RECENT
        else "Neither on all of them nor in a class or region may the challenger"
    )
    name = with_unit(metric(dataset), dataset)
    return _Table(
        f"On the {rows}",
        f"{name[0].upper()}{name[1:]}: less is better. {wanted} be worse by more than is allowed.",
        ("Rows of", "Rows", "Champion", "Challenger", "Change", "Allowed", "May be chance", "Finding"),
        [
            (
                one.group,
                f"{one.count:,}",
                f"{one.champion:.4f}",
                f"{one.challenger:.4f}",
                _signed(one.change),
                _signed(one.limit),
                f"{one.chance:.3f}",
                str(one.finding),
            )
            for one in verdict.comparisons
            if one.rows is rows
        ],
    )


def _replay_facts(dataset: Dataset, found: Replay) -> list[tuple[str, str]]:
    truth = found.truth
    versions = ", ".join(f"{count:,} by {version}" for version, count in sorted(found.versions.items()))
    facts = [
        ("Replayed", f"{found.rows:,} rows of {found.since[:16]} to {found.until[:16]} UTC, answered {versions}"),
        ("Not replayed", f"{found.refused:,} rows that the contract refuses, or whose features are not kept"),
        (
            "Latency of the model alone",
            f"one row {found.row_ms['0.5']:.3f} ms (p50), {found.row_ms['0.95']:.3f} ms (p95), "
            f"{found.row_ms['0.99']:.3f} ms (p99); 1,000 rows together {found.thousand_ms:.1f} ms",
        ),
    ]
    if truth.rows:
        facts.append(
            (
                "Where the truth is known",
                f"{with_unit(metric(dataset), dataset)} {truth.new:.4f}, of the recorded answers {truth.recorded:.4f}, "
                f"on {truth.rows:,} rows; the model may have learned from some of them",
            )
        )
    return facts


def _replay_tables(dataset: Dataset, found: Replay) -> list[_Table]:
    what = "value" if dataset.task is Task.REGRESSION else "probability of the class that was answered"
    changed = "differs by more than a fifth" if dataset.task is Task.REGRESSION else "is another class"
    return [
        _Table(
            "Replay: differences by class and region",
            f"Difference of the {what}: new minus recorded. Changed: the answer {changed}.",
            ("Rows of", "Rows", "Mean", "Mean without sign", "Changed"),
            [
                (one.name, f"{one.rows:,}", _number(one.mean), f"{one.mean_absolute:.4g}", percent(one.changed))
                for one in found.groups
            ],
        ),
        _Table(
            "Replay: the largest differences",
            "By prediction id and row; GET /logs/recent has the rest.",
            ("Prediction", "Recorded", "New", "Difference", "Truth", *dataset.feature_names),
            [_case(one) for one in found.worst],
        ),
    ]


def _case(one: Case) -> tuple[str, ...]:
    return (
        f"{one.prediction_id} [{one.row}]",
        _value(one.recorded),
        _value(one.new),
        _number(one.difference),
        "" if one.actual is None else _value(one.actual),
        *map(_feature, one.features.values()),
    )


def _feature(value: Value) -> str:
    if value is None:
        return MISSING
    return f"{value:g}" if isinstance(value, float) else str(value)


def _changes(dataset: Dataset, comparisons: Sequence[Comparison]) -> _Picture:
    """Champion and challenger by group, as bars."""
    shown = [one for one in comparisons if one.finding is not Finding.FEW_ROWS]
    names = [f"{one.group}, {one.rows}" for one in shown]
    place = np.arange(len(shown))[::-1]

    def draw(figure: Canvas) -> None:
        axes = figure.add_subplot()
        axes.barh(place + 0.19, [one.champion for one in shown], 0.36, color=GREY, label="champion")
        axes.barh(place - 0.19, [one.challenger for one in shown], 0.36, color=BLUE, label="challenger")
        axes.set_yticks(place, names)
        axes.set_xlabel(with_unit(metric(dataset), dataset))
        axes.set_title(f"{dataset.name}: champion and challenger on the same rows")
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))

    return _Picture(
        "Champion and challenger",
        _image(draw, 1.2 + 0.36 * len(shown)),
        f"Bars of both models' {metric(dataset)} on {len(shown)} groups of rows.",
        "Shorter bars are better. Groups with too few rows are left out.",
    )


def _replay_pictures(dataset: Dataset, found: Replay) -> Iterator[_Picture]:
    unit = dataset.target.unit if dataset.task is Task.REGRESSION else "probability of the class that was answered"
    low, high = np.quantile(found.differences, [0.005, 0.995])

    def histogram(figure: Canvas) -> None:
        axes = figure.add_subplot()
        axes.hist(np.clip(found.differences, low, high), bins=_BINS, color=BLUE, alpha=0.55)
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.axvline(float(found.differences.mean()), color=ORANGE, linewidth=1.6, label="mean")
        axes.set_xlabel(f"new − recorded ({unit})")
        axes.set_ylabel("rows")
        axes.set_title(f"{dataset.name}: differences of {found.rows:,} replayed rows")
        axes.legend()

    yield _Picture(
        "Replay: distribution of the differences",
        _image(histogram, 3.4),
        f"Histogram of the differences of {found.rows:,} rows.",
        "New answer minus recorded one. The ends hold what is beyond the 0.5 % and 99.5 % quantiles.",
    )
    if len(found.groups) > 1:
        groups = found.groups[1:]

        def by_group(figure: Canvas) -> None:
            axes = figure.add_subplot()
            axes.barh([one.name for one in groups][::-1], [one.mean for one in groups][::-1], color=BLUE, alpha=0.55)
            axes.axvline(0, color=INK, linewidth=0.8)
            axes.set_xlabel(f"mean of new − recorded ({unit})")
            axes.set_title(f"{dataset.name}: differences by class and region")

        yield _Picture(
            "Replay: differences by class and region",
            _image(by_group, 1.2 + 0.36 * len(groups)),
            f"Bars of the mean difference of {len(groups)} groups.",
            "Right of zero the new model answers more than was answered, left of it less.",
        )


def _image(draw: Any, height: float) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture.png"
        with canvas(path, height) as figure:
            draw(figure)
        return page.data_uri(path)


def _signed(share: float) -> str:
    return f"{share:+.2%}".replace("%", " %").replace("-", "−")


def _number(value: float) -> str:
    return f"{value:+.4g}".replace("-", "−")


def _value(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}".replace("-", "−")
