"""Replay: recorded traffic through another model: ``python -m loop.replay --model housing@challenger --hours 24``.

Tells how its answers differ from those that were given, by class and region and in the worst cases, how good both are
where the truth is known, and how long it takes. Writes ``reports/replay/{model}.html`` and ``.json``. The service is
not involved.
"""

import argparse
import sys
import tempfile
import time
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.exc import InterfaceError, OperationalError

from contract import DATASETS
from contract.dataset import Dataset, Task
from contract.feature import Value
from contract.table import FloatMatrix
from ledger.reader import Reader, Rows
from ledger.times import iso, now_us
from loop import gate
from loop.deployed import connect_ledger
from loop.drift import DEFAULT_HOURS, hours_of
from loop.errors import LoopError
from loop.labelled import hold_the_contract
from model.session import Artifact
from training import console, params, tracking
from training.errors import PipelineError
from training.evaluation.scores import label
from training.files import write_json
from training.params import MapParams
from training.tracking import CHALLENGER, RegisteredModel

REPORTS = Path("reports/replay")
MAXIMUM_ROWS = 100_000
WORST_CASES = 20
TIMED_ROWS = 500
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
CHANGED = 0.2
"""Relative difference from which a number counts as another answer; for classes, any other class does."""
_HOUR_US = 3600 * 1_000_000


@dataclass(frozen=True)
class Group:
    """How answers differ in all rows, a class or a region.

    Args:
        mean, mean_absolute: of the difference: new minus recorded value; of classes, of the probability of the class
            that was recorded.
        changed: share of the rows with another answer.
    """

    name: str
    rows: int
    mean: float
    mean_absolute: float
    changed: float


@dataclass(frozen=True)
class Case:
    """A row with one of the largest differences."""

    prediction_id: str
    row: int
    time: str
    features: dict[str, Value]
    recorded: float | str
    new: float | str
    difference: float
    actual: float | str | None


@dataclass(frozen=True)
class Truth:
    """Rows whose truth is known, and the score of both answers: the RMSE, or the log loss in nats."""

    rows: int
    recorded: float | None
    new: float | None


@dataclass(frozen=True, eq=False)
class Replay:
    """What a replay has found.

    Args:
        versions: rows by the version that had answered them.
        refused: rows that the contract of today refuses, or whose features are not kept.
        differences: of each row, ``[N]``.
        quantiles: of the differences, by share.
        groups: all rows first.
        row_ms, thousand_ms: how long one row takes alone, by quantile, and how long a thousand rows together, in ms.
    """

    model: str
    version: str
    since: str
    until: str
    rows: int
    refused: int
    versions: dict[str, int]
    differences: FloatMatrix
    quantiles: dict[str, float]
    groups: list[Group]
    worst: list[Case]
    truth: Truth
    row_ms: dict[str, float]
    thousand_ms: float

    def as_dict(self) -> dict[str, Any]:
        """Plain data, without the differences of each row."""
        return {name: value for name, value in asdict(self).items() if name != "differences"}


