"""Traces over OTLP, for whoever sets ``OTEL_EXPORTER_OTLP_ENDPOINT``; without it no request pays for them."""

from collections.abc import Iterable
from typing import Any

from starlette.middleware import Middleware

from serving.settings import Settings

NOT_TRACED = ["/livez", "/readyz", "/healthz", "/health", "/metrics", "/docs", "/static_content", "/v2/health"]
"""Paths, as parts of the URL, that have no spans: probes, scrapes, pages."""


def configuration(settings: Settings) -> dict[str, Any]:
    """BentoML's ``tracing``.

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


def without_spans(middlewares: Iterable[Middleware]) -> list[Middleware]:
    """All but OpenTelemetry's: it costs a third of a request even where every path is excluded."""
    return [one for one in middlewares if getattr(one.cls, "__module__", "").partition(".")[0] != "opentelemetry"]
