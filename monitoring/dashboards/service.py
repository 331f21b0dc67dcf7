"""*Service*: what users get. Traffic, errors, latency, saturation by protocol and route; the error budgets."""

from grafana_foundation_sdk.builders.dashboard import Row

from monitoring.dashboards.parts import GREEN, RED, YELLOW, dashboard, lines, number, or_none, quantiles
from monitoring.slo import GRPC_FAILED

SERVICE = 'job="ml-api"'
BUDGET_LIMITS = [(0, YELLOW), (0.25, GREEN)]
_HTTP_RATE = f"rate(bentoml_service_request_total{{{SERVICE}}}[$__rate_interval])"
_GRPC_RATE = f"rate(grpc_server_handled_total{{{SERVICE}}}[$__rate_interval])"
_SHED_RATE = 'sum by (model) (rate(ml_shed_requests_total{job="ml-api"}[$__rate_interval]))'

NO_TLS = "no TLS"
_EXPIRY = 'ml_tls_certificate_expiry_timestamp_seconds{job="ml-api"}'


def _failed(protocol: str, rate: str, bad: str) -> tuple[str, str]:
    """The share of a protocol's requests that failed by our fault."""
    failed = rate.replace('"}', f'",{bad}}}')
    return f"(sum({failed}) or 0 * sum({rate})) / (sum({rate}) > 0)", protocol


def _budget_left(slo: str) -> tuple[str, str]:
    return f'1 - slo:burn_rate:ratio{{slo="{slo}",window="30d"}}', "left"


