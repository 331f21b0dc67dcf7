"""Traces over OTLP, if ``OTEL_EXPORTER_OTLP_ENDPOINT`` is set. Without it they cost nothing."""

from typing import Any

from serving.settings import Settings

NOT_TRACED = ["/livez", "/readyz", "/healthz", "/health", "/metrics", "/docs", "/static_content", "/v2/health"]
"""Parts of URLs that get no spans: probes, scrapes and pages."""


def configuration(settings: Settings) -> dict[str, Any]:
    """BentoML's option ``tracing``.

    The exporter reads the endpoint, headers and the rest from the environment, as the standard has it:
    https://opentelemetry.io/docs/specs/otel/protocol/exporter/.
    """
    if settings.OTEL_EXPORTER_OTLP_ENDPOINT is None:
        return {}
    return {
        "exporter_type": "otlp",
        "sample_rate": settings.OTEL_TRACES_SAMPLER_ARG,
        "excluded_urls": NOT_TRACED,
        "otlp": {"protocol": "http"},
    }
