"""*Data*: are the rows that arrive like those the model was trained on? Drift by feature, refused rows."""

from grafana_foundation_sdk.builders.dashboard import Row

from monitoring.dashboards.parts import MODEL_VARIABLE, RED, YELLOW, bars, dashboard, lines, number, or_none, variable

MODEL = 'job="ml-api",model=~"$model"'
FEATURE = f'{MODEL},feature="$feature"'
FEATURE_VARIABLE = variable("feature", 'label_values(ml_feature_reference_share{model=~"$model"}, feature)', many=False)
PSI_LIMITS = [(0.1, YELLOW), (0.2, RED)]
"""Colours: no drift below 0.1, drift above 0.2, where the alert fires."""

_REFUSED = f"rate(ml_refused_rows_total{{{MODEL}}}[$__rate_interval])"
_PREDICTED = f"rate(ml_predictions_total{{{MODEL}}}[$__rate_interval])"

DASHBOARD = (
    dashboard("ml-data", "Data", "Are the rows that arrive like those the models were trained on?")
    .with_variable(MODEL_VARIABLE)
    .with_variable(FEATURE_VARIABLE)
    .with_row(Row("Drift"))
    .with_panel(
        bars(
            "Drift of the features",
            "Population stability index of the last hour's rows against the training split's deciles.",
            (f'sort_desc(model_feature:psi:sum{{{MODEL},window="1h"}})', "{{model}} {{feature}}"),
            unit="none",
            limits=PSI_LIMITS,
        ).max(0.5)
    )
    .with_panel(
        lines(
            "Drift of the features over time",
            "The same over 15 minutes.",
            (f'model_feature:psi:sum{{{MODEL},window="15m"}}', "{{model}} {{feature}}"),
            unit="none",
            limits=PSI_LIMITS,
        )
    )
    .with_panel(
        lines(
            "Drift of the predictions",
            "Population stability index of the predictions against those for the training split.",
            (f"model:prediction_psi:sum{{{MODEL}}}", "{{model}} {{window}}"),
            unit="none",
            limits=PSI_LIMITS,
        )
    )
    .with_row(Row("Reference against recent"))
    .with_panel(
        lines(
            "Rows in the last hour",
            "Below 500 no drift alert fires.",
            (
                f'max by (model) (sum without (decile) (model_feature_decile:rows:increase{{{MODEL},window="1h"}}))',
                "{{model}}",
            ),
            unit="short",
        )
    )
    .with_panel(
        bars(
            "Predictions: reference",
            "Share of each decile, or class, in the predictions for the training split.",
            (f"model_bucket:reference_share:max{{{MODEL}}}", "{{model}} {{bucket}}"),
            unit="percentunit",
        )
    )
    .with_panel(
        bars(
            "Predictions: last hour",
            "Share of each decile, or class, in the recent predictions.",
            (f'model_bucket:recent_share:ratio{{{MODEL},window="1h"}}', "{{model}} {{bucket}}"),
            unit="percentunit",
        )
    )
    .with_panel(
        bars(
            "$feature: reference",
            "Share of the training split's rows in each of its deciles.",
            (f"model_feature_decile:reference_share:max{{{FEATURE}}}", "decile {{decile}}"),
            unit="percentunit",
            width=12,
        )
    )
    .with_panel(
        bars(
            "$feature: last hour",
            "Share of the last hour's rows in each of the training split's deciles.",
            (f'model_feature_decile:recent_share:ratio{{{FEATURE},window="1h"}}', "decile {{decile}}"),
            unit="percentunit",
            width=12,
        )
    )
    .with_row(Row("Refused"))
    .with_panel(
        lines(
            "Refused rows",
            "By feature and reason: what breaks the contract.",
            (
                or_none(f"sum by (model, feature, reason) ({_REFUSED})", "reason"),
                "{{model}} {{feature}} {{reason}}",
            ),
            unit="rowsps",
            width=16,
        )
    )
    .with_panel(
        number(
            "Refused share",
            "Of all rows that arrived.",
            (
                f"(sum by (model) ({_REFUSED}) or 0 * sum by (model) ({_PREDICTED}))"
                f" / ((sum by (model) ({_REFUSED}) or 0 * sum by (model) ({_PREDICTED}))"
                f" + sum by (model) ({_PREDICTED}) > 0)",
                "{{model}}",
            ),
            unit="percentunit",
            width=8,
            height=8,
            limits=[(0.01, YELLOW), (0.1, RED)],
            none="no rows",
        )
    )
)