def replay(
    dataset: Dataset,
    reader: Reader,
    version: str,
    artifact: Artifact,
    *,
    since_us: int,
    until_us: int,
    area: MapParams | None = None,
) -> Replay | None:
    """Run the recorded rows of a window through a model. Of more than ``MAXIMUM_ROWS``, the newest.

    Args:
        version, artifact: of the model.
        area: the map of the dataset; None without one.

    Returns:
        None if no row is on record.

    Raises:
        sqlalchemy.exc.DBAPIError: the database is away.
    """
    chunks: defaultdict[str, deque[tuple[Rows, NDArray[np.intp]]]] = defaultdict(deque)
    counts: defaultdict[str, int] = defaultdict(int)
    refused = 0
    for chunk in reader.rows_for(dataset.name, since_us=since_us, until_us=until_us):
        if not chunk.model.has_features_of(dataset):
            refused += len(chunk)
            continue
        good = hold_the_contract(dataset, chunk.features)
        refused += int((~good).sum())
        kept = np.flatnonzero(good)
        name = chunk.model.version
        chunks[name].append((chunk, kept))
        counts[name] += len(kept)
        # Rows of each version come in order of time: drop the first ones.
        while counts[name] - len(chunks[name][0][1]) >= MAXIMUM_ROWS:
            counts[name] -= len(chunks[name].popleft()[1])
    chosen = [(chunk, int(row)) for parts in chunks.values() for chunk, kept in parts for row in kept]
    chosen.sort(key=lambda one: int(one[0].time_us[one[1]]))
    chosen = chosen[-MAXIMUM_ROWS:]
    if not chosen:
        return None
    features = np.array([chunk.features[row] for chunk, row in chosen])
    recorded = np.array([chunk.outputs[row] for chunk, row in chosen])
    actual = np.array([chunk.actuals[row] for chunk, row in chosen])
    new = artifact.outputs(features)
    differences, changed, said = _differences(dataset, recorded, new)
    members = [(gate.ALL, np.ones(len(chosen), dtype=np.bool_))]
    members += gate.groups(dataset, area, features, said)
    found = [
        Group(
            name,
            int(inside.sum()),
            float(differences[inside].mean()),
            float(np.abs(differences[inside]).mean()),
            float(changed[inside].mean()),
        )
        for name, inside in members
        if inside.any()
    ]
    versions: dict[str, int] = {}
    for chunk, _ in chosen:
        versions[chunk.model.version] = versions.get(chunk.model.version, 0) + 1
    worst = [
        Case(
            chosen[row][0].ids[chosen[row][1]],
            int(chosen[row][0].index[chosen[row][1]]),
            iso(int(chosen[row][0].time_us[chosen[row][1]])),
            dataset.decode(features[row].tolist()),
            _answer(dataset, recorded[row]),
            _answer(dataset, new[row]),
            float(differences[row]),
            _truth(dataset, float(actual[row])),
        )
        for row in np.argsort(-np.abs(differences), kind="stable")[:WORST_CASES].tolist()
    ]
    row_ms, thousand_ms = _time(artifact, features)
    return Replay(
        dataset.name,
        version,
        iso(since_us),
        iso(until_us),
        len(chosen),
        refused,
        versions,
        differences,
        {f"{share:g}": float(np.quantile(differences, share)) for share in QUANTILES},
        found,
        worst,
        _quality(dataset, actual, recorded, new),
        row_ms,
        thousand_ms,
    )


def _differences(
    dataset: Dataset, recorded: FloatMatrix, new: FloatMatrix
) -> tuple[FloatMatrix, NDArray[np.bool_], FloatMatrix]:
    """Of each row: the difference, whether the answer is another one, and the recorded value or index of the class."""
    if dataset.task is Task.REGRESSION:
        difference = (new - recorded)[:, 0]
        said = recorded[:, 0]
        return difference, np.abs(difference) > CHANGED * np.abs(said), said
    said = recorded.argmax(axis=1)
    rows = np.arange(len(said))
    return new[rows, said] - recorded[rows, said], new.argmax(axis=1) != said, said.astype(np.float64)


def _quality(dataset: Dataset, actual: FloatMatrix, recorded: FloatMatrix, new: FloatMatrix) -> Truth:
    known = np.isfinite(actual)
    if not known.any():
        return Truth(0, None, None)
    scores = []
    for answers in (recorded, new):
        form = answers[:, 0] if dataset.task is Task.REGRESSION else answers
        scores.append(gate.total(dataset, gate.losses(dataset, actual[known], form[known])))
    return Truth(int(known.sum()), *scores)


def _answer(dataset: Dataset, output: FloatMatrix) -> float | str:
    return float(output[0]) if dataset.task is Task.REGRESSION else dataset.target.classes[int(output.argmax())]


def _truth(dataset: Dataset, actual: float) -> float | str | None:
    if not np.isfinite(actual):
        return None
    return actual if dataset.task is Task.REGRESSION else dataset.target.classes[int(actual)]


