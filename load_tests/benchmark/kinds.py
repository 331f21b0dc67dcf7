"""A table of 20 numbers and 10 categories, served by us and by MLServer: ``python -m load_tests.benchmark.kinds``.

The table is generated, becomes a dataset in a copy of the project (``training.new_dataset``), and the pipeline trains
it there. Then this service and MLServer, with its pandas codec, run the same ONNX model side by side, and are loaded in
turn with one row a request. The figures to read are the ratios: both had the same machine.
"""

import json
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd

from contract.dataset import Dataset
from contract.feature import Kind
from contract.table import FloatMatrix
from load_tests.benchmark import command, payloads, processes
from load_tests.benchmark.ledger import WARM_UP_SECONDS
from load_tests.benchmark.payloads import PayloadFormat
from load_tests.benchmark.plan import MLSERVER, MLSERVER_SETTINGS, OURS, PEERS, Line, Server, Step
from load_tests.benchmark.processes import running
from load_tests.benchmark.report import table as markdown
from load_tests.benchmark.runner import Bodies, LoadedServer
from load_tests.errors import LoadTestError
from load_tests.project_files import copy_files
from local_service import PROJECT
from model.card import ONNX_FILE

NAME, TARGET = "mixed", "value"
NUMBERS, CATEGORIES, ROWS = 20, 10, 5000
CONNECTIONS = 64


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, measure, and print a table."""

    def train_and_measure(rounds: int, seconds: int, say: command.Say) -> None:
        with tempfile.TemporaryDirectory(prefix="kinds-") as folder:
            say("train the table in a copy of the project (minutes)")
            dataset = train(Path(folder))
            say("measure")
            say(measure(dataset, Path(folder), rounds, seconds))

    return command.run("kinds", __doc__, train_and_measure, arguments, rounds=6)


def generated(rows: int = ROWS) -> pd.DataFrame:
    """The table: numbers, categories of 3 to 12 texts, and a value that depends on both."""
    draw = np.random.default_rng(0)
    numbers = draw.normal(size=(rows, NUMBERS)).round(3)
    codes = np.column_stack([draw.integers(0, 3 + place, rows) for place in range(CATEGORIES)])
    value = numbers[:, :5].sum(axis=1) + codes[:, 0] * numbers[:, 5] + np.sin(codes).sum(axis=1)
    frame = pd.DataFrame(numbers, columns=[f"number_{place}" for place in range(NUMBERS)])
    for place in range(CATEGORIES):
        frame[f"category_{place}"] = [f"group {chr(ord('A') + code)}" for code in codes[:, place]]
    frame[TARGET] = (value + draw.normal(scale=0.1, size=rows)).round(4)
    return frame


def train(folder: Path) -> Dataset:
    """Make a dataset of the table in a copy of the project, and train it; return its contract.

    Raises:
        LoadTestError: a step failed; contains the end of what it printed.
    """
    project = folder / "project"
    copy_files(PROJECT, project)
    generated().to_csv(folder / "mixed.csv", index=False)
    _run([sys.executable, "-m", "training.new_dataset", f"CSV={folder / 'mixed.csv'}", f"TARGET={TARGET}"], project)
    _run([sys.executable, "-m", "dvc", "repro", "import_models"], project)
    return contract_of(project / "contract" / "datasets" / f"{NAME}.py")


def contract_of(path: Path) -> Dataset:
    """The dataset that a contract module declares."""
    found: Dataset = next(value for value in runpy.run_path(str(path)).values() if isinstance(value, Dataset))
    return found


def measure(dataset: Dataset, folder: Path, rounds: int, seconds: int) -> str:
    """Load both servers in turn; a table of medians."""
    project, columns = folder / "project", folder / "columns.json"
    columns.write_text(json.dumps({one.name: one.vocabulary or None for one in dataset.features}))
    model = {"onnx": project / "models" / dataset.name / ONNX_FILE}
    frame = generated(payloads.BODIES)
    named = frame[list(dataset.feature_names)].itertuples(index=False)
    rows = np.array([dataset.encode(dict(zip(dataset.feature_names, row, strict=True))) for row in named])
    bodies = Bodies(folder, model["onnx"], rows)
    step = Step(CONNECTIONS, 1, seconds)
    with ExitStack() as stack:
        loaded = []
        for server in servers(dataset, project, columns):
            commands = (
                Path(sys.executable).parent
                if server.key == OURS.key
                else stack.enter_context(processes.environment(server.lock))
            )
            loaded.append(LoadedServer(stack.enter_context(running(server, commands, model, rows[:1])), bodies))
        pairs = [(target, line) for target in loaded for line in target.running.server.lines]
        figures: dict[str, list[tuple[float, float]]] = {line.title: [] for _, line in pairs}
        for target, line in pairs:
            target.check(line, 1)
            target.load(line, replace(step, seconds=WARM_UP_SECONDS))
        for number in range(rounds):
            for target, line in pairs if number % 2 == 0 else pairs[::-1]:
                sample = target.sample(line, step, number)
                if sample.load.problem:
                    raise LoadTestError(f"{line.title}: {sample.load.problem}.")
                figures[line.title].append((sample.cpu_ms, sample.requests_per_second))
    medians = {title: tuple(map(median, zip(*found, strict=True))) for title, found in figures.items()}
    slowest = medians[pairs[-1][1].title]
    lines = [
        (title, f"{cpu:.3f}", f"{rate:,.0f}", f"{slowest[0] / cpu:.1f}", f"{rate / slowest[1]:.1f}")
        for title, (cpu, rate) in medians.items()
    ]
    heads = ("one row a request", "CPU-ms a request", "requests/s", "times less CPU than MLServer", "times as many")
    return markdown(f"{NUMBERS} numbers and {CATEGORIES} categories: medians of {rounds} rounds", heads, lines)


def servers(dataset: Dataset, project: Path, columns: Path) -> list[Server]:
    """This service with the trained copy of the project, and MLServer."""
    infer, frame = f"/v2/models/{dataset.name}/infer", frame_format(dataset)
    ours = replace(
        OURS,
        environment={
            **OURS.environment,
            "BENTOML_HOME": str(project / "bentoml"),
            "MODELS_DIR": str(project / "models"),
        },
        folder=project,
        checkout=project,
        lines=(
            Line("ours", "this service, /predict", row_format(dataset), f"/predict/{dataset.name}"),
            Line("ours-frame", "this service, /v2 with a data frame", frame, infer),
        ),
    )
    mlserver = replace(
        MLSERVER,
        folder=PEERS / "mlserver_pandas",
        environment={**MLSERVER_SETTINGS, "MLSERVER_PARALLEL_WORKERS": "{workers}", "BENCHMARK_COLUMNS": str(columns)},
        lines=(Line("mlserver", "MLServer, pandas codec", frame, infer),),
    )
    return [ours, mlserver]


def row_format(dataset: Dataset) -> PayloadFormat:
    """A flat object of named features, one prediction."""
    return PayloadFormat("JSON, a row", lambda rows: payloads.dump(dataset.decode(rows[0])), payloads.ROW.read)


def frame_format(dataset: Dataset) -> PayloadFormat:
    """A tensor a feature, as MLServer's pandas codec writes a data frame."""

    def write(rows: FloatMatrix) -> tuple[bytes, Mapping[str, str]]:
        decoded = [dataset.decode(row) for row in rows]
        inputs: list[dict[str, Any]] = []
        for feature in dataset.features:
            text = feature.kind is Kind.CATEGORY
            tensor = {"name": feature.name, "shape": [len(rows)], "datatype": "BYTES" if text else "FP64"}
            inputs.append({**tensor, "data": [row[feature.name] for row in decoded]})
            if text:
                inputs[-1]["parameters"] = {"content_type": "str"}
        return payloads.dump({"parameters": {"content_type": "pd"}, "inputs": inputs})

    return PayloadFormat("/v2 JSON, a data frame", write, payloads.V2_JSON.read)


def _run(words: Sequence[str], folder: Path) -> None:
    variables = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    variables |= {"BENTOML_HOME": str(folder / "bentoml"), "BENTOML_DO_NOT_TRACK": "True"}
    ended = subprocess.run(words, cwd=folder, env=variables, capture_output=True, text=True, check=False)  # noqa: S603 # our own
    if ended.returncode:
        raise LoadTestError(f"{' '.join(words)} failed: {(ended.stderr or ended.stdout).strip()[-1500:]}")


if __name__ == "__main__":
    sys.exit(main())
