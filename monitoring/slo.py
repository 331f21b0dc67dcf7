"""The service level objectives, and the recording rules for how fast their error budgets are spent.

Prometheus' rules have no parameters, so ``rules/slo.yml`` is written from here: objectives, windows and what counts as
bad are each defined once. The windows and burn rates of ``alerts.yml`` are those of the Google SRE workbook,
https://sre.google/workbook/alerting-on-slos/.
"""

from dataclasses import dataclass

JOB = "ml-api"
"""The service's job name in Prometheus."""
GRPC_FAILED = ("UNAVAILABLE", "INTERNAL", "UNKNOWN", "DEADLINE_EXCEEDED")
"""gRPC status codes that correspond to 5xx of HTTP."""
WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d", "30d")
"""Windows of the burn rates; the last is that of the budget itself."""


@dataclass(frozen=True)
class Objective:
    """The share of good requests promised over 30 days.

    Attributes:
        name: value of the label ``slo``.
        target: share of good requests.
        requests, bad: PromQL of a count by ``job``; ``WINDOW`` in them becomes the window.
    """

    name: str
    target: float
    requests: str
    bad: str


_HTTP = "bentoml_service_request"
_TIMED_HTTP = f'job="{JOB}",http_response_code=~"2..",endpoint!~".*/batch"'
_FAILED_CODES = "|".join(GRPC_FAILED)
_TIMED_GRPC = f'job="{JOB}",grpc_code="OK"'

AVAILABILITY = Objective(
    "availability",
    0.999,
    requests=f"""\
sum by (job) (
  increase({_HTTP}_total{{job="{JOB}"}}[WINDOW])
  or increase(grpc_server_handled_total{{job="{JOB}"}}[WINDOW])
)""",
    bad=f"""\
sum by (job) (
  increase({_HTTP}_total{{job="{JOB}",http_response_code=~"5.."}}[WINDOW])
  or increase(grpc_server_handled_total{{job="{JOB}",grpc_code=~"{_FAILED_CODES}"}}[WINDOW])
)""",
)
"""5xx and the corresponding gRPC codes are bad. 4xx are the client's fault; 429 (shedding) has its own alerts."""

LATENCY = Objective(
    "latency",
    0.99,
    requests=f"""\
sum by (job) (
  increase({_HTTP}_duration_seconds_count{{{_TIMED_HTTP}}}[WINDOW])
  or increase(grpc_server_handling_seconds_count{{{_TIMED_GRPC}}}[WINDOW])
)""",
    bad=f"""\
sum by (job) (
  increase({_HTTP}_duration_seconds_count{{{_TIMED_HTTP}}}[WINDOW])
  or increase(grpc_server_handling_seconds_count{{{_TIMED_GRPC}}}[WINDOW])
)
- sum by (job) (
  increase({_HTTP}_duration_seconds_bucket{{{_TIMED_HTTP},le="0.1"}}[WINDOW])
  or increase(grpc_server_handling_seconds_bucket{{{_TIMED_GRPC},le="0.1"}}[WINDOW])
)""",
)
"""Answered within 100 ms. Counts successes only, and no REST batches: their time depends on their rows."""

OBJECTIVES = (AVAILABILITY, LATENCY)


def rules() -> str:
    """The text of ``rules/slo.yml``."""
    groups = [_group(f"slo-{window}", "1m" if window.endswith("d") else "30s", _counts(window)) for window in WINDOWS]
    return "".join(
        [
            "# Written by `make dashboards` from monitoring/slo.py: change it there.\ngroups:\n",
            *groups,
            _group("slo-burn-rate", "30s", _burn_rates()),
        ]
    )


def _counts(window: str) -> list[str]:
    return [
        rule
        for objective in OBJECTIVES
        for rule in (
            _rule("slo:requests:increase", objective.requests.replace("WINDOW", window), objective.name, window),
            _rule(
                "slo:bad_requests:increase",
                # If there is no series of bad requests, count 0.
                f"{objective.bad}\nor 0 * {objective.requests}".replace("WINDOW", window),
                objective.name,
                window,
            ),
        )
    ]


def _burn_rates() -> list[str]:
    budgets = [
        _rule("slo:error_budget:ratio", f"vector({1 - objective.target:.6g})", objective.name)
        for objective in OBJECTIVES
    ]
    return [
        *budgets,
        _rule("slo:errors:ratio", "slo:bad_requests:increase / (slo:requests:increase > 0)"),
        _rule("slo:burn_rate:ratio", "slo:errors:ratio / on (slo) group_left () slo:error_budget:ratio"),
    ]


def _rule(record: str, expression: str, slo: str = "", window: str = "") -> str:
    body = "\n".join(f"          {line}" for line in expression.splitlines())
    labels = {"slo": slo, "window": window}
    given = ", ".join(f"{name}: {value}" for name, value in labels.items() if value)
    return f"      - record: {record}\n        expr: |\n{body}\n" + (f"        labels: {{{given}}}\n" if given else "")


def _group(name: str, interval: str, rules: list[str]) -> str:
    return f"  - name: {name}\n    interval: {interval}\n    rules:\n{''.join(rules)}"