def _time(artifact: Artifact, features: FloatMatrix) -> tuple[dict[str, float], float]:
    seconds = []
    for row in features[:TIMED_ROWS]:
        started = time.perf_counter()
        artifact.outputs(row[None])
        seconds.append(time.perf_counter() - started)
    thousand = np.resize(features, (1000, features.shape[1]))
    started = time.perf_counter()
    artifact.outputs(thousand)
    together = time.perf_counter() - started
    return {f"{share:g}": float(np.quantile(seconds, share)) * 1000 for share in (0.5, 0.95, 0.99)}, together * 1000


def resolve(text: str) -> tuple[Dataset, RegisteredModel]:
    """The registered model that a text names: ``housing@challenger``, ``housing/8``; ``housing`` is its challenger.

    Raises:
        LoopError: there is no such model, alias or version.
    """
    name, separator, which = text.partition("@" if "@" in text else "/")
    if name not in DATASETS:
        raise LoopError(f"--model: there is no model {name!r}; there is {', '.join(DATASETS)}.")
    try:
        found = tracking.get(name, which) if separator == "/" else tracking.by_alias(name, which or CHALLENGER)
    except PipelineError as error:
        raise LoopError(f"--model: {error}") from error
    if found is None:
        raise LoopError(
            f"--model: {name} has no alias {which or CHALLENGER!r} in the MLflow registry. Retrain it with `python -m "
            f"loop.retrain --model {name}`, or name a version, as in {name}/8."
        )
    return DATASETS[name], found


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    Raises:
        LoopError: there is no such model, no ledger or no row.
    """
    options = _parser().parse_args(arguments)
    dataset, registered = resolve(options.model)
    area = params.load().model_evaluation.special(dataset.name).map
    engine = connect_ledger()
    now = now_us()
    with tempfile.TemporaryDirectory() as folder:
        with console.step(f"{dataset.name}: fetch version {registered.version}"):
            artifact = Artifact.read(tracking.download(registered, Path(folder) / dataset.name))
        artifact.card.check(dataset)
        with console.step(f"{dataset.name}: replay the last {options.hours:g} hours"):
            since = now - int(options.hours * _HOUR_US)
            version = registered.content_version
            try:
                found = replay(
                    dataset, Reader(engine), version, artifact, since_us=max(since, 0), until_us=now, area=area
                )
            except (OperationalError, InterfaceError) as error:
                raise LoopError(f"The ledger's database does not answer: {error.orig}. Check DATABASE_URL.") from error
    engine.dispose()
    if found is None:
        raise LoopError(f"The ledger has no row of {dataset.name} in the last {options.hours:g} hours: ask for more.")
    from loop import retrain_report

    write_json(REPORTS / f"{dataset.name}.json", found.as_dict())
    retrain_report.write_replay(dataset, found, REPORTS / f"{dataset.name}.html")
    print(summary(dataset, found))  # noqa: T201 - what the command is for
    print(f"Report: {REPORTS / dataset.name}.html")  # noqa: T201


def summary(dataset: Dataset, found: Replay) -> str:
    """A few lines."""
    every = found.groups[0]
    unit = dataset.target.unit if dataset.task is Task.REGRESSION else "of a probability"
    lines = [
        f"{found.model} {found.version}: {found.rows:,} recorded rows; {every.changed:.1%} have another answer; "
        f"the difference is {every.mean:+.4g} on average, {every.mean_absolute:.4g} without its sign ({unit})."
    ]
    if found.truth.rows:
        lines.append(
            f"Where the truth is known ({found.truth.rows:,} rows), {label(gate.metric(dataset))}: "
            f"{found.truth.new:.4g}, of the recorded answers {found.truth.recorded:.4g}."
        )
    lines.append(f"A row takes {found.row_ms['0.5']:.3f} ms (p50), {found.row_ms['0.99']:.3f} ms (p99).")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loop.replay",
        description="Run recorded traffic through another model. The ledger is that of DATABASE_URL, or in STATE_DIR.",
    )
    parser.add_argument("--model", required=True, help="housing@challenger, housing@previous, housing/8")
    parser.add_argument(
        "--hours", type=hours_of, default=DEFAULT_HOURS, help=f"of the last so many hours ({DEFAULT_HOURS:g})"
    )
    return parser


if __name__ == "__main__":
    sys.exit(console.run(main))
