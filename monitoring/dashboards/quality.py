"""*Quality*: what came true, beside what was predicted; and the ledger that keeps both."""

from grafana_foundation_sdk.builders.dashboard import Row

from monitoring.dashboards.parts import (
    MODEL_VARIABLE,
    RED,
    VERSION_VARIABLE,
    YELLOW,
    Query,
    bars,
    dashboard,
    lines,
    number,
    or_none,
    version_changes,
)

VERSION = 'job="ml-api",model=~"$model",version=~"$version"'
JOB = 'job="ml-api"'
DAY = 86_400
_LATE = "too few labelled rows"


def _live_and_test(metric: str) -> list[Query]:
    """A metric in each window, and on the test split of the version that is served."""
    return [
        (f'model_metric:live:max{{{VERSION},metric="{metric}"}}', "{{model}} {{version}} {{window}}"),
        (f'model_metric:test:max{{{VERSION},metric="{metric}"}}', "{{model}} {{version}} test"),
    ]


DASHBOARD = (
    dashboard(
        "ml-quality", "Quality", "How good are the predictions whose truth is known, and is everything on record?"
    )
    .with_variable(MODEL_VARIABLE)
    .with_variable(VERSION_VARIABLE)
    .annotation(version_changes())
    .with_row(Row("Live quality"))
    .with_panel(
        bars(
            "Live metrics",
            "Of the predictions of the last 24 hours whose truth is known.",
            (f'model_metric:live:max{{{VERSION},window="24h"}}', "{{model}} {{version}} {{metric}}"),
            unit="none",
            none=_LATE,
        )
    )
    .with_panel(
        bars(
            "Test metrics",
            "On the test split, of the version that is served.",
            (
                f'model_metric:test:max{{{VERSION},metric=~"rmse|mae|r2|accuracy|balanced_accuracy|log_loss"}}',
                "{{model}} {{version}} {{metric}}",
            ),
            unit="none",
        )
    )
    .with_panel(
        bars(
            "Recall by class",
            "Share of a class's rows that were predicted to be of it, in the last 24 hours.",
            (
                f'max by (model, version, label) (ml_model_live_recall{{{VERSION},window="24h"}})',
                "{{model}} {{version}} {{label}}",
            ),
            unit="percentunit",
            none=_LATE,
        )
    )
    .with_panel(
        lines(
            "RMSE, live and test",
            "Over 1.25 times that of the test split with 500 labelled rows, an alert fires.",
            *_live_and_test("rmse"),
            unit="none",
            none="no regression is selected",
        )
    )
    .with_panel(
        lines(
            "Accuracy, live and test",
            "Lower than on the test split by 0.05, and by more than chance explains, an alert fires.",
            *_live_and_test("accuracy"),
            unit="percentunit",
            none="no classifier is selected",
        )
    )
    .with_panel(
        lines(
            "Log loss, live and test",
            "The surprise at the true class: it grows where the model is sure and wrong.",
            *_live_and_test("log_loss"),
            unit="none",
            none="no classifier is selected",
        )
    )
    .with_row(Row("Feedback"))
    .with_panel(
        lines(
            "Labelled rows",
            "Predicted rows of each window whose truth is known.",
            (f"model:labelled_rows:max{{{VERSION}}}", "{{model}} {{version}} {{window}}"),
            unit="short",
            none="no feedback yet",
        )
    )
    .with_panel(
        number(
            "Newest labelled prediction",
            "How long ago it was made: the truth arrives that late.",
            (
                f"time() - max by (model) (ml_model_newest_labelled_timestamp_seconds{{{VERSION}}})",
                "{{model}}",
            ),
            unit="s",
            width=8,
            height=8,
            limits=[(2 * DAY, YELLOW), (7 * DAY, RED)],
            none="no feedback yet",
        )
    )
    .with_panel(
        lines(
            "Feedback by outcome",
            "Entries of POST /feedback; and what became of those that waited for their prediction.",
            (
                or_none(f"sum by (outcome) (rate(ml_ledger_feedback_total{{{JOB}}}[$__rate_interval]))", "outcome"),
                "{{outcome}}",
            ),
            (
                f"sum by (outcome) (rate(ml_ledger_waiting_feedback_total{{{JOB}}}[$__rate_interval]))",
                "waited, {{outcome}}",
            ),
            unit="short",
        )
    )
    .with_row(Row("Ledger"))
    .with_panel(
        lines(
            "Lag",
            "Age of the oldest prediction that is not in the database.",
            (f"max by (instance) (ml_ledger_lag_seconds{{{JOB}}})", "{{instance}}"),
            unit="s",
            width=5,
            limits=[(2, YELLOW), (30, RED)],
        )
    )
    .with_panel(
        lines(
            "Spool",
            "Bytes that wait for the database. At LEDGER_SPOOL_BYTES the oldest are dropped.",
            (f"max by (instance) (ml_ledger_spool_bytes{{{JOB}}})", "{{instance}}"),
            unit="bytes",
            width=5,
        )
    )
    .with_panel(
        lines(
            "Predictions recorded",
            "Calls written to the database.",
            (f"sum by (instance) (rate(ml_ledger_records_total{{{JOB}}}[$__rate_interval]))", "{{instance}}"),
            unit="cps",
            width=5,
        )
    )
    .with_panel(
        lines(
            "Lost records",
            "Not written to a full disk, dropped from a full spool, torn by a crash, or refused by the database.",
            *(
                (
                    f"sum by (instance) (increase(ml_ledger_{name}_total{{{JOB}}}[$__rate_interval]))",
                    f"{{{{instance}}}} {legend}",
                )
                for name, legend in (
                    ("unwritten", "not written"),
                    ("dropped_segments", "segments dropped"),
                    ("torn_records", "torn"),
                    ("refused_records", "refused"),
                )
            ),
            unit="short",
            width=6,
        )
    )
    .with_panel(
        number(
            "Database",
            "1 where the database could be used the last time.",
            (f"min(ml_ledger_database_up{{{JOB}}})", ""),
            unit="none",
            height=8,
            base=RED,
            limits=[(1, "green")],
            none="the ledger is off",
        )
    )
)
