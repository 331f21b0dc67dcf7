"""Measures what the search for drift finds, and its false alarms: ``python -m loop.drift_power``.

Draws windows of rows, without drift and with drift of known kinds, and counts alarms. It needs the output of the
pipeline (``data/features``, ``models``). With ``--publish`` the tables of docs/drift.md are written; it takes some
minutes then, and less with fewer ``--windows``.
"""

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from contract.dataset import Dataset
from contract.datasets.housing import HOUSING
from contract.datasets.iris import IRIS
from contract.table import FloatMatrix
from model.drift import LEVEL, Detector, Drift
from model.reference import Reference
from model.session import Artifact
from training import console
from training.files import write_text
from training.splits import Splits

PAGE = Path("docs/drift.md")
FEATURES, MODELS = Path("data/features"), Path("models")
WINDOWS = 1000
WINDOW_ROWS = 500
SHIFTS = (0.1, 0.2, 0.3, 0.5)
"""Sizes of the shifts, in standard deviations of the training split."""
SHIFTED_WINDOWS = 10
"""Each shift of each feature is drawn in this many times fewer windows."""
SIZES = (100, 500, 2000, 10_000)
TRACED_ROWS = 2000
_HOUR_US = 3_600_000_000


@dataclass(frozen=True, eq=False)
class Bench:
    """A detector, and rows without drift to draw windows from, with the model's answers."""

    dataset: Dataset
    detector: Detector
    features: FloatMatrix
    outputs: FloatMatrix

    @classmethod
    def read(cls, dataset: Dataset, models: Path = MODELS, features: Path = FEATURES) -> "Bench":
        """The model that the pipeline has trained, and rows distributed like its training rows: the test split, or for
        Iris all rows, since 30 rows drawn again and again would differ from training by chance.
        """
        artifact = Artifact.read(models / dataset.name)
        splits = Splits.read(dataset, features / dataset.name)
        rows = (splits.test if dataset is HOUSING else splits.all).features
        detector = Detector(artifact.card, Reference.read(artifact.directory, artifact.card))
        return cls(dataset, detector, rows, artifact.outputs(rows))

    def windows(
        self, count: int, rows: int, *, seed: int, chosen: Sequence[int] | None = None
    ) -> Iterator[tuple[FloatMatrix, FloatMatrix]]:
        """Rows and answers of windows, drawn without replacement, if there are so many rows.

        Args:
            chosen: draw among these rows.
        """
        draws = np.random.default_rng(seed)
        pool = np.arange(len(self.features)) if chosen is None else np.asarray(chosen)
        for _ in range(count):
            picked = draws.choice(pool, rows, replace=rows > len(pool))
            yield self.features[picked], self.outputs[picked]

    def alarms(self, count: int, rows: int, *, seed: int) -> tuple[float, float]:
        """Shares of windows without drift in which a difference is certain, and that raise an alarm."""
        found = [self.detect(*window) for window in self.windows(count, rows, seed=seed)]
        certain = [any(change.adjusted_p_value < LEVEL for change in drift.changes) for drift in found]
        return float(np.mean(certain)), float(np.mean([bool(drift.drifted) for drift in found]))

    def window_alarms(self, count: int, rows: int, *, seed: int) -> float:
        """Share of windows without drift that raise an alarm if their newest quarter is compared too."""
        times = np.arange(rows, dtype=np.int64) * _HOUR_US
        found = (self.detector.detect_window("", times, *window) for window in self.windows(count, rows, seed=seed))
        return float(np.mean([bool(drift.drifted) for drift in found]))

    def detect(self, features: FloatMatrix, outputs: FloatMatrix) -> Drift:
        """The drift of a window."""
        return self.detector.detect("", features, outputs)

    def found(self, name: str, shift: float, count: int, rows: int, *, seed: int) -> float:
        """Share of windows in which a shift of one feature is found, and named.

        Args:
            shift: in standard deviations of the training split. The answers stay as they are: only the feature tells.
        """
        column = self.dataset.feature_names.index(name)
        std = self.detector.card.features[column].std or 0.0
        named = []
        for features, outputs in self.windows(count, rows, seed=seed):
            features[:, column] += shift * std
            named.append(name in [change.name for change in self.detect(features, outputs).drifted])
        return float(np.mean(named))

    def inland(self, count: int, rows: int, *, seed: int) -> float:
        """Share of windows of inland districts alone that raise an alarm."""
        columns = [self.dataset.feature_names.index(name) for name in ("Longitude", "Latitude")]
        longitude, latitude = self.features[:, columns].T
        chosen = np.flatnonzero((longitude > -121) & (latitude > 35)).tolist()
        drawn = self.windows(count, rows, seed=seed, chosen=chosen)
        return float(np.mean([bool(self.detect(*window).drifted) for window in drawn]))


