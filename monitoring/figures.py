"""The dashboards' figures at one moment, for the terminal view."""

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from monitoring.drift import stability_index
from monitoring.slo import GRPC_FAILED
from monitoring.snapshot import Change, Snapshot

HTTP, HTTP_SECONDS = "bentoml_service_request_total", "bentoml_service_request_duration_seconds"
GRPC, GRPC_SECONDS = "grpc_server_handled_total", "grpc_server_handling_seconds"


@dataclass(frozen=True)
class RouteFigures:
    """One route of HTTP or method of gRPC. Rates are per second, times in seconds; NaN without requests."""

    protocol: str
    route: str
    requests: float
    refused: float
    failed: float
    p50: float
    p99: float
    in_progress: float


@dataclass(frozen=True)
class ModelFigures:
    """One model. Rates are per second, times in seconds; NaN without predictions."""

    name: str
    version: str
    algorithm: str
    age: float
    metrics: dict[str, float]
    predictions: float
    batch_rows: float
    queue_p99: float
    inference_p99: float
    confidence: float
    shed: float
    last_prediction: float


@dataclass(frozen=True)
class DriftFigures:
    """The population stability index of one feature, or of the predictions, of a model, over ``rows`` rows."""

    model: str
    subject: str
    index: float
    rows: float


@dataclass(frozen=True)
class QualityFigures:
    """How good a version's predictions of a window are, as far as the truth is known.

    Args:
        rows: labelled rows.
        metrics: the metric, live and on the test split (NaN if it is not known), by name; empty with too few rows.
    """

    model: str
    version: str
    window: str
    rows: float
    metrics: dict[str, tuple[float, float]]


def routes(change: Change) -> Iterator[RouteFigures]:
    """All routes requested since the service started, the busiest first."""
    found = [
        *_routes(change, "http", "endpoint", "http_response_code", HTTP, HTTP_SECONDS),
        *_routes(change, "grpc", "grpc_method", "grpc_code", GRPC, GRPC_SECONDS),
    ]
    yield from sorted(found, key=lambda figures: -figures.requests)


def _routes(
    change: Change, protocol: str, label: str, code: str, counter: str, histogram: str
) -> Iterator[RouteFigures]:
    in_progress = "bentoml_service_request_in_progress" if protocol == "http" else "grpc_server_in_progress"
    by_route: dict[str, dict[str, float]] = defaultdict(dict)
    for (route, status), count in change.increase(counter, label, code).items():
        by_route[route][status] = count
    for route, counts in by_route.items():
        failed = sum(count for status, count in counts.items() if status.startswith("5") or status in GRPC_FAILED)
        good = sum(count for status, count in counts.items() if status.startswith("2") or status == "OK")
        yield RouteFigures(
            protocol=protocol,
            route=route,
            requests=sum(counts.values()) / change.seconds,
            refused=(sum(counts.values()) - failed - good) / change.seconds,
            failed=failed / change.seconds,
            p50=change.quantile(0.5, histogram, **{label: route}),
            p99=change.quantile(0.99, histogram, **{label: route}),
            in_progress=sum(value for key, value in change.after[in_progress].items() if (label, route) in key),
        )


def models(change: Change) -> Iterator[ModelFigures]:
    """All models that are served."""
    for key in change.after["ml_model_info"]:
        info = dict(key)
        name, version = info["model"], info["version"]
        yield ModelFigures(
            name=name,
            version=version,
            algorithm=info.get("algorithm", "–"),
            age=change.after.at - _value(change.after, "ml_model_trained_timestamp_seconds", model=name),
            metrics={
                labels["metric"]: value
                for labels, value in _labelled(change.after, "ml_model_test_metric")
                if labels["model"] == name and labels["version"] == version
            },
            predictions=change.rate("ml_predictions_total", model=name, version=version),
            batch_rows=change.mean("ml_batch_rows", model=name),
            queue_p99=change.quantile(0.99, "ml_queue_wait_seconds", model=name),
            inference_p99=change.quantile(0.99, "ml_inference_seconds", model=name),
            confidence=change.quantile(0.5, "ml_prediction_confidence", model=name),
            shed=change.rate("ml_shed_requests_total", model=name),
            last_prediction=change.after.at - _value(change.after, "ml_last_prediction_timestamp_seconds", model=name),
        )


def quality(snapshot: Snapshot) -> Iterator[QualityFigures]:
    """Every window of every version that has labelled rows, the shortest window first."""
    live: dict[tuple[str, str, str], dict[str, tuple[float, float]]] = defaultdict(dict)
    for labels, value in _labelled(snapshot, "ml_model_live_metric"):
        model, version, window, metric = (labels[name] for name in ("model", "version", "window", "metric"))
        test = _value(snapshot, "ml_model_test_metric", model=model, version=version, metric=metric)
        live[model, version, window][metric] = value, test
    found = [
        QualityFigures(
            labels["model"],
            labels["version"],
            labels["window"],
            rows,
            live[labels["model"], labels["version"], labels["window"]],
        )
        for labels, rows in _labelled(snapshot, "ml_model_labelled_rows")
    ]
    # "1h" comes before "24h", and hours before days.
    yield from sorted(
        found, key=lambda one: (one.model, one.version, one.window[-1] != "h", len(one.window), one.window)
    )


def drift(change: Change) -> Iterator[DriftFigures]:
    """All features and the predictions of all models, the most drifted first."""
    references: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    rows: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for labels, share in _labelled(change.after, "ml_feature_reference_share"):
        references[labels["model"], labels["feature"]][labels["decile"]] = share
    for (model, feature, decile), count in change.increase(
        "ml_feature_decile_total", "model", "feature", "decile"
    ).items():
        rows[model, feature][decile] = count
    for kind, label in (("prediction", "decile"), ("class", "label")):
        for labels, share in _labelled(change.after, f"ml_{kind}_reference_share"):
            references[labels["model"], "predictions"][labels[label]] = share
        counter = "ml_prediction_decile_total" if kind == "prediction" else "ml_predicted_class_total"
        for (model, bucket), count in change.increase(counter, "model", label).items():
            rows[model, "predictions"][bucket] = count
    found = [
        DriftFigures(*key, index=stability_index(shares, rows[key]), rows=sum(rows[key].values()))
        for key, shares in references.items()
    ]
    yield from sorted(found, key=lambda figures: -figures.index)


def refused(change: Change) -> dict[tuple[str, ...], float]:
    """Refused rows per second by model, feature and reason, without zeros."""
    counts = change.increase("ml_refused_rows_total", "model", "feature", "reason")
    return {key: count / change.seconds for key, count in counts.items() if count}


def worker_starts(snapshot: Snapshot) -> float:
    """Worker starts since the service started; NaN if the service does not report them."""
    return sum(snapshot["ml_worker_starts_total"].values()) if snapshot["ml_worker_starts_total"] else math.nan


def _labelled(snapshot: Snapshot, name: str) -> Iterator[tuple[dict[str, str], float]]:
    for key, value in snapshot[name].items():
        yield dict(key), value


def _value(snapshot: Snapshot, name: str, **labels: str) -> float:
    return snapshot[name].get(frozenset(labels.items()), math.nan)
