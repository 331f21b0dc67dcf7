"""Every series of ``/metrics``. Labels come from the contract, the routes and the model card.

A dead worker's counters are kept; its gauges (``livemostrecent``, ``livemax``, ``livemin``, ``livesum``) are dropped.
"""

import math
from functools import cache

from prometheus_client import Counter, Gauge, Histogram

WITHDRAWN = -math.inf
"""Value of a gauge that no longer applies; a scrape leaves it out. With several processes a series cannot be removed.
It is the smallest value, so that with ``livemax`` a series stays as long as one worker sets it."""

WORKER_STARTS = Counter("ml_worker_starts", "Workers that have started, replacements included.")
WORKER_EXITS = Counter(
    "ml_worker_exits", "Workers that have ended while the server was running, by reason.", ["reason"]
)
DISK_FREE = Gauge(
    "ml_disk_free_bytes",
    "Bytes that are free where the service writes.",
    ["place"],
    multiprocess_mode="livemostrecent",
)
METRICS_WAITING = Gauge(
    "ml_metrics_waiting", "Series that wait for room in the metrics directory.", multiprocess_mode="livesum"
)
LOG_DROPPED = Counter(
    "ml_log_dropped_lines", "Lines of the log that were dropped: what they are written to is full, closed or too slow."
)

# HTTP, under the names that BentoML gives its series, with bounded labels.
_SERVICE = ["service_name", "service_version", "runner_name"]
HTTP_REQUESTS = Counter(
    "bentoml_service_request", "HTTP requests answered.", ["endpoint", "http_response_code", *_SERVICE]
)
HTTP_SECONDS = Histogram(
    "bentoml_service_request_duration_seconds",
    "Seconds from the arrival of an HTTP request to its answer.",
    ["endpoint", "http_response_code", *_SERVICE],
    # BentoML's default buckets.
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 180),
)
HTTP_IN_PROGRESS = Gauge(
    "bentoml_service_request_in_progress",
    "HTTP requests that are being answered.",
    ["endpoint", *_SERVICE],
    multiprocess_mode="livesum",
)
HTTP_LAST_REQUEST = Gauge(
    "bentoml_service_last_request_timestamp_seconds", "Unix time of the last HTTP request.", _SERVICE
)

