"""The series of the models. Labels come from the contract and the model card: nothing grows without bound.

A worker that has died takes along what it said of its models (``livemostrecent``), and leaves what it counted.
"""

from prometheus_client import Counter, Gauge, Histogram

WORKER_STARTS = Counter("ml_worker_starts", "Workers that have started, those that replace others included.")

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
SHED = Counter("ml_shed_requests", "Requests refused because an answer would have taken too long.", ["model"])
REFUSED = Counter(
    "ml_refused_rows", "Rows refused, once for each broken feature and reason.", ["model", "feature", "reason"]
)
LAST_PREDICTION = Gauge(
    "ml_last_prediction_timestamp_seconds", "Unix time of the last prediction.", ["model"], multiprocess_mode="max"
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
    "Rows predicted, by the decile of the training split that a feature's value is in.",
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
    multiprocess_mode="livemostrecent",
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
    multiprocess_mode="livemostrecent",
)
FEATURE_REFERENCE = Gauge(
    "ml_feature_reference_share",
    "Share of the training split in a decile of a feature.",
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


def predicted_value(model: str, deciles: list[float]) -> Histogram:
    """``ml_predicted_value`` of one model: its buckets are the deciles of its predictions on the training split.

    Each model has its own: one metric object has one set of buckets. The files of the workers are what a scrape reads,
    so it need not be registered.
    """
    bounds = sorted({float(f"{edge:.4g}") for edge in deciles})
    metric = Histogram(
        "ml_predicted_value", "Predicted values, in the unit of the target.", ["model"], buckets=bounds, registry=None
    )
    return metric.labels(model)
