"""*Loop*: does a model need retraining, what became of it, and which versions are served."""

from grafana_foundation_sdk.builders.dashboard import Row

from monitoring.dashboards.parts import (
    MODEL_VARIABLE,
    RED,
    YELLOW,
    bars,
    dashboard,
    lines,
    number,
    version_changes,
)

JOB = 'job="ml-api"'
MODEL = f'{JOB},model=~"$model"'
MINUTE, HOUR, DAY = 60, 3600, 86_400
EFFECT_LIMITS = [(0.5, YELLOW), (1, RED)]
"""An effect of 1 or more is large; it is drift if it is also certain."""

DASHBOARD = (
    dashboard("ml-loop", "Loop", "Does a model need retraining, what became of it, and which versions are served?")
    .with_variable(MODEL_VARIABLE)
    .annotation(version_changes())
    .with_row(Row("Drift, as the last search has found it"))
    .with_panel(
        bars(
            "Drift by feature",
            "Difference from training in units of what counts as large; the prediction and refused requests too.",
            (f"sort_desc(max by (model, feature) (ml_drift_effect{{{MODEL}}}))", "{{model}} {{feature}}"),
            unit="none",
            limits=EFFECT_LIMITS,
            none="not searched for yet",
        ).max(2)
    )
    .with_panel(
        lines(
            "Effect over time",
            "The same, from search to search.",
            (f"max by (model, feature) (ml_drift_effect{{{MODEL}}})", "{{model}} {{feature}}"),
            unit="none",
            limits=EFFECT_LIMITS,
            none="not searched for yet",
        )
    )
    .with_panel(
        number(
            "Drifted",
            "Features, predictions and refused requests whose difference from training is certain and large.",
            (f"sum by (model) (max by (model, feature) (ml_drift_detected{{{MODEL}}}))", "{{model}}"),
            unit="none",
            height=8,
            limits=[(1, RED)],
            none="not searched for yet",
        )
    )
    .with_panel(
        number(
            "Last search",
            "How long ago. The worker of the loop searches every hour, unless LOOP_DRIFT_SCHEDULE says otherwise.",
            (f"time() - max by (model) (ml_drift_checked_timestamp_seconds{{{MODEL}}})", "{{model}}"),
            unit="s",
            height=8,
            limits=[(2 * HOUR, YELLOW), (25 * HOUR, RED)],
            none="never",
        )
    )
    .with_panel(
        number(
            "Rows compared",
            "Rows of the last search. Below 100 nothing is said.",
            (f"max by (model) (ml_drift_rows{{{MODEL}}})", "{{model}}"),
            unit="short",
            width=2,
            height=8,
            none="none",
        )
    )
    .with_row(Row("Retraining"))
    .with_panel(
        lines(
            "Jobs",
            "Jobs on record. Done: the challenger took over; refused: the served model stays.",
            (f"max by (model, state) (ml_retraining_jobs{{{MODEL}}}) > 0", "{{model}} {{state}}"),
            unit="short",
            stacked=True,
            none="no jobs yet",
        )
    )
    .with_panel(
        bars(
            "Waits and runs",
            "For how long.",
            (
                f"time() - min by (model) (ml_retraining_waiting_since_timestamp_seconds{{{MODEL}}})",
                "{{model}} waits",
            ),
            (
                f"time() - max by (model) (ml_retraining_running_since_timestamp_seconds{{{MODEL}}})",
                "{{model}} runs",
            ),
            unit="s",
            width=6,
            limits=[(12 * HOUR, YELLOW), (DAY, RED)],
            none="nothing waits or runs",
        )
    )
    .with_panel(
        bars(
            "Ended",
            "How long ago a job was last done, refused or failed.",
            (
                f"time() - max by (model, state) (ml_retraining_ended_timestamp_seconds{{{MODEL}}})",
                "{{model}} {{state}}",
            ),
            unit="s",
            width=6,
            none="no job has ended",
        )
    )
    .with_panel(
        number(
            "Worker last seen",
            "How long ago. Without a worker jobs wait.",
            (f"time() - max(ml_retraining_worker_seen_timestamp_seconds{{{JOB}}})", ""),
            unit="s",
            width=4,
            height=8,
            limits=[(2 * MINUTE, YELLOW), (5 * MINUTE, RED)],
            none="none within a day",
        )
    )
    .with_row(Row("Promotion"))
    .with_panel(
        lines(
            "Versions served",
            "Instances that serve a version: where one ends, another took over.",
            (f"count by (model, version) (ml_model_info{{{MODEL}}})", "{{model}} {{version}}"),
            unit="short",
            width=10,
            stacked=True,
        )
    )
    .with_panel(
        lines(
            "Predictions by version",
            "Share of a model's rows that a version has answered.",
            (
                f"sum by (model, version) (rate(ml_predictions_total{{{MODEL}}}[$__rate_interval]))"
                f" / on (model) group_left ()"
                f" (sum by (model) (rate(ml_predictions_total{{{MODEL}}}[$__rate_interval])) > 0)",
                "{{model}} {{version}}",
            ),
            unit="percentunit",
            none="no predictions",
        )
    )
    .with_panel(
        lines(
            "Reloads refused",
            "Instances that refuse the deployed model, and serve the one before.",
            (f"sum by (model) (ml_model_reload_refused{{{MODEL}}})", "{{model}}"),
            unit="short",
            width=6,
            limits=[(1, RED)],
        )
    )
)