def measure(benches: Sequence[Bench], windows: int) -> dict[str, str]:
    """The tables of the page by name, in Markdown.

    Args:
        windows: of each line without drift; shifts get a tenth.
    """
    with console.step(f"Windows without drift: {windows}"):
        alarms = _alarms(benches, windows)
    with console.step(f"Shifted features: {max(windows // SHIFTED_WINDOWS, 1)} windows each"):
        power = _power(benches, windows)
    with console.step(f"Inland districts alone: {windows} windows"):
        (housing,) = [bench for bench in benches if bench.dataset is HOUSING]
        found = _share(housing.inland(windows, WINDOW_ROWS, seed=7))
        inland = (
            f"Of {windows:,} windows of {WINDOW_ROWS} rows of inland districts alone (east of 121° W, north of 35° N; "
            f"as in the integration test of the monitoring), {found} raise an alarm."
        )
    return {"alarms": alarms, "power": power, "inland": inland}


def _alarms(benches: Sequence[Bench], windows: int) -> str:
    lines = []
    for bench in benches:
        for rows in SIZES:
            certain, alarms = bench.alarms(windows, rows, seed=rows)
            lines.append([bench.dataset.name, f"{rows:,}", _share(certain), _share(alarms)])
        traced = bench.window_alarms(windows, TRACED_ROWS, seed=1)
        lines.append([bench.dataset.name, f"{TRACED_ROWS:,} and their newest quarter", "", _share(traced)])
    return _table(["model", "rows of a window", f"certain: p < {LEVEL:g}", "certain and large: alarm"], lines)


def _power(benches: Sequence[Bench], windows: int) -> str:
    count = max(windows // SHIFTED_WINDOWS, 1)
    lines = []
    for bench in benches:
        for name in bench.dataset.feature_names:
            found = [bench.found(name, shift, count, WINDOW_ROWS, seed=7) for shift in SHIFTS]
            lines.append([bench.dataset.name, name, *map(_share, found)])
    return _table(["model", "shifted feature", *(f"{shift:g} sd" for shift in SHIFTS)], lines)


def _share(share: float) -> str:
    return f"{share:.1%}".replace("%", " %")


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *lines))


def publish(tables: dict[str, str], path: Path) -> None:
    """Put each table between its marks in the page."""
    text = path.read_text(encoding="utf-8")
    for name, content in tables.items():
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}\n{content}\n{end}{rest.partition(end)[2]}"
    write_text(path, text)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print, or publish."""
    parser = argparse.ArgumentParser(prog="python -m loop.drift_power", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--windows", type=int, default=WINDOWS, help=f"of each line without drift ({WINDOWS})")
    parser.add_argument("--publish", action="store_true", help=f"write the tables of {PAGE}")
    options = parser.parse_args(arguments)
    models = Path(os.environ.get("MODELS_DIR") or MODELS)
    started = time.perf_counter()
    tables = measure([Bench.read(dataset, models) for dataset in (HOUSING, IRIS)], options.windows)
    if options.publish:
        publish(tables, PAGE)
    else:
        print("\n\n".join(tables.values()))  # noqa: T201 - what the command is for
    console.log.info("%d windows each, in %.0f s", options.windows, time.perf_counter() - started)


if __name__ == "__main__":
    sys.exit(console.run(main))
