"""*Models*: what is served and what it answers, by model and version."""

from grafana_foundation_sdk.builders.dashboard import Row

from monitoring.dashboards.parts import (
    MODEL_VARIABLE,
    RED,
    VERSION_VARIABLE,
    YELLOW,
    bars,
    dashboard,
    lines,
    number,
    quantiles,
    table,
    version_changes,
)

MODEL = 'job="ml-api",model=~"$model"'
VERSION = f'{MODEL},version=~"$version"'
DAY = 86_400

_CLASSES = f"sum by (model, label) (rate(ml_predicted_class_total{{{MODEL}}}[$__rate_interval]))"
_BATCH = f"rate(ml_batch_rows_%s{{{MODEL}}}[$__rate_interval])"

DASHBOARD = (
    dashboard("ml-models", "Models", "What is served and what it answers, by model and version.")
    .with_variable(MODEL_VARIABLE)
    .with_variable(VERSION_VARIABLE)
    .annotation(version_changes())
    .with_row(Row("Served"))
    .with_panel(
        table(
            "Versions",
            "What is loaded: the MLflow run it came from, and when it was trained.",
            f"max by (model, version, run_id, algorithm, trained_at) (ml_model_info{{{VERSION}}})",
            unit="none",
            hidden=("Value",),
        )
    )
    .with_panel(
        bars(
            "Test metrics",
            "On the test split, of the version that is served.",
            (f"max by (model, metric) (ml_model_test_metric{{{VERSION}}})", "{{model}} {{metric}}"),
            unit="none",
            width=6,
        )
    )
    .with_panel(
        number(
            "Age",
            "Since training.",
            (f"time() - max by (model) (ml_model_trained_timestamp_seconds{{{MODEL}}})", "{{model}}"),
            unit="s",
            height=8,
            limits=[(60 * DAY, YELLOW), (90 * DAY, RED)],
        )
    )
    .with_panel(
        number(
            "Last prediction",
            "How long ago.",
            (f"time() - (max by (model) (ml_last_prediction_timestamp_seconds{{{MODEL}}}) > 0)", "{{model}}"),
            unit="s",
            height=8,
            none="none yet",
        )
    )
    .with_row(Row("Predictions"))
    .with_panel(
        lines(
            "Predictions by version",
            "Rows answered.",
            (
                f"sum by (model, version) (rate(ml_predictions_total{{{VERSION}}}[$__rate_interval]))",
                "{{model}} {{version}}",
            ),
            unit="rowsps",
            width=6,
        )
    )
    .with_panel(
        lines(
            "Predicted values",
            "Quantiles of a regression's predictions, in its target's unit.",
            *quantiles("ml_predicted_value", VERSION, by="model, version", levels=(0.1, 0.5, 0.9)),
            unit="none",
            width=6,
            none="no regression is selected",
        )
    )
    .with_panel(
        lines(
            "Predicted classes",
            "Share of each class in a classifier's predictions.",
            (f"{_CLASSES} / on (model) group_left () (sum by (model) ({_CLASSES}) > 0)", "{{model}} {{label}}"),
            unit="percentunit",
            width=6,
            stacked=True,
            none="no classifier is selected",
        )
    )
    .with_panel(
        lines(
            "Confidence",
            "Quantiles of the probability of the predicted class.",
            *quantiles("ml_prediction_confidence", MODEL, by="model", levels=(0.1, 0.5)),
            unit="percentunit",
            width=6,
            none="no classifier is selected",
        )
    )
    .with_row(Row("Runner and reloads"))
    .with_panel(
        lines(
            "Rows in a batch",
            "Mean and p99: as large as the load makes them.",
            (f"sum by (model) ({_BATCH % 'sum'}) / (sum by (model) ({_BATCH % 'count'}) > 0)", "{{model}} mean"),
            *quantiles("ml_batch_rows", MODEL, by="model", levels=(0.99,)),
            unit="none",
            width=6,
        )
    )
    .with_panel(
        lines(
            "Inference time",
            "Of a batch in the model itself.",
            *quantiles("ml_inference_seconds", MODEL, by="model"),
            unit="s",
            width=6,
        )
    )
    .with_panel(
        lines(
            "Wait in the queue",
            "For the batch before.",
            *quantiles("ml_queue_wait_seconds", MODEL, by="model"),
            unit="s",
            width=6,
        )
    )
    .with_panel(
        lines(
            "Reloads",
            "Models that workers have reloaded or refused, without a restart.",
            (
                f"sum by (model, outcome) (increase(ml_model_reloads_total{{{MODEL}}}[$__rate_interval]))",
                "{{model}} {{outcome}}",
            ),
            unit="none",
            width=6,
        )
    )
)
