"""Stage ``deployment_validation``: start the service with the models of the store and check it.

It must answer golden rows as the estimator does, refuse bad rows by the name of the field, and keep to the latency
budget. The report says what was checked. The latencies differ from run to run: they are in a file that DVC does not
track.
"""

import json
import logging
import math
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import bentoml
import httpx
import numpy as np
import pandas as pd

from contract import DATASETS
from contract.dataset import Dataset, Task
from contract.feature import Kind
from local_service import running_service
from model.card import CARD_FILE, ModelCard
from model.deployed import Deployment
from training import console, files
from training.errors import PipelineError
from training.import_models import MODELS
from training.onnx.export import load_estimator
from training.params import DeploymentValidationParams, load
from training.tracking import EXTRA_FILES, MODEL_SKOPS

REPORT_FILE = Path("reports/deployment_validation.json")
LATENCY_FILE = Path("reports/latency.json")
"""The 95th percentile of the latency by dataset, in ms."""
TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True)
class Check:
    """One thing the service must do. ``message`` says what was measured and what is allowed."""

    dataset: str
    name: str
    passed: bool
    message: str


def validate(
    tags: Mapping[str, str], tests: Path, params: DeploymentValidationParams, report: Path, latency: Path
) -> list[Check]:
    """Start the service, check every model, write ``report`` and ``latency`` whatever the outcome.

    Raises:
        PipelineError: a check failed, or the service did not start.
    """
    checks: list[Check] = []
    percentiles = {}
    with ExitStack() as stack:
        with console.step("start the service"):
            url = stack.enter_context(running_service())
        client = stack.enter_context(httpx.Client(base_url=url, timeout=TIMEOUT_SECONDS))
        for dataset in DATASETS.values():
            with console.step(f"{dataset.name}: golden rows, bad rows, {params.requests} timed requests"):
                rows = pd.read_parquet(tests / dataset.name / "test.parquet")[list(dataset.feature_names)]
                checks.append(_serves(client, dataset, tags[dataset.name]))
                checks.append(_golden(client, dataset, rows.head(params.golden_rows), tags[dataset.name]))
                checks += [_refuses(client, dataset, *bad) for bad in bad_rows(dataset)]
                percentiles[dataset.name] = _p95(client, dataset, rows, params.requests)
                checks.append(_fast(dataset, percentiles[dataset.name], params))
    files.write_json(latency, {name: {"p95_ms": round(value, 3)} for name, value in percentiles.items()})
    files.write_json(report, {"passed": all(check.passed for check in checks), "checks": [asdict(c) for c in checks]})
    failed = [check for check in checks if not check.passed]
    if failed:
        raise PipelineError(
            f"{len(failed)} of {len(checks)} checks of the deployed service failed; {report} has them all. "
            f"The first: {failed[0].dataset}, {failed[0].name}: {failed[0].message}"
        )
    return checks


def _serves(client: httpx.Client, dataset: Dataset, tag: str) -> Check:
    served = client.get("/models/info").raise_for_status().json()["models"][dataset.name]["version"]
    return Check(dataset.name, "version", f"{dataset.name}:{served}" == tag, f"serves {served}, deployed is {tag}")


def _golden(client: httpx.Client, dataset: Dataset, rows: pd.DataFrame, tag: str) -> Check:
    """Whether the service answers rows of the test split as the estimator does."""
    model = Path(bentoml.models.get(tag).path_of("mlflow_model"))
    card = ModelCard.model_validate_json((model / EXTRA_FILES / CARD_FILE).read_bytes())
    estimator = load_estimator(model / MODEL_SKOPS)
    body = {"rows": [dataset.decode(row) for row in rows.to_numpy().tolist()]}
    answers = client.post(f"/predict/{dataset.name}/batch", json=body).raise_for_status().json()["predictions"]
    if dataset.task is Task.REGRESSION:
        served = np.array([answer["prediction"] for answer in answers])
        expected = estimator.predict(rows.to_numpy())
    else:
        served = np.array([[answer["probabilities"][name] for name in dataset.target.classes] for answer in answers])
        expected = estimator.predict_proba(rows.to_numpy())
    difference = float(np.abs(served - expected).max())
    allowed = card.onnx.tolerance
    message = f"{len(rows)} rows differ from the estimator by at most {difference:.3g}, allowed {allowed:g}"
    return Check(dataset.name, "golden rows", difference <= allowed, message)


def bad_rows(dataset: Dataset) -> list[tuple[str, str, dict[str, Any]]]:
    """Bodies to refuse: what is wrong with each, the field that the answer must name, and the body itself."""
    good = dataset.example
    bad = [("unknown field", "no_such_feature", {**good, "no_such_feature": 1.0})]
    required = next((feature.name for feature in dataset.features if not feature.optional), None)
    if required is not None:
        bad.append(("missing field", required, {name: good[name] for name in good if name != required}))
    number = next((feature for feature in dataset.features if feature.numeric), None)
    if number is not None:
        values = {
            "NaN": math.nan,
            "infinity": math.inf,
            "out of range": number.maximum + 1,
            "text for a number": "many",
            "boolean for a number": True,
        }
        bad += [(what, number.name, {**good, number.name: value}) for what, value in values.items()]
    category = next((feature for feature in dataset.features if feature.kind is Kind.CATEGORY), None)
    if category is not None:
        bad.append(("number for a category", category.name, {**good, category.name: 1}))
    return bad


def _refuses(client: httpx.Client, dataset: Dataset, name: str, field: str, body: dict[str, Any]) -> Check:
    # Not httpx' own `json=`: it refuses NaN, and the service must.
    answer = client.post(
        f"/predict/{dataset.name}", content=json.dumps(body), headers={"Content-Type": "application/json"}
    )
    passed = answer.status_code == httpx.codes.BAD_REQUEST and field in answer.json()["error"]
    return Check(dataset.name, f"refuses {name}", passed, f"{answer.status_code}: {answer.text[:200]}")


def _p95(client: httpx.Client, dataset: Dataset, rows: pd.DataFrame, requests: int) -> float:
    """The 95th percentile of the latency of single requests, in ms."""
    drawn = rows.sample(requests, replace=True, random_state=0)
    bodies = [dataset.decode(row) for row in drawn.to_numpy().tolist()]
    seconds = []
    for body in bodies:
        started = time.perf_counter()
        client.post(f"/predict/{dataset.name}", json=body).raise_for_status()
        seconds.append(time.perf_counter() - started)
    return float(np.quantile(seconds, 0.95)) * 1000


def _fast(dataset: Dataset, p95: float, params: DeploymentValidationParams) -> Check:
    passed = p95 <= params.p95_budget_ms
    measured = f"p95 of {params.requests} single requests is {p95:.2f} ms"
    console.log.info("%s: %s", dataset.name, measured)
    budget = f"the budget of {params.p95_budget_ms:g} ms"
    # A report of success is the same whatever was measured.
    message = f"p95 of {params.requests} single requests is within {budget}" if passed else f"{measured}, over {budget}"
    return Check(dataset.name, "p95 latency", passed, message)


def main() -> None:
    """Check the deployed models."""
    # httpx logs a line for each request.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    tags = Deployment(MODELS).tags()
    validate(tags, Path("data/features"), load().deployment_validation, REPORT_FILE, LATENCY_FILE)


if __name__ == "__main__":
    sys.exit(console.run(main))