DASHBOARD = (
    dashboard("ml-service", "Service", "What users get: traffic, errors, latency, saturation, error budgets.")
    .with_row(Row("Now"))
    .with_panel(
        number(
            "Requests", "Over HTTP and gRPC.", ("sum(protocol:requests:rate5m)", ""), unit="reqps", none="no traffic"
        )
    )
    .with_panel(
        number(
            "Failed",
            "Share of requests answered 5xx, or by gRPC's counterparts, over 5 minutes.",
            ('slo:errors:ratio{slo="availability",window="5m"}', ""),
            unit="percentunit",
            limits=[(0.001, YELLOW), (0.0144, RED)],
            none="no traffic",
        )
    )
    .with_panel(
        number(
            "Slow",
            "Share of successful requests over 100 ms, over 5 minutes; no batches.",
            ('slo:errors:ratio{slo="latency",window="5m"}', ""),
            unit="percentunit",
            limits=[(0.01, YELLOW), (0.144, RED)],
            none="no traffic",
        )
    )
    .with_panel(
        number(
            "Shed",
            "Share of requests refused by reason of overload, over 5 minutes.",
            ("job:shed_requests:ratio_rate5m", ""),
            unit="percentunit",
            limits=[(0.005, YELLOW), (0.05, RED)],
            none="no traffic",
        )
    )
    .with_panel(
        number(
            "Availability budget left",
            "Of the 0.1 % of requests that may fail within 30 days; below 0 the objective is broken.",
            _budget_left("availability"),
            unit="percentunit",
            limits=BUDGET_LIMITS,
            base=RED,
            none="no traffic",
        )
    )
    .with_panel(
        number(
            "Latency budget left",
            "Of the 1 % of requests that may take over 100 ms within 30 days; below 0 the objective is broken.",
            _budget_left("latency"),
            unit="percentunit",
            limits=BUDGET_LIMITS,
            base=RED,
            none="no traffic",
        )
    )
    .with_panel(
        number(
            "Ready",
            "Instances that answer /readyz.",
            ('sum(up{job="ml-api-ready"}) or vector(0)', ""),
            unit="none",
            limits=[(1, GREEN)],
            base=RED,
        )
    )
    .with_panel(
        number(
            "Alerts firing",
            "See docs/runbook.md for each.",
            ('count(ALERTS{alertstate="firing"}) or vector(0)', ""),
            unit="none",
            limits=[(1, RED)],
        )
    )
    .with_row(Row("Traffic"))
    .with_panel(
        lines(
            "Requests by protocol",
            "Probes and scrapes are not counted.",
            (f"sum({_HTTP_RATE})", "http"),
            (f"sum({_GRPC_RATE})", "grpc"),
            unit="reqps",
            stacked=True,
        )
    )
    .with_panel(
        lines(
            "Requests by route",
            "HTTP's routes and gRPC's methods.",
            (f"sum by (endpoint) ({_HTTP_RATE})", "{{endpoint}}"),
            (f"sum by (grpc_method) ({_GRPC_RATE})", "{{grpc_method}}"),
            unit="reqps",
        )
    )
    .with_panel(
        lines(
            "Answers by status",
            "HTTP's status codes and gRPC's.",
            (f"sum by (http_response_code) ({_HTTP_RATE})", "{{http_response_code}}"),
            (f"sum by (grpc_code) ({_GRPC_RATE})", "{{grpc_code}}"),
            unit="reqps",
        )
    )
    .with_row(Row("Errors"))
    .with_panel(
        lines(
            "Failed by protocol",
            f"Share of requests answered 5xx, or {', '.join(GRPC_FAILED)}.",
            _failed("http", _HTTP_RATE, 'http_response_code=~"5.."'),
            _failed("grpc", _GRPC_RATE, 'grpc_code=~"' + "|".join(GRPC_FAILED) + '"'),
            unit="percentunit",
            limits=[(0.001, YELLOW)],
            width=6,
        )
    )
    .with_panel(
        lines(
            "Refused by route",
            "Requests that a client must change before they can succeed (4xx).",
            (
                or_none(
                    "sum by (endpoint, http_response_code) "
                    f'(rate(bentoml_service_request_total{{{SERVICE},http_response_code=~"4.."}}[$__rate_interval]))',
                    "endpoint",
                ),
                "{{endpoint}} {{http_response_code}}",
            ),
            unit="reqps",
            width=6,
        )
    )
    .with_panel(
        lines(
            "Refused for want of a key",
            "Calls without a key, with a wrong one, or with one for something else; limited: too many wrong ones came "
            "from one address.",
            (
                or_none('sum by (reason) (rate(ml_access_refused_total{job="ml-api"}[$__rate_interval]))', "reason"),
                "{{reason}}",
            ),
            unit="reqps",
            width=6,
        )
    )
    .with_panel(
        lines(
            "Burn rate of the error budgets",
            "1 spends a budget in exactly 30 days; 14.4 over an hour pages.",
            ('slo:burn_rate:ratio{window=~"1h|6h|3d"}', "{{slo}} {{window}}"),
            unit="none",
            limits=[(1, YELLOW), (14.4, RED)],
            none="no traffic",
            width=6,
        )
    )
    .with_row(Row("Latency"))
    .with_panel(
        lines(
            "HTTP latency",
            "From the request's arrival to its answer.",
            *quantiles("bentoml_service_request_duration_seconds", SERVICE, by="", levels=(0.5, 0.95, 0.99)),
            unit="s",
            limits=[(0.1, YELLOW)],
        )
    )
    .with_panel(
        lines(
            "gRPC latency",
            "From the call's arrival to its answer.",
            *quantiles("grpc_server_handling_seconds", SERVICE, by="", levels=(0.5, 0.95, 0.99)),
            unit="s",
            limits=[(0.1, YELLOW)],
        )
    )
    .with_panel(
        lines(
            "p99 by route",
            "HTTP's routes and gRPC's methods; batches take as long as they have rows.",
            *quantiles("bentoml_service_request_duration_seconds", SERVICE, by="endpoint", levels=(0.99,)),
            *quantiles("grpc_server_handling_seconds", SERVICE, by="grpc_method", levels=(0.99,)),
            unit="s",
            limits=[(0.1, YELLOW)],
        )
    )
    .with_row(Row("Saturation"))
    .with_panel(
        lines(
            "In progress",
            "Requests that are being answered, by protocol and route.",
            ('sum by (endpoint) (bentoml_service_request_in_progress{job="ml-api"})', "{{endpoint}}"),
            ('sum by (grpc_method) (grpc_server_in_progress{job="ml-api"})', "{{grpc_method}}"),
            unit="none",
            width=6,
        )
    )
    .with_panel(
        lines(
            "Wait in the runner's queue",
            "How long rows wait for the batch before them; over MAX_LATENCY_MS requests are shed.",
            *quantiles("ml_queue_wait_seconds", 'job="ml-api"', by="model"),
            unit="s",
            width=6,
        )
    )
    .with_panel(
        lines(
            "Shed by model",
            "Requests refused by reason of overload.",
            (f"{_SHED_RATE} or 0 * max by (model) (ml_model_info)", "{{model}}"),
            unit="reqps",
            width=6,
        )
    )
    .with_panel(
        lines(
            "Worker starts",
            "A step after the start of the service is a worker that died.",
            ('sum by (instance) (ml_worker_starts_total{job="ml-api"})', "{{instance}}"),
            unit="none",
            width=6,
        )
    )
    .with_row(Row("Certificates"))
    .with_panel(
        lines(
            "Days until a certificate expires",
            "By setting: the first certificate to expire in its file, of those in use. The alert CertificateExpires "
            "comes 14 days before.",
            (f"(min by (instance, setting) ({_EXPIRY}) - time()) / 86400", "{{setting}} {{instance}}"),
            unit="d",
            limits=[(14, YELLOW)],
            none=NO_TLS,
            width=12,
        )
    )
    .with_panel(
        lines(
            "Certificates that are refused",
            "1 while the files of now cannot be used and the last good certificate goes on.",
            ('max by (instance) (ml_tls_certificate_refused{job="ml-api"})', "{{instance}}"),
            unit="none",
            limits=[(1, RED)],
            none=NO_TLS,
            width=12,
        )
    )
)
