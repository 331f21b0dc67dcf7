"""What browsers are told: what a page may load, who may frame it, and which other sites may call the API."""

from collections.abc import Sequence

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from serving.access import HEADER
from serving.telemetry import request_id

NO_SNIFF = {"x-content-type-options": "nosniff"}
"""For files: they are what their media type says."""
_CORS_SECONDS = 600


def page_headers(*, scripts: str = "'self'", styles: str = "'self'", images: str = "'self'") -> dict[str, str]:
    """The headers of an HTML page: it loads nothing but our files, runs nothing else, and nobody else frames it.

    Args:
        scripts, styles, images: the sources of each, as in a ``Content-Security-Policy``.
    """
    policy = (
        f"default-src 'none'; style-src {styles}; script-src {scripts}; img-src {images}; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'self'"
    )
    # The address of a page may have the filters that somebody has asked for.
    return {"content-security-policy": policy, "referrer-policy": "same-origin", **NO_SNIFF}


def allow_origins(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """The application, called by pages of these origins too; without any, as it is."""
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=["GET", "POST"],
        allow_headers=[HEADER, "content-type", request_id.HEADER, "inference-header-content-length"],
        expose_headers=[request_id.HEADER, "retry-after", "inference-header-content-length"],
        max_age=_CORS_SECONDS,
    )