# gRPC, under the names of go-grpc-prometheus, which dashboards look for. The label `model` is "unknown" for a model
# that is not served, and "" for a method that is not about one.
GRPC_HANDLED = Counter(
    "grpc_server_handled", "gRPC calls answered.", ["grpc_service", "grpc_method", "grpc_code", "model"]
)
GRPC_SECONDS = Histogram(
    "grpc_server_handling_seconds",
    "Seconds from the arrival of a gRPC call to its answer.",
    ["grpc_service", "grpc_method", "grpc_code", "model"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
GRPC_IN_PROGRESS = Gauge(
    "grpc_server_in_progress",
    "gRPC calls that are being answered.",
    ["grpc_service", "grpc_method", "model"],
    multiprocess_mode="livesum",
)

ACCESS_REFUSED = Counter(
    "ml_access_refused", "Calls refused for want of a right key, by reason.", ["protocol", "reason"]
)

TLS_EXPIRY = Gauge(
    "ml_tls_certificate_expiry_timestamp_seconds",
    "Unix time at which the first certificate in the file of a setting expires, of those that are in use.",
    ["setting"],
    multiprocess_mode="livemin",
)
TLS_REREAD = Counter(
    "ml_tls_certificate_rereads", "Changes of the files of TLS that a worker has taken or refused.", ["outcome"]
)
TLS_REFUSED = Gauge(
    "ml_tls_certificate_refused",
    "1 while a worker refuses the files of TLS as they are now, and uses what it read before.",
    multiprocess_mode="livemax",
)
TLS_FAILED = Counter("ml_tls_handshakes_failed", "TLS handshakes over HTTP that failed, by reason.", ["reason"])

PREDICTIONS = Counter("ml_predictions", "Rows predicted.", ["model", "version"])
BATCH_ROWS = Histogram(
    "ml_batch_rows", "Rows of a batch that the model was given.", ["model"], buckets=[2**power for power in range(10)]
)
QUEUE_WAIT = Histogram(
    "ml_queue_wait_seconds",
    "Seconds from a request's entry into the queue to the begin of its first batch.",
    ["model"],
    buckets=(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
)
INFERENCE = Histogram(
    "ml_inference_seconds",
    "Seconds of one batch in the model.",
    ["model"],
    buckets=(
        0.00001,
        0.000025,
        0.00005,
        0.0001,
        0.00025,
        0.0005,
        0.001,
        0.0025,
        0.005,
        0.01,
        0.025,
        0.05,
        0.1,
        0.25,
        1,
    ),
)
SHED = Counter(
    "ml_shed_requests",
    "Requests refused because of the load: an answer would take too long, or too many are being received.",
    ["model"],
)
REFUSED = Counter(
    "ml_refused_rows",
    "Rows refused, once for each broken feature and reason; at most 100 of a request.",
    ["model", "feature", "reason"],
)
LAST_PREDICTION = Gauge(
    "ml_last_prediction_timestamp_seconds", "Unix time of the last prediction.", ["model"], multiprocess_mode="max"
)

RELOADS = Counter(
    "ml_model_reloads", "Deployed models that a worker has reloaded or refused to serve.", ["model", "outcome"]
)
RELOAD_REFUSED = Gauge(
    "ml_model_reload_refused",
    "1 while a worker refuses the deployed model and serves the one before.",
    ["model"],
    multiprocess_mode="livemax",
)

FEEDBACK = Counter("ml_ledger_feedback", "Entries of feedback that arrived over HTTP.", ["outcome"])
# The drainer has series of its own: ledger/drainer.py.
LEDGER_UNWRITTEN = Counter(
    "ml_ledger_unwritten", "Predictions that were answered but not recorded: the disk of the spool is full or fails."
)
LEDGER_SINCE = Gauge(
    "ml_ledger_since_timestamp_seconds",
    "Unix time from which on this server records.",
    multiprocess_mode="livemostrecent",
)
LEDGER_DROPPED = Counter(
    "ml_ledger_dropped_segments", "Segments of the spool that were dropped before they were in the database."
)

PREDICTED_CLASS = Counter("ml_predicted_class", "Rows predicted to be of a class.", ["model", "label"])
CONFIDENCE = Histogram(
    "ml_prediction_confidence",
    "Probability of the predicted class.",
    ["model"],
    buckets=(0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1),
)
FEATURE_DECILE = Counter(
    "ml_feature_decile",
    "Rows predicted, by the decile of the training split that a feature's value is in, by category, or missing.",
    ["model", "feature", "decile"],
)
PREDICTION_DECILE = Counter(
    "ml_prediction_decile",
    "Rows predicted, by the decile of the predictions on the training split that the prediction is in.",
    ["model", "decile"],
)

MODEL_INFO = Gauge(
    "ml_model_info",
    "1 for the model that is served.",
    ["model", "version", "run_id", "algorithm", "trained_at"],
    multiprocess_mode="livemax",
)
TRAINED = Gauge(
    "ml_model_trained_timestamp_seconds",
    "Unix time at which the served model was trained.",
    ["model"],
    multiprocess_mode="livemostrecent",
)
TEST_METRIC = Gauge(
    "ml_model_test_metric",
    "A metric of the served model on the test split.",
    ["model", "version", "metric"],
    multiprocess_mode="livemax",
)
FEATURE_REFERENCE = Gauge(
    "ml_feature_reference_share",
    "Share of the training split in a decile of a feature, of a category, or missing.",
    ["model", "feature", "decile"],
    multiprocess_mode="livemostrecent",
)
PREDICTION_REFERENCE = Gauge(
    "ml_prediction_reference_share",
    "Share of the training split whose prediction is in a decile.",
    ["model", "decile"],
    multiprocess_mode="livemostrecent",
)
CLASS_REFERENCE = Gauge(
    "ml_class_reference_share",
    "Share of the training split that is predicted to be of a class.",
    ["model", "label"],
    multiprocess_mode="livemostrecent",
)


@cache
def predicted_value(model: str, version: str, deciles: tuple[float, ...]) -> Histogram:
    """``ml_predicted_value`` of one version: its buckets are the deciles of its predictions on the training split.

    Each version has its own: one metric object has one set of buckets. The files of the workers are what a scrape
    reads, so it need not be registered. A version that comes back gets the object it had: prometheus_client keeps every
    one that was made.
    """
    bounds = sorted({float(f"{edge:.4g}") for edge in deciles})
    metric = Histogram(
        "ml_predicted_value",
        "Predicted values, in the unit of the target.",
        ["model", "version"],
        buckets=bounds,
        registry=None,
    )
    return metric.labels(model, version)
